"""Rows to be read, behind one protocol: named columns or arrays, in chunks of bounded memory. Rows count from 0."""

import csv
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from serving.errors import ConfigError
from serving.types import Array

UNNAMED = ""
"""The name of the one array of a .npy file."""

COLUMNS_MAX = 100_000

Columns = Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some rows in a row: arrays by name, all as long as `rows`. `start` is the number of the first row."""

    start: int
    rows: int
    columns: Columns


class Source(Protocol):
    """Rows to be read. `names` are those of its columns, or of its arrays when `is_table` is false.

    `rows_count` is None when only reading tells.
    """

    @property
    def label(self) -> str:
        """How errors call it."""

    @property
    def names(self) -> tuple[str, ...]:
        """The columns or arrays, in their order."""

    @property
    def is_table(self) -> bool:
        """Whether each name is a column of a table."""

    @property
    def is_text(self) -> bool:
        """Whether cells come as text whatever they mean."""

    @property
    def rows_count(self) -> int | None:
        """How many rows there are, if that is known."""

    def chunks(self, rows: int, *, skip: int = 0) -> Iterator[Chunk]:
        """Yield chunks of `rows` rows (the last may have fewer) after the first `skip` rows. Raises ConfigError."""


@contextmanager
def reading(label: str) -> Iterator[None]:
    """Translate what a library says about a file."""
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{label} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{label} is not valid UTF-8 (byte {error.start}); save it as UTF-8") from None
    except (ValueError, EOFError, zipfile.BadZipFile, csv.Error, NotImplementedError, RuntimeError) as error:
        raise ConfigError(f"{label} cannot be read: {' '.join(str(error).split())[:300]}") from None
