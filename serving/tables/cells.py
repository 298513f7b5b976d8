"""Columns as they were stored, turned into the datatype that a tensor has. Pure.

An error names the row, counted from 0 without a header, and the column. Nothing is bent to fit: a number that the
datatype cannot hold, a fraction for an integer, a missing value where there is no NaN are refused. Rounding to a
shorter float is what models are fed with, and allowed.
"""

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.errors import ConfigError
from serving.types import Array, Datatype

MISSING = frozenset({"", "na", "n/a", "nan", "null", "none"})
"""Cells of text, in small letters, that mean a missing number."""
_SHOWN_CHARACTERS = 40
_NUMBERS_OR_CELLS = frozenset("fiubUSO")
"""Kinds of numpy's. Of others Python makes numbers without a word: of a date its nanoseconds, of 1+2j its 1."""


def as_datatype(values: Array, datatype: Datatype, *, column: str, start: int) -> Array:
    """Return values in the form in which a datatype lies in memory; their first row is number `start`.

    Raises ConfigError naming the first value that cannot be.
    """
    if datatype is Datatype.BYTES:
        return _strings(values, column, start)
    if values.dtype.kind not in _NUMBERS_OR_CELLS:
        first = str(values.reshape(-1)[:1])[:_SHOWN_CHARACTERS]
        raise ConfigError(f"row {start}, column '{column}': {first} of type {values.dtype}, expected a number")
    numbers = values if values.dtype.kind in "fiub" else _numbers(values, datatype, column, start)
    if datatype is Datatype.BOOL:
        return _bools(numbers, column, start)
    if datatype is Datatype.BF16:
        return _bfloat16(_floats(numbers, Datatype.FP32, column, start))
    if datatype.dtype.kind == "f":
        return _floats(numbers, datatype, column, start)
    return _integers(numbers, datatype, column, start)


def guess(values: Array) -> Array:
    """Return a column of text as what it looks like: bool, int64, float64 with NaN for missing cells, or `str`."""
    words = {cell.strip().lower() for cell in values}
    if words <= {"true", "false"} and words:
        return np.array([cell.strip().lower() == "true" for cell in values], np.bool_)
    try:
        numbers = np.array([float("nan") if _is_missing(cell) else _plain(cell) for cell in values], np.float64)
    except (ValueError, OverflowError):
        return values
    if any(_is_missing(cell) for cell in values):
        return numbers
    try:
        return np.array([int(cell) for cell in values], np.int64)
    except (ValueError, OverflowError):
        return numbers


def _numbers(values: Array, datatype: Datatype, column: str, start: int) -> Array:
    """Read text, or objects such as None, as numbers; 64-bit integers keep all their digits."""
    if datatype.dtype.kind in "iu" and datatype is not Datatype.BF16:  # whose bits lie in integers
        return _each(values, _integer, column, start)
    flat = values.reshape(-1)
    with contextlib.suppress(ValueError, TypeError, OverflowError):  # a missing cell, or a word
        numbers = np.fromiter(map(float, flat), np.float64, values.size).reshape(values.shape)
        if "_" not in "".join(flat) and not np.isinf(numbers).any():
            return numbers
    return _each(values, _float, column, start)


def _each(values: Array, read: Callable[[Any], Any], column: str, start: int) -> Array:
    """Read one cell after the other, so that the first wrong one can be named."""
    flat: list[Any] = []
    for index, cell in enumerate(values.reshape(-1)):
        try:
            flat.append(read(cell))
        except (ValueError, TypeError, OverflowError) as error:
            row = start + index // max(1, values[0].size if values.ndim > 1 else 1)
            kind = "a whole number" if read is _integer else "a number"
            what = str(error) if isinstance(error, OverflowError) else f"{_shown(cell)}, expected {kind}"
            raise ConfigError(f"row {row}, column '{column}': {what}") from None
    dtype: Any = np.object_ if read is _integer else np.float64
    return np.array(flat, dtype).reshape(values.shape)


