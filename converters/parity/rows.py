"""Rows that break graphs: missing and infinite numbers, zeros, extremes, unseen words, thresholds and their neighbours.

Pure. Each set is made from rows of the sample with a seeded generator, so that the same sample gives the same rows.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from converters.parity.thresholds import Thresholds
from converters.runner import joined, rows_of
from converters.sample import Array, Tensors

UNSEEN = "penstock: no such category"
PLACES_MAX = 32
"""Numbers of a row that are changed one at a time; further ones are chosen by chance."""
THRESHOLDS_MAX = 3_000


@dataclass(frozen=True, slots=True)
class RowSet:
    """Rows of one kind, in the precision of the sample."""

    name: str
    about: str
    tensors: Tensors

    @property
    def rows(self) -> int:
        """How many there are."""
        return len(next(iter(self.tensors.values())))


def edges(exact: Tensors, only_trees: bool, seed: int) -> Iterator[RowSet]:
    """Yield the edge rows that make sense for the datatypes of the sample."""
    floats = {name: item for name, item in exact.items() if item.dtype.kind == "f"}
    if floats:
        yield RowSet("edge-nan", "NaN in one place, and everywhere", _one_at_a_time(exact, floats, [np.nan], seed))
        infinities = [np.inf, -np.inf]
        yield RowSet("edge-infinite", "infinities in one place", _one_at_a_time(exact, floats, infinities, seed))
        yield RowSet("edge-zero", "zero in one place, and everywhere", _one_at_a_time(exact, floats, [0.0, -0.0], seed))
        yield RowSet("edge-extreme", "far outside of what the sample holds", _extremes(exact, floats, only_trees))
    if any(item.dtype.kind in "iu" for item in exact.values()):
        yield RowSet("edge-integer", "the least and the largest integers of the sample", _integer_ends(exact))
    if words := [name for name, item in exact.items() if item.dtype == object]:
        parts = []
        for index, name in enumerate(words):
            row = _row(exact, index)
            row[name][:] = UNSEEN
            parts.append(row)
        yield RowSet("edge-unseen", "a category that was not seen in training", joined(*parts))


def thresholds(exact: Tensors, found: Sequence[Thresholds], seed: int) -> RowSet | None:
    """Return rows whose feature is at a threshold, and one ulp of float32 on either side of it."""
    pairs = [(item, value) for item in found for value in item.values if np.isfinite(value)]
    if not pairs:
        return None
    generator = np.random.default_rng(seed)
    if len(pairs) > THRESHOLDS_MAX:
        pairs = [pairs[index] for index in sorted(generator.choice(len(pairs), THRESHOLDS_MAX, replace=False))]
    rows = len(next(iter(exact.values())))
    base = generator.integers(0, rows, len(pairs)).repeat(3)
    tensors = {name: item[base].astype(_wide(item)) for name, item in exact.items()}
    for index, (item, value) in enumerate(pairs):
        single = np.float32(value)
        beside = [float(np.nextafter(single, np.float32(end))) for end in (-np.inf, np.inf)]
        for offset, number in enumerate((value, *beside)):
            tensors[item.input][3 * index + offset, item.column] = number
    return RowSet("thresholds", "at the splits of the trees, and one ulp beside them", tensors)


def _one_at_a_time(exact: Tensors, floats: Tensors, values: list[float], seed: int) -> Tensors:
    generator = np.random.default_rng(seed)
    parts = []
    for name, item in floats.items():
        width = int(np.prod(item.shape[1:], dtype=np.int64))
        chosen = range(width)
        if width > PLACES_MAX:
            chosen = sorted(generator.choice(width, PLACES_MAX, replace=False))  # type: ignore[assignment]
        for place in chosen:
            for value in values:
                row = _row(exact, place)
                row[name].reshape(1, -1)[0, place] = value
                parts.append(row)
    for value in values:
        row = _row(exact, 0)
        for name in floats:
            row[name][:] = value
        parts.append(row)
    return joined(*parts)


def _extremes(exact: Tensors, floats: Tensors, only_trees: bool) -> Tensors:
    """Go ten spans beyond the sample; trees only compare, so for them to the ends of float32 too."""
    ends = []
    with np.errstate(all="ignore"):
        for side in (-1.0, 1.0):
            row = _row(exact, 0)
            for name, item in floats.items():
                low, high = (np.nan_to_num(end(item, axis=0), posinf=0, neginf=0) for end in (np.nanmin, np.nanmax))
                row[name][0] = low - 10 * (high - low) if side < 0 else high + 10 * (high - low)
            ends.append(row)
    if only_trees:
        largest = float(np.finfo(np.float32).max)
        for value in (
            largest,
            -largest,
            float(np.finfo(np.float32).tiny),
            float(np.finfo(np.float32).smallest_subnormal),
        ):
            row = _row(exact, 0)
            for name in floats:
                row[name][:] = value
            ends.append(row)
    return joined(*ends)


def _integer_ends(exact: Tensors) -> Tensors:
    parts = []
    for end in (np.min, np.max):
        row = _row(exact, 0)
        for name, item in exact.items():
            if item.dtype.kind in "iu":
                row[name][0] = end(item, axis=0)
        parts.append(row)
    return joined(*parts)


def _row(exact: Tensors, index: int) -> dict[str, Array]:
    rows = len(next(iter(exact.values())))
    at = index % rows
    return {name: item.copy() for name, item in rows_of(exact, slice(at, at + 1)).items()}


def _wide(item: Array) -> np.dtype[np.generic]:
    return np.dtype(np.float64) if item.dtype.kind == "f" else item.dtype
