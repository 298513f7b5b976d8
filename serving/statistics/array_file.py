"""Arrays and a header in one file: an `.npz` without pickle, the same bytes for the same content.

Reading bounds everything before it allocates: length, members, datatypes, shapes. It knows the container and nothing of
what the numbers mean.
"""

import io
import json
import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.errors import ConfigError

_HEADER = "header"
_RANK_MAX = 3


@dataclass(frozen=True, slots=True)
class ArrayFile:
    """A kind of file: what it is called in errors, its format's number, its arrays' datatypes and its bounds.

    `bytes_max` holds for the file, and for all its members together when they are not `compressed` any more.
    """

    called: str
    format: int
    dtypes: Mapping[str, np.dtype[Any]]
    bytes_max: int
    compressed: bool = False

    def write(self, header: Mapping[str, Any], **arrays: NDArray[Any]) -> bytes:
        """Return the file of a header and all arrays. Raises ConfigError when it is too long."""
        text = json.dumps({"format": self.format, **header}, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        members = {_HEADER: np.frombuffer(text.encode(), np.uint8), **arrays}
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, dtype in self._members().items():
                member = io.BytesIO()
                array = np.ascontiguousarray(members[name], dtype)
                np.lib.format.write_array(member, array, (1, 0), allow_pickle=False)
                info = zipfile.ZipInfo(f"{name}.npy")  # dated 1980, whenever it is written
                info.compress_type = self._compression
                archive.writestr(info, member.getvalue(), compresslevel=1)
        data = buffer.getvalue()
        if len(data) > self.bytes_max:
            raise ConfigError(f"{self.called} takes {len(data)} bytes, at most {self.bytes_max}")
        return data

    def read(self, data: bytes) -> tuple[Mapping[str, Any], Mapping[str, NDArray[Any]]]:
        """Return the header and the arrays of a file. Raises ConfigError for anything but what `write` makes."""
        if len(data) > self.bytes_max:
            raise ConfigError(f"{self.called} takes {len(data)} bytes, at most {self.bytes_max}")
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                self._check_members(archive)
                arrays = {name: _read_member(archive, name, dtype) for name, dtype in self._members().items()}
            header = json.loads(arrays.pop(_HEADER).tobytes())
            if not isinstance(header, dict) or header.get("format") != self.format:
                raise ValueError(f"its format is not {self.format}")  # noqa: TRY301 - one message for all
        except (ValueError, OSError, EOFError, RecursionError, NotImplementedError, zipfile.BadZipFile) as error:
            raise ConfigError(f"this is not {self.called}: {error}") from None
        return header, arrays

    @property
    def _compression(self) -> int:
        return zipfile.ZIP_DEFLATED if self.compressed else zipfile.ZIP_STORED

    def _members(self) -> dict[str, np.dtype[Any]]:
        return {_HEADER: np.dtype("<u1"), **self.dtypes}

    def _check_members(self, archive: zipfile.ZipFile) -> None:
        members = archive.infolist()
        if sorted(item.filename for item in members) != sorted(f"{name}.npy" for name in self._members()):
            raise ValueError(f"it holds {[item.filename for item in members][:8]}")
        if any(item.compress_type != self._compression for item in members):
            raise ValueError("it is compressed in another way")
        if sum(item.file_size for item in members) > self.bytes_max:
            raise ValueError(f"it takes more than {self.bytes_max} bytes")


def _read_member(archive: zipfile.ZipFile, name: str, expected: np.dtype[Any]) -> NDArray[Any]:
    info = archive.getinfo(f"{name}.npy")
    with archive.open(info) as member:
        stream = io.BytesIO(member.read(info.file_size))
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError(f"{name} has another version of the .npy format")
    shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    content = stream.read()
    is_whole = math.prod(shape) * dtype.itemsize == len(content)
    if dtype != expected or is_fortran or len(shape) > _RANK_MAX or min(shape, default=0) < 0 or not is_whole:
        raise ValueError(f"{name} is a {dtype} of shape {shape}")
    return np.frombuffer(content, dtype).reshape(shape)