def _float(cell: Any) -> float:
    if cell is None or (isinstance(cell, str) and _is_missing(cell)):
        return float("nan")
    if isinstance(cell, str) and cell.strip().lower() in {"true", "false"}:
        return float(cell.strip().lower() == "true")
    return _plain(cell)


def _plain(cell: Any) -> float:
    """Read a number as files write it. Raises ValueError for 18_25, which Python takes for 1825, and OverflowError."""
    if not isinstance(cell, str):
        return float(cell)
    number = float(_without_underscore(cell))
    if np.isinf(number) and "inf" not in cell.lower():
        raise OverflowError(f"{_shown(cell)} does not fit FP64")
    return number


def _without_underscore(cell: str) -> str:
    if "_" in cell:
        raise ValueError(cell)
    return cell


def _integer(cell: Any) -> int:
    if isinstance(cell, str):
        text = _without_underscore(cell.strip())
        if text.lower() in {"true", "false"}:
            return int(text.lower() == "true")
        try:
            return int(text)
        except ValueError:
            cell = float(text)
    if isinstance(cell, float | np.floating) and not float(cell).is_integer():
        raise ValueError(cell)
    return int(cell)


def _is_missing(cell: str) -> bool:
    return cell.strip().lower() in MISSING


def _floats(numbers: Array, datatype: Datatype, column: str, start: int) -> Array:
    exact = numbers.astype(np.float64)
    with np.errstate(over="ignore"):
        rounded: Array = np.ascontiguousarray(exact, datatype.dtype)
    _refuse(np.isinf(rounded) & ~np.isinf(exact), numbers, f"does not fit {datatype.wire_name}", column, start)
    return rounded


def _integers(numbers: Any, datatype: Datatype, column: str, start: int) -> Array:
    limits = np.iinfo(datatype.dtype.type)  # type: ignore[type-var]
    if numbers.dtype.kind == "f":
        fits = np.isfinite(numbers) & (numbers == np.floor(numbers))
        _refuse(~fits, numbers, f"is no whole number, expected {datatype.wire_name}", column, start)
        outside = (numbers < float(limits.min)) | (numbers >= float(limits.max) + 1)
    else:
        outside = np.asarray((numbers < limits.min) | (numbers > limits.max), np.bool_)
    message = f"does not fit {datatype.wire_name}, expected {limits.min} to {limits.max}"
    _refuse(outside, numbers, message, column, start)
    return np.ascontiguousarray(numbers, datatype.dtype)


def _bools(numbers: Array, column: str, start: int) -> Array:
    _refuse(~np.isin(numbers, (0, 1)), numbers, "is neither true nor false", column, start)
    return np.ascontiguousarray(numbers, np.bool_)


def _bfloat16(floats: Array) -> Array:
    """Round to the nearest, ties to even, as hardware does; NaN stays NaN."""
    bits = np.ascontiguousarray(floats, np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(floats), np.uint16(0x7FC0), rounded.astype(np.uint16)).astype(np.uint16)


def _strings(values: Array, column: str, start: int) -> Array:
    if values.dtype.kind == "U":
        return values.astype(np.object_)
    if values.dtype.kind in "iub":
        return values.astype(np.str_).astype(np.object_)
    missing = np.array([not isinstance(cell, str) for cell in values.reshape(-1)], np.bool_).reshape(values.shape)
    message = "is no text, and ONNX has no missing string; fill it with a word of its own, as in training"
    _refuse(missing, values, message, column, start)
    return values


def _refuse(wrong: NDArray[np.bool_], values: Array, message: str, column: str, start: int) -> None:
    """Name the first wrong value, if there is one."""
    if wrong.any():
        place = np.unravel_index(int(np.argmax(wrong)), wrong.shape)
        raise ConfigError(f"row {start + int(place[0])}, column '{column}': {_shown(values[place])} {message}")


def _shown(cell: Any) -> str:
    text = repr(cell.item() if isinstance(cell, np.generic) else cell)
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "..."
