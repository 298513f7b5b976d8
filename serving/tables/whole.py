"""A sample, read whole: what the converters look at, before there is a signature that says what columns mean."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from serving.errors import ConfigError
from serving.tables.cells import guess
from serving.tables.rows import UNNAMED
from serving.tables.sources import open_source
from serving.types import Array


def read_whole(source: Any, *, rows_max: int) -> Mapping[str, Array] | Array:
    """Return the first `rows_max` rows of a file or an object, see `open_source`.

    One array for a .npy file; else arrays by name. The columns of a table have shape (rows,) and hold bool, int64,
    float64 (NaN where a number is missing), or `str` objects, in a .csv by what its cells look like. Raises
    ConfigError, also for a source without rows.
    """
    opened = open_source(source)
    chunk = next(opened.chunks(rows_max), None)
    if chunk is None:
        raise ConfigError(f"{opened.label} has no rows")
    if opened.names == (UNNAMED,):
        return chunk.columns[UNNAMED]
    columns = {name: guess(column) for name, column in chunk.columns.items()} if opened.is_text else chunk.columns
    return {name: np.asarray(column) for name, column in columns.items()}
