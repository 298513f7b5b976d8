"""The steps for tables: numbers and categories in columns. Builders of drafts; nothing here runs anything."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from serving.pipeline import elements, exponentials, kernels, signals
from serving.pipeline.parameters import Parameters
from serving.pipeline.step import (
    Argument,
    Draft,
    Element,
    Flow,
    Follow,
    Host,
    Kernel,
    Spread,
    as_it_is,
    rows_of,
    same,
)
from serving.types import DYNAMIC, Array, Datatype

FLOATS = (Datatype.FP32, Datatype.FP64)
INTEGERS = (
    Datatype.INT8, Datatype.INT16, Datatype.INT32, Datatype.INT64,
    Datatype.UINT8, Datatype.UINT16, Datatype.UINT32, Datatype.UINT64,
)  # fmt: skip
NUMBERS = (*FLOATS, *INTEGERS, Datatype.BOOL)
_EXACT_IN_FP32 = {Datatype.INT8, Datatype.INT16, Datatype.UINT8, Datatype.UINT16, Datatype.BOOL}


def impute(parameters: Parameters, reads: Sequence[Flow]) -> Draft:
    """Put `value` where a number is missing (NaN): one for all columns, or one for each."""
    datatype = _float_of(parameters, reads[0], must_be_float=True)
    value = parameters.numbers("value", None, columns(reads[0]), datatype)
    return Draft(Element(elements.impute, datatype, (value,)), (datatype,), same)


def scale(parameters: Parameters, reads: Sequence[Flow]) -> Draft:
    """Compute (x - mean) / scale: one number for all columns, or one for each."""
    datatype = _float_of(parameters, reads[0])
    mean = parameters.numbers("mean", 0.0, columns(reads[0]), datatype)
    divisor = parameters.numbers("scale", 1.0, columns(reads[0]), datatype)
    if not divisor.array.all():
        raise parameters.error("scale holds a 0, expected numbers to divide by")
    signal = signals.overflow_32 if datatype is Datatype.FP32 else signals.overflow_64
    work = Element(elements.scale, datatype, (mean, divisor), elements.refuses_overflow, signal)
    return Draft(work, (datatype,), same, f"expected a result that fits {datatype.wire_name}")


def clip(parameters: Parameters, reads: Sequence[Flow]) -> Draft:
    """Bring numbers between `min` and `max`: one for all columns, or one for each."""
    datatype = _number_of(parameters, reads[0])
    datatype = _float_of(parameters, reads[0]) if datatype is Datatype.BOOL else datatype
    low = parameters.numbers("min", None, columns(reads[0]), datatype)
    high = parameters.numbers("max", None, columns(reads[0]), datatype)
    if not np.less_equal(low.array, high.array).all():
        raise parameters.error("min is above max")
    return Draft(Element(elements.clip, datatype, (low, high)), (datatype,), same)


def log1p(parameters: Parameters, reads: Sequence[Flow]) -> Draft:
    """Compute the logarithm of 1 + x; rows with numbers of -1 and less are refused."""
    datatype = _float_of(parameters, reads[0])
    is_single = datatype is Datatype.FP32
    signal = signals.no_log1p_32 if is_single else signals.no_log1p_64
    smooth = exponentials.log1p_32 if is_single else exponentials.log1p_64
    work = Element(elements.log1p, datatype, (), elements.refuses_log1p, signal, smooth)
    return Draft(work, (datatype,), same, "expected numbers above -1")


def finite(parameters: Parameters, reads: Sequence[Flow]) -> Draft:
    """Refuse rows that hold NaN or infinity."""
    datatype = _float_of(parameters, reads[0], must_be_float=True)
    signal = signals.infinite_32 if datatype is Datatype.FP32 else signals.infinite_64
    work = Element(elements.finite, datatype, (), elements.refuses_infinite, signal)
    return Draft(work, (datatype,), same, "expected finite numbers")


def bucketise(parameters: Parameters, reads: Sequence[Flow]) -> Draft:
    """Count the `boundaries` that are at most x, or with `right` those below it, as INT64; as numpy's digitize."""
    datatype = _float_of(parameters, reads[0])
    with np.errstate(over="ignore"):
        boundaries = parameters.increasing("boundaries").astype(datatype.dtype)
    if not np.isfinite(boundaries).all() or not (np.diff(boundaries) > 0).all():
        raise parameters.error(f"boundaries: numbers must differ, and fit, as {datatype.wire_name}")
    function = elements.bucketise_right if parameters.flag("right", default=False) else elements.bucketise_left
    signal = signals.nan_32 if datatype is Datatype.FP32 else signals.nan_64
    work = Element(function, datatype, (Argument(boundaries),), elements.refuses_nan, signal)
    return Draft(work, (Datatype.INT64,), same, "expected a number")


