"""Rows of a .csv file. Cells stay text, since only the reader of a column knows what it wants."""

import csv
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from serving.errors import ConfigError
from serving.tables.rows import COLUMNS_MAX, Chunk, Columns, reading

CELL_CHARACTERS_MAX = 1 << 20


class CsvSource:
    """A .csv file in UTF-8 with a header. Columns are object arrays of `str`, as the cells stand there."""

    is_table = True
    is_text = True
    rows_count = None

    def __init__(self, path: Path) -> None:
        self.label = str(path)
        self._path = path
        with self._open() as stream:
            header = next(self._reader(stream), None)
        if not header:
            raise ConfigError(f"{path} has no header, expected the names of the columns in its first line")
        doubled = sorted({name for name in header if header.count(name) > 1}) if len(set(header)) < len(header) else []
        if doubled:
            raise ConfigError(f"{path}: the header names column '{doubled[0]}' twice, expected names that differ")
        if len(header) > COLUMNS_MAX:
            raise ConfigError(f"{path} has {len(header)} columns, expected at most {COLUMNS_MAX}")
        self.names = tuple(header)

    def chunks(self, rows: int, *, skip: int = 0) -> Iterator[Chunk]:
        """See Source."""
        with reading(self.label), self._open() as stream:
            lines = self._reader(stream)
            next(lines)
            filled = (line for line in lines if line)  # an empty line at the end is no row
            start = sum(1 for _ in itertools.islice(filled, skip))
            while cells := list(itertools.islice(filled, rows)):
                yield Chunk(start, len(cells), self._columns(cells, start))
                start += len(cells)

    def _columns(self, cells: list[list[str]], start: int) -> Columns:
        width = len(self.names)
        for row, line in enumerate(cells, start):
            if len(line) != width:
                raise ConfigError(f"{self.label}: row {row} has {len(line)} cells, the header names {width} columns")
        table = np.array(cells, np.object_)
        return {name: table[:, index] for index, name in enumerate(self.names)}

    def _open(self) -> IO[str]:
        return self._path.open(encoding="utf-8-sig", newline="")

    def _reader(self, stream: IO[str]) -> Iterator[list[str]]:
        csv.field_size_limit(CELL_CHARACTERS_MAX)
        return csv.reader(stream, strict=True)
