"""The steps for rows of different length: brought to one in front of the model, and cut back behind it.

Such rows share a batch as arrays of their own, so that a short one waits for no other short one. Builders of drafts.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from serving.pipeline.parameters import Parameters
from serving.pipeline.step import ROW_BYTES_MAX, Dims, Draft, Flow, Host
from serving.pipeline.tabular import FLOATS, NUMBERS
from serving.types import DYNAMIC, Array, Datatype

PLACES_MAX = 1 << 24
"""The longest that a row may be made."""


def pad(parameters: Parameters, reads: Sequence[Flow]) -> Draft:
    """Bring rows to one length along their first dimension: `length`, or of `lengths` the least that holds all rows.

    Behind the numbers of a row stands `value`. Further outputs are a mask, INT64 [rows, length], of 1 for what came,
    and lengths, INT64 [rows]. Longer rows are refused, or with `truncate` cut.
    """
    spec = reads[0].spec
    if not spec.is_ragged or spec.shape[1] != DYNAMIC or DYNAMIC in spec.shape[2:]:
        raise parameters.error(
            f"'{spec.name}' has shape {list(spec.shape)}, expected an input that is declared with ragged = true, whose "
            "first dimension behind the rows alone is open"
        )
    lengths, rest = parameters.buckets(PLACES_MAX), spec.shape[2:]
    if lengths[-1] * math.prod(rest) * spec.datatype.item_bytes > ROW_BYTES_MAX:
        raise parameters.error(f"rows of length {lengths[-1]} take more than {ROW_BYTES_MAX} bytes each")
    work = _Padding(lengths, rest, _value(parameters, spec.datatype), parameters.flag("truncate", default=False))
    length = lengths[0] if len(lengths) == 1 else DYNAMIC

    def follow(_: Sequence[Dims]) -> tuple[Dims, ...]:
        return (length, *rest), (length,), ()

    return Draft(Host(work, is_quick=False), (spec.datatype, Datatype.INT64, Datatype.INT64), follow)


def _value(parameters: Parameters, datatype: Datatype) -> np.generic:
    """Return what stands behind the numbers of a row."""
    if datatype not in {*NUMBERS, Datatype.FP16}:
        raise parameters.error(f"the input is {datatype.wire_name}, expected numbers")
    given = parameters.number("value", 0.0)
    with np.errstate(all="ignore"):
        value: np.generic = np.array([given]).astype(datatype.dtype)[0]
    is_float = datatype in {*FLOATS, Datatype.FP16}
    if not np.isfinite(value) if is_float else value != given:
        raise parameters.error(f"value = {given} does not fit {datatype.wire_name}")
    return value


def cut(parameters: Parameters, reads: Sequence[Flow]) -> Draft:
    """Leave of each row, along its first dimension, as much as the row of the input `like` was long.

    What it reads are the rows and, given by the composition, their lengths.
    """
    given, lengths = reads
    if not given.dims or given.dims[0] != DYNAMIC or given.spec.datatype is Datatype.BYTES:
        raise parameters.error(
            f"'{given.spec.name}' is {given.spec.datatype.wire_name} {list(given.spec.shape)}, expected numbers whose "
            "first dimension behind the rows is open"
        )
    return Draft(Host(_cut, is_quick=False), (given.spec.datatype,), lambda dims: (dims[0],), is_ragged=True,
                 reads=(given, lengths))  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Padding:
    """Pads a batch. Rows are arrays of their own, [length, *rest], of numbers that may lie unaligned."""

    lengths: tuple[int, ...]
    rest: Dims
    value: np.generic
    truncates: bool

    def __call__(self, arrays: Sequence[Array], reasons: dict[int, str]) -> Sequence[Array]:
        rows = arrays[0].tolist()
        longest = self.lengths[-1]
        if not self.truncates:
            for row, numbers in enumerate(rows):
                if len(numbers) > longest:
                    reasons[row] = f"a row of length {len(numbers)} came, expected at most {longest}"
        taken = np.fromiter((min(len(numbers), longest) for numbers in rows), np.int64, len(rows))
        most = int(taken.max(initial=0))
        length = next(length for length in self.lengths if length >= most)
        out = np.full((len(rows), length, *self.rest), self.value)
        for numbers, target, count in zip(rows, out, taken.tolist(), strict=True):
            target[:count] = numbers[:count]
        mask = (np.arange(length) < taken[:, None]).astype(np.int64)
        return [out, mask, taken]


def _cut(arrays: Sequence[Array], _reasons: dict[int, str]) -> Sequence[Array]:
    given, lengths = arrays
    out = np.empty(len(given), np.object_)
    for row, length in enumerate(lengths.tolist()):
        out[row] = given[row, :length]
    return [out]
