"""The categories that encoders of scikit-learn learned, where a column of the input is what they encode."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from converters.adapters.scikit_learn_parts import parts
from converters.parity.categories import Categories
from converters.sample import MATRIX, Tensors


def known_categories(model: Any, exact: Tensors) -> tuple[Categories, ...]:
    """Return the categories by column: of named columns, and of a matrix that is encoded first of all."""
    return tuple(_of_named(model, exact)) or tuple(_of_matrix(model, exact))


def _of_named(model: Any, exact: Tensors) -> Iterator[Categories]:
    for part in parts(model):
        names = map(str, getattr(part, "feature_names_in_", ()))
        for name, known in zip(names, getattr(part, "categories_", ()), strict=False):
            if name in exact:
                yield _categories(name, 0, known, exact)


def _of_matrix(model: Any, exact: Tensors) -> Iterator[Categories]:
    first = model.steps[0][1] if hasattr(model, "steps") else model
    known = getattr(first, "categories_", ())
    if MATRIX in exact and exact[MATRIX].ndim == 2 and len(known) == exact[MATRIX].shape[1]:
        for place, values in enumerate(known):
            yield _categories(MATRIX, place, values, exact)


def _categories(name: str, place: int, known: Any, exact: Tensors) -> Categories:
    """Leave out what the column cannot hold, such as a missing value among words."""
    if exact[name].dtype == object:
        return Categories(name, place, np.array([item for item in known if isinstance(item, str)], object))
    numbers = [item for item in known if not isinstance(item, str) and item is not None and np.isfinite(item)]
    return Categories(name, place, np.array(numbers, exact[name].dtype))
