"""Rows that hold each category which a model learned: a sample may lack some. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.parity.rows import RowSet
from converters.runner import rows_of
from converters.sample import Tensors

CATEGORIES_MAX = 3_000


@dataclass(frozen=True, slots=True)
class Categories:
    """What a column of an input may hold, in that input's datatype."""

    input: str
    column: int
    values: NDArray[Any]


def categories(exact: Tensors, found: Sequence[Categories], seed: int) -> RowSet | None:
    """Return a row of the sample for each category, with the category in its column; some, when there are too many."""
    pairs = [(item, value) for item in found for value in item.values]
    if not pairs:
        return None
    generator = np.random.default_rng(seed)
    if len(pairs) > CATEGORIES_MAX:
        pairs = [pairs[index] for index in sorted(generator.choice(len(pairs), CATEGORIES_MAX, replace=False))]
    rows = len(next(iter(exact.values())))
    tensors = {name: item.copy() for name, item in rows_of(exact, generator.integers(0, rows, len(pairs))).items()}
    for index, (item, value) in enumerate(pairs):
        tensors[item.input][index, item.column] = value
    return RowSet("categories", "each category that the model learned", tensors)