def cast(parameters: Parameters, reads: Sequence[Flow]) -> Draft:
    """Convert to `datatype`, dropping what is behind the point; rows with what does not fit are refused."""
    given = reads[0].spec.datatype
    wanted = parameters.datatype("datatype", (*NUMBERS, Datatype.FP16))
    if Datatype.FP16 in {given, wanted}:
        return _cast_half(parameters, given, wanted)
    _number_of(parameters, reads[0])
    complaint = f"expected numbers that fit {wanted.wire_name}"
    if wanted is Datatype.BOOL:
        return Draft(Element(elements.is_not_zero, given), (wanted,), same)
    if wanted in FLOATS:
        computes = Datatype.FP64 if given in {Datatype.FP64, wanted} else wanted
        is_narrowed = (given, wanted) == (Datatype.FP64, Datatype.FP32)
        rule = (elements.refuses_overflow, signals.narrowed) if is_narrowed else (None, None)
        return Draft(Element(elements.keep, computes, (), *rule), (wanted,), same, complaint)
    if given in FLOATS:
        low, high = (Argument(np.array([bound], given.dtype), Spread.ONE) for bound in _bounds_in(given, wanted))
        signal = signals.outside_32 if given is Datatype.FP32 else signals.outside_64
        work = Element(elements.truncate_within, given, (low, high), elements.refuses_truncated, signal)
        return Draft(work, (wanted,), same, complaint)
    return Draft(_cast_integer(given, wanted), (wanted,), same, complaint)


def select(parameters: Parameters, reads: Sequence[Flow]) -> Draft:
    """Keep `columns`, by their positions and in that order."""
    _number_of(parameters, reads[0])
    width = matrix_columns(parameters, reads[0])
    chosen = parameters.columns("columns", width)
    work = Kernel(kernels.select, (as_it_is, as_it_is), (Argument(chosen),))
    return Draft(work, (reads[0].spec.datatype,), lambda _: ((len(chosen),),))


def concat(parameters: Parameters, reads: Sequence[Flow]) -> Draft:
    """Put the columns of two or more tensors of one datatype side by side."""
    if len(reads) < 2:
        raise parameters.error("expected two or more names in inputs")
    datatype = _number_of(parameters, reads[0])
    for flow in reads:
        if len(flow.dims) > 1 or columns(flow) < 1:
            raise parameters.error(
                f"'{flow.spec.name}' has shape {list(flow.spec.shape)}, expected rows and a fixed number of columns"
            )
        if flow.spec.datatype is not datatype:
            raise parameters.error(
                f"'{reads[0].spec.name}' is {datatype.wire_name} and '{flow.spec.name}' is "
                f"{flow.spec.datatype.wire_name}, expected one datatype; add a cast"
            )
    work = Kernel(kernels.concat_2, (rows_of, rows_of, as_it_is))
    draft: Draft | None = None
    for count in range(len(reads), 1, -1):  # from the last pair on, as each draft holds what comes behind it
        width = sum(columns(flow) for flow in reads[:count])
        taken = tuple(reads[:2]) if count == 2 else (reads[count - 1],)
        draft = Draft(work, (datatype,), _columns_of(width), reads=taken, then=draft)
    assert draft is not None, "bug: nothing to put side by side"
    return draft


def _columns_of(width: int) -> Follow:
    return lambda _: ((width,),)


def flatten(parameters: Parameters, reads: Sequence[Flow]) -> Draft:
    """Turn what is behind the rows into one dimension, without copying."""
    _number_of(parameters, reads[0])
    if DYNAMIC in reads[0].dims:
        raise parameters.error(f"'{reads[0].spec.name}' has shape {list(reads[0].spec.shape)}, expected a fixed one")
    width = math.prod(reads[0].dims)
    return Draft(Host(Flatten(width)), (reads[0].spec.datatype,), _columns_of(width))


