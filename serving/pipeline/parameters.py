"""The keys of one declared step, read with their types and bounds; what is left over is refused. Pure."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from serving.config import nearest
from serving.errors import LoadError
from serving.pipeline.files import Files, PackedFiles, UnreadableFileError
from serving.pipeline.step import Argument, Spread
from serving.types import DATATYPES, DYNAMIC, Array, Datatype, TensorSpec

DIMENSIONS_MAX = 32
LENGTH_MAX = 1 << 31
"""The most dimensions of a declared tensor, and the longest of them."""

_LARGEST = sys.float_info.max


class Parameters:
    """One table of `[pipeline]`. Every error is a LoadError that begins with `where`.

    `files` are those that a step may name.
    """

    def __init__(self, table: Mapping[str, Any], where: str, files: Files, *, allow_user_code: bool = False) -> None:
        self._table = dict(table)
        self._known: set[str] = set()
        self._files = files
        self.allow_user_code = allow_user_code
        self.where = where

    def error(self, message: str) -> LoadError:
        """Return an error about this step."""
        return LoadError(f"{self.where}: {message}")

    def has(self, key: str) -> bool:
        """Say whether a key was given."""
        self._known.add(key)
        return key in self._table

    def text(self, key: str, default: str | None = None, choices: Sequence[str] = ()) -> str:
        """Return a string."""
        value = self._take(key, default)
        if not isinstance(value, str) or not value:
            raise self.error(f"{key} = {value!r}, expected a string")
        if choices and value not in choices:
            raise self.error(f"{key} = {value!r}{nearest(value, choices)}")
        return value

    def flag(self, key: str, default: bool) -> bool:
        """Return true or false."""
        value = self._take(key, default)
        if not isinstance(value, bool):
            raise self.error(f"{key} = {value!r}, expected true or false")
        return value

    def whole(self, key: str, default: int | None = None, minimum: int = 1, maximum: int = 1 << 31) -> int:
        """Return an integer within bounds."""
        value = self._take(key, default)
        if type(value) is not int or not minimum <= value <= maximum:
            raise self.error(f"{key} = {value!r}, expected a whole number from {minimum} to {maximum}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """Return a finite number."""
        value = self._take(key, default)
        if not _is_number(value):
            raise self.error(f"{key} = {value!r}, expected a finite number")
        return float(value)

    def numbers(self, key: str, default: float | None, columns: int, datatype: Datatype) -> Argument:
        """Return one finite number for all columns, or a list of one for each."""
        value = self._take(key, default)
        if _is_number(value):
            array, spread = _floats([value]), Spread.ONE
        else:
            array, spread = self._list_of_numbers(key, value), Spread.COLUMN
            if len(array) != columns:
                expected = f"{columns}, one for each column" if columns >= 0 else "one number, as columns are open"
                raise self.error(f"{key} has {len(array)} numbers, expected {expected}")
        with np.errstate(over="ignore"):
            array = array.astype(datatype.dtype)
        if not np.isfinite(array).all():
            raise self.error(f"{key}: a number does not fit {datatype.wire_name}")
        return Argument(array, spread)

    def increasing(self, key: str) -> Array:
        """Return a list of finite numbers, each larger than the one before, as float64."""
        array = self._list_of_numbers(key, self._take(key))
        if not np.greater(array[1:], array[:-1]).all():
            raise self.error(f"{key}: every number must be larger than the one before")
        return array

    def columns(self, key: str, count: int) -> Array:
        """Return positions of columns."""
        value = self._take(key)
        if not isinstance(value, list) or not value or not all(type(item) is int for item in value):
            raise self.error(f"{key} = {_short(value)}, expected a list of column numbers")
        for item in value:
            if not 0 <= item < count:
                raise self.error(f"{key}: there is no column {item}, the tensor has columns 0 to {count - 1}")
        return np.array(value, np.int64)

    def lengths(self, key: str) -> tuple[int, ...]:
        """Return dimensions behind the rows."""
        value = self._take(key)
        is_list = isinstance(value, list) and len(value) < DIMENSIONS_MAX
        if not is_list or not all(type(item) is int and 0 < item <= 1 << 24 for item in value):
            raise self.error(f"{key} = {_short(value)}, expected the lengths behind the rows, such as [4]")
        return tuple(value)

    def buckets(self, maximum: int) -> tuple[int, ...]:
        """Return `length`, or `lengths`, of which a batch takes the least that holds its longest row."""
        if self.has("length") == self.has("lengths"):
            raise self.error("expected either length, for all batches, or lengths, of which a batch takes one")
        if self.has("length"):
            return (self.whole("length", maximum=maximum),)
        lengths = self.increasing("lengths")
        if (lengths != np.floor(lengths)).any() or lengths[0] < 1 or lengths[-1] > maximum:
            raise self.error(f"lengths: expected whole numbers from 1 to {maximum}")
        return tuple(int(length) for length in lengths)

    def names(self, key: str) -> tuple[str, ...]:
        """Return a list of strings."""
        value = self._take(key)
        if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
            raise self.error(f"{key} = {_short(value)}, expected a list of strings")
        return tuple(value)

    def labels(self, count: int) -> Array | None:
        """Return `labels`, or the lines of the file `labels_file`, as strings [count]; None without either."""
        if self.has("labels") and self.has("labels_file"):
            raise self.error("there are both labels and labels_file, expected one of them")
        if self.has("labels"):
            labels = self.names("labels")
        elif self.has("labels_file"):
            labels = self._lines("labels_file")
        else:
            return None
        if len(labels) != count:
            raise self.error(f"there are {len(labels)} labels, expected {count}, one for each column")
        return np.array(labels, np.object_)

    def categories(self, columns: int) -> list[list[Any]]:
        """Return the known values of each column: one list for the only column, or one list of lists."""
        value: Any = self._take("categories")
        if isinstance(value, list) and value and not all(isinstance(item, list) for item in value):
            value = [value]
        is_right = isinstance(value, list) and value and all(isinstance(item, list) and item for item in value)
        if not is_right or not all(isinstance(item, str | int | float) for items in value for item in items):
            raise self.error(f"categories = {_short(value)}, expected a list of values for each column")
        if len(value) != columns:
            raise self.error(f"categories has lists for {len(value)} columns, the tensor has {columns}")
        for items in value:
            if len(set(items)) != len(items):
                raise self.error("categories: a value is there twice")
        return list(value)

    def datatype(self, key: str, allowed: Sequence[Datatype]) -> Datatype:
        """Return a datatype by its name in the protocol."""
        names = [item.wire_name for item in allowed]
        return DATATYPES[self.text(key, choices=names)]

    def file(self, key: str) -> bytes:
        """Return the bytes of a file that lies beside the graph, of bounded length."""
        try:
            return self._files.read(self.text(key))
        except UnreadableFileError as error:
            raise self.error(f"{key}: {error}") from None

    def _lines(self, key: str) -> tuple[str, ...]:
        """Return the lines of a text file; only line ends that editors write end one."""
        try:
            text = self.file(key).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise self.error(f"{key}: {self.text(key)!r} is not valid UTF-8 (byte {error.start})") from None
        lines = text.replace("\r\n", "\n").removesuffix("\n").split("\n")
        return tuple(lines) if text else ()

    def finish(self) -> None:
        """Refuse what nobody has asked for."""
        for key in self._table:
            if key not in self._known:
                raise self.error(f"unknown key '{key}'{nearest(key, self._known)}")

    def _take(self, key: str, default: Any = None) -> Any:
        self._known.add(key)
        if key in self._table:
            return self._table[key]
        if default is None:
            raise self.error(f"{key} is missing")
        return default

    def _list_of_numbers(self, key: str, value: Any) -> Array:
        if not isinstance(value, list) or not value or not all(_is_number(item) for item in value):
            raise self.error(f"{key} = {_short(value)}, expected finite numbers")
        return _floats(value)


def declared(table: Mapping[str, Any]) -> TensorSpec:
    """Read one table of `[[pipeline.inputs]]`. Raises LoadError."""
    parameters = Parameters(table, "[[pipeline.inputs]]", PackedFiles())
    name = parameters.text("name")
    parameters.where += f" '{name}'"
    datatype = parameters.datatype("datatype", tuple(Datatype))
    is_binary = parameters.flag("binary", default=False)
    if is_binary and datatype is not Datatype.BYTES:
        raise parameters.error("binary is for BYTES alone")
    is_ragged = parameters.flag("ragged", default=False)
    if is_ragged and datatype is Datatype.BYTES:
        raise parameters.error("ragged is for numbers, expected another datatype than BYTES")
    shape = table.get("shape")
    parameters.has("shape")
    parameters.finish()
    if not isinstance(shape, list) or not all(type(item) is int and -1 <= item <= LENGTH_MAX for item in shape):
        raise parameters.error(f"shape = {_short(shape)}, expected a list of lengths such as [-1, 4]")
    if not 0 < len(shape) <= DIMENSIONS_MAX:
        raise parameters.error(f"shape = {_short(shape)}, expected a list of lengths such as [-1, 4]")
    if shape[0] != -1:
        raise parameters.error(f"shape = {shape}, expected -1 in front, which stands for the rows")
    if is_ragged and DYNAMIC not in shape[1:]:
        raise parameters.error(f"shape = {shape} is the same for all rows, expected a -1 behind the rows with ragged")
    return TensorSpec(name, datatype, tuple(shape), is_binary, is_ragged)


def _floats(values: Sequence[float]) -> Array:
    return np.array(values, np.float64)


def _is_number(value: Any) -> bool:
    return type(value) in {int, float} and -_LARGEST <= value <= _LARGEST


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:60] + "..."
