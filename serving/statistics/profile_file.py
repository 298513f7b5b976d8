"""How a reference profile lies in a file: an `.npz` of four arrays, uncompressed, the same bytes for the same content.

Reading bounds everything before it allocates: length, members, datatypes, shapes. Nothing is unpickled. It knows the
container and nothing of what the numbers mean.
"""

import io
import json
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.errors import ConfigError

FORMAT = 1
FILE_BYTES_MAX = 4 << 20

_DTYPES: Mapping[str, np.dtype[Any]] = {
    "header": np.dtype("<u1"),
    "edges": np.dtype("<f8"),
    "counts": np.dtype("<u4"),
    "moments": np.dtype("<f8"),
}


def write(header: Mapping[str, Any], **arrays: NDArray[Any]) -> bytes:
    """Return the file of a header and arrays `edges`, `counts`, `moments`. Raises ConfigError when it is too long."""
    text = json.dumps({"format": FORMAT, **header}, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    members = {"header": np.frombuffer(text.encode(), np.uint8), **arrays}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, dtype in _DTYPES.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, np.ascontiguousarray(members[name], dtype), (1, 0), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), member.getvalue())  # dated 1980, whenever it is written
    data = buffer.getvalue()
    if len(data) > FILE_BYTES_MAX:
        raise ConfigError(
            f"the reference profile takes {len(data)} bytes, at most {FILE_BYTES_MAX}; use fewer features"
        )
    return data


def read(data: bytes) -> tuple[Mapping[str, Any], Mapping[str, NDArray[Any]]]:
    """Return the header and the arrays of a file. Raises ConfigError for anything but what `write` makes."""
    if len(data) > FILE_BYTES_MAX:
        raise ConfigError(f"the reference profile takes {len(data)} bytes, at most {FILE_BYTES_MAX}")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sorted(archive.namelist()) != sorted(f"{name}.npy" for name in _DTYPES):
                raise ValueError(f"it holds {archive.namelist()[:8]}")  # noqa: TRY301 - one message for all
            arrays = {name: _read_member(archive, name) for name in _DTYPES}
        header = json.loads(arrays["header"].tobytes())
        if not isinstance(header, dict) or header.get("format") != FORMAT:
            raise ValueError(f"its format is not {FORMAT}")  # noqa: TRY301
    except (ValueError, OSError, EOFError, RecursionError, NotImplementedError, zipfile.BadZipFile) as error:
        raise ConfigError(f"this is not a reference profile: {error}") from None
    return header, arrays


def _read_member(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    info = archive.getinfo(f"{name}.npy")
    if info.compress_type != zipfile.ZIP_STORED or info.file_size > FILE_BYTES_MAX:
        raise ValueError(f"{name} is compressed or too long")
    stream = io.BytesIO(archive.read(info))
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError(f"{name} has another version of the .npy format")
    shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    content = stream.read()
    elements = 1
    for dimension in shape:
        elements *= dimension
    if dtype != _DTYPES[name] or is_fortran or len(shape) > 2 or elements * dtype.itemsize != len(content):
        raise ValueError(f"{name} is a {dtype} of shape {shape}")
    return np.frombuffer(content, dtype).reshape(shape)