@dataclass(frozen=True, slots=True)
class Flatten:
    """Seeing rows as vectors of `width` numbers: nothing is moved."""

    width: int

    def __call__(self, arrays: Sequence[Array], _reasons: dict[int, str]) -> Sequence[Array]:
        """See `step.Host`."""
        return [arrays[0].reshape(-1, self.width)]


def columns(flow: Flow) -> int:
    """Return the length of the last dimension behind the rows: 1 without one, -1 when it is open."""
    return flow.dims[-1] if flow.dims else 1


def matrix_columns(parameters: Parameters, flow: Flow) -> int:
    """Return the columns of a tensor [rows, columns]."""
    if len(flow.dims) != 1 or flow.dims[0] < 1:
        raise parameters.error(
            f"'{flow.spec.name}' has shape {list(flow.spec.shape)}, expected rows and a fixed number of columns"
        )
    return flow.dims[0]


def _number_of(parameters: Parameters, flow: Flow) -> Datatype:
    datatype = flow.spec.datatype
    if datatype not in NUMBERS or flow.is_ragged:
        kind = "rows of different shapes" if flow.is_ragged else datatype.wire_name
        hint = "; cast it to FP32 first" if datatype is Datatype.FP16 else ""
        raise parameters.error(f"'{flow.spec.name}' is {kind}, expected numbers{hint}")
    return datatype


def _float_of(parameters: Parameters, flow: Flow, *, must_be_float: bool = False) -> Datatype:
    """Return the datatype to compute in: FP64 for it and wide integers, else FP32."""
    datatype = _number_of(parameters, flow)
    if must_be_float and datatype not in FLOATS:
        raise parameters.error(f"'{flow.spec.name}' is {datatype.wire_name}, which has no NaN; leave this step out")
    return Datatype.FP32 if datatype in _EXACT_IN_FP32 | {Datatype.FP32} else Datatype.FP64


def _bounds_in(given: Datatype, wanted: Datatype) -> tuple[Any, Any]:
    """Return the least and the greatest float whose truncation fits an integer type."""
    limits = _limits(wanted)
    kind: Any = given.dtype.type
    low, high = kind(limits.min), kind(limits.max)
    if int(high) > limits.max:
        high = np.nextafter(high, kind(0))
    return low, high


def _limits(datatype: Datatype) -> Any:
    kind: Any = datatype.dtype
    return np.iinfo(kind)


def _keep_integer(value: Any, _low: Any, _high: Any) -> Any:
    return value


def _cast_integer(given: Datatype, wanted: Datatype) -> Element:
    if given is Datatype.BOOL:
        return Element(elements.keep, Datatype.UINT8)
    ours, theirs = _limits(given), _limits(wanted)
    low, high = max(ours.min, theirs.min), min(ours.max, theirs.max)
    if (low, high) == (ours.min, ours.max):
        return Element(elements.keep, given)
    bounds = tuple(Argument(np.array([bound], given.dtype), Spread.ONE) for bound in (low, high))
    return Element(_keep_integer, given, bounds, elements.refuses_outside)


def _cast_half(parameters: Parameters, given: Datatype, wanted: Datatype) -> Draft:
    """Convert from or to FP16, which numpy does: compiled code has no such numbers."""
    if given is wanted or not {given, wanted} <= {*FLOATS, Datatype.FP16}:
        raise parameters.error(f"{given.wire_name} to {wanted.wire_name}: FP16 is cast from and to FP32 and FP64 only")

    def convert(arrays: Sequence[Array], reasons: dict[int, str]) -> Sequence[Array]:
        with np.errstate(over="ignore"):
            result = arrays[0].astype(wanted.dtype)
        lost = np.isfinite(arrays[0]) & ~np.isfinite(result)
        for row in np.flatnonzero(lost.any(axis=tuple(range(1, lost.ndim)))):
            reasons[int(row)] = f"a number does not fit {wanted.wire_name}"
        return [result]

    return Draft(Host(convert), (wanted,), same)
