"""Reproducible .npz files: the same arrays give the same bytes, whatever the day, the system and the zlib.

Members are stored, not compressed, in the order of their names, with the oldest date that zip knows. Arrays of Python
objects are refused in both directions, because reading them would run code.
"""

import io
import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np

from serving.errors import PackageError
from serving.types import Array

_DATE = (1980, 1, 1, 0, 0, 0)
_UNIX = 3
_MODE = 0o100644 << 16
ARRAYS_MAX = 100_000
INPUT, OUTPUT = "input/", "output/"


def npz_bytes(arrays: Mapping[str, Array]) -> bytes:
    """Return a .npz file of the arrays. Strings may be Python `str` objects; they are written as numpy's own."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, array in sorted(arrays.items()):
            member = zipfile.ZipInfo(f"{name}.npy", _DATE)
            member.create_system, member.external_attr = _UNIX, _MODE
            with archive.open(member, "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, _storable(name, array), version=(1, 0), allow_pickle=False)
    return buffer.getvalue()


def read_npz(data: bytes, *, bytes_max: int) -> dict[str, Array]:
    """Read a .npz file whose arrays hold at most `bytes_max` bytes in all. Raises PackageError."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            _check_members(members, bytes_max)
            return {member.filename.removesuffix(".npy"): _read(archive, member) for member in members}
    except (OSError, ValueError, EOFError, KeyError, NotImplementedError, RuntimeError, zipfile.BadZipFile) as error:
        raise PackageError(f"not a .npz file that can be read: {error}") from None


@dataclass(frozen=True, slots=True)
class Golden:
    """Golden requests: inputs by name, all of the same number of rows, and the answers that were given to them."""

    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]

    def to_bytes(self) -> bytes:
        """Write them as a .npz file with members `input/NAME` and `output/NAME`."""
        inputs = {INPUT + name: array for name, array in self.inputs.items()}
        return npz_bytes(inputs | {OUTPUT + name: array for name, array in self.outputs.items()})

    @classmethod
    def from_bytes(cls, data: bytes, *, bytes_max: int = 1 << 30) -> Self:
        """Read them. Raises PackageError."""
        arrays = read_npz(data, bytes_max=bytes_max)
        for name in arrays:
            if not name.startswith((INPUT, OUTPUT)):
                raise PackageError(f"golden requests hold '{name}', expected {INPUT}NAME and {OUTPUT}NAME")
        sides = ({name.removeprefix(side): array for name, array in arrays.items() if name.startswith(side)}
                 for side in (INPUT, OUTPUT))  # fmt: skip
        return cls(*sides)


def _storable(name: str, array: Array) -> Array:
    if array.dtype != np.object_:
        return np.ascontiguousarray(array) if array.ndim else array
    if not all(isinstance(element, str) for element in array.reshape(-1)):
        raise PackageError(f"array '{name}' holds Python objects, expected numbers or strings")
    return array.astype(np.str_)


def _check_members(members: list[zipfile.ZipInfo], bytes_max: int) -> None:
    names = [member.filename for member in members]
    if len(names) > ARRAYS_MAX or len(set(names)) != len(names):
        raise PackageError("a .npz file holds too many arrays, or one twice")
    held = sum(member.file_size for member in members)
    if held > bytes_max:
        raise PackageError(f"a .npz file says that it holds {held} bytes, expected at most {bytes_max}")


def _read(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Array:
    """Read one array; its header must tell as many bytes as there are, so that it cannot ask for more memory."""
    with archive.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran_order, dtype = header(stream)
        if dtype.hasobject:
            raise ValueError(f"array '{member.filename}' holds Python objects")
        content = stream.read()  # no more than `file_size` bytes, whatever is compressed
        if len(content) != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"array '{member.filename}' is not as long as its header says")
        array: Array = np.frombuffer(content, dtype).reshape(shape, order="F" if fortran_order else "C")
        return array
