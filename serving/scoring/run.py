"""Turns rows into answers, chunk by chunk, in bounded memory. Runs the graph as a server does, in batches of its size.

What a run has done is in the spool, so a run that was killed goes on where the last checkpoint was, and ends with the
same bytes: chunks and batches always begin at the same rows.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from serving.errors import ConfigError
from serving.scoring.opened import OpenModel
from serving.scoring.outcome import Output, check_kind, write_outcome
from serving.scoring.spool import Spool
from serving.tables.matching import TensorColumns, match
from serving.tables.rows import Chunk, Source
from serving.types import DYNAMIC, Array, Datatype, TensorSpec

CHUNK_ROWS_MAX = 65_536
CHUNK_BYTES = 64 << 20
_CELL_BYTES = 64  # a short string of Python's
KEPT_CHARACTERS_MAX = 1_000  # all cells of a chunk take as much memory as the longest
BATCH_ROWS = 256
"""What a server's `batch_rows_max` is unless a `model.toml` says otherwise."""

Progress = Callable[[int, int | None], object]
"""Told the rows done, and how many there are when that is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How to score. `outputs` are names, all of them when empty; `checkpoint_rows` 0 chooses by the size of a row.

    `keep` names columns of the input that go into the file of answers, before the outputs: what rows are known by.
    """

    outputs: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    batch_rows: int = BATCH_ROWS
    checkpoint_rows: int = 0
    file_order: bool = False


def score(
    model: OpenModel, source: Source, out: Path, *, settings: Settings, identity: Mapping[str, Any], progress: Progress
) -> int:
    """Score every row of a source into a file; return how many there were.

    `identity` is what tells this input from another: a run goes on where one of the same identity, model and settings
    was killed. Raises ConfigError naming row and column of what cannot be scored.
    """
    outputs = _chosen(model, settings.outputs)
    _check_keep(settings.keep, source, [spec.name for _, spec in outputs])
    check_kind(out, [*((name, 1) for name in settings.keep), *((spec.name, len(spec.shape)) for _, spec in outputs)])
    tensors = match(
        model.signature, model.columns, source.names,
        is_table=source.is_table, label=source.label, file_order=settings.file_order,
    )  # fmt: skip
    scorer = _Scorer(model, tensors, [index for index, _ in outputs], _batch_rows(model, settings))
    chunk_rows = settings.checkpoint_rows or _chunk_rows(model.signature.inputs, source)
    job = {
        "input": dict(identity), "model": model.digest, "chunk_rows": chunk_rows, "batch_rows": scorer.batch_rows,
        "outputs": [spec.name for _, spec in outputs], "keep": list(settings.keep), "file_order": settings.file_order,
    }  # fmt: skip
    spool = Spool(out.with_name(f"{out.name}.part"), job)
    try:
        progress(spool.rows, source.rows_count)
        for chunk in source.chunks(chunk_rows, skip=spool.rows):
            kept = [_kept(chunk, name) for name in settings.keep]
            spool.append(chunk.rows, [*kept, *scorer.answers(chunk)])
            progress(spool.rows, source.rows_count)
        if not spool.rows:
            raise ConfigError(f"{source.label} has no rows")
        _write(out, [*((name, ()) for name in settings.keep), *((spec.name, model.labels.get(spec.name, ()))
                     for _, spec in outputs)], spool)  # fmt: skip
        spool.remove()
    finally:
        spool.close()
    return spool.rows


def _write(out: Path, columns: Sequence[tuple[str, tuple[str, ...]]], spool: Spool) -> None:
    """Write what was spooled, arrays of these names and labels, as the file that was asked for."""
    shapes: list[set[tuple[int, ...]]] = [set() for _ in columns]
    for arrays in spool.chunks(len(columns)):
        for found, array in zip(shapes, arrays, strict=True):
            found.add(array.shape[1:])
    outputs: list[Output] = []
    for (name, labels), found in zip(columns, shapes, strict=True):
        if len(found) > 1:
            raise ConfigError(f"output '{name}' has rows of different shapes, which no file can hold together")
        (row_shape,) = found
        outputs.append(Output(name, row_shape, labels if row_shape == (len(labels),) else ()))
    write_outcome(out, outputs, lambda: spool.chunks(len(columns)), rows=spool.rows)


class _Scorer:
    """Computes the answers of a chunk, `batch_rows` rows at a time."""

    def __init__(
        self, model: OpenModel, tensors: Sequence[TensorColumns], outputs: Sequence[int], batch_rows: int
    ) -> None:
        self._model = model
        self._tensors = tensors
        self._outputs = outputs
        self.batch_rows = batch_rows

    def answers(self, chunk: Chunk) -> list[Array]:
        """Return the chosen outputs for the rows of a chunk, as they are stored. Raises ConfigError."""
        inputs = [tensors.tensor(chunk) for tensors in self._tensors]
        parts = [self._run(inputs, at, min(at + self.batch_rows, chunk.rows), chunk.start)
                 for at in range(0, chunk.rows, self.batch_rows)]  # fmt: skip
        try:
            joined = [np.concatenate([part[index] for part in parts]) for index in self._outputs]
        except ValueError:
            raise ConfigError("an output has rows of different shapes, which no file can hold together") from None
        specs = self._model.signature.outputs
        return [_storable(array, specs[index].datatype) for array, index in zip(joined, self._outputs, strict=True)]

    def _run(self, inputs: Sequence[Array], begin: int, end: int, start: int) -> list[Array]:
        try:
            outputs = self._model.session.run([tensor[begin:end] for tensor in inputs])
        except Exception as error:  # noqa: BLE001 - whatever the graph raises, the row is to be named
            if end - begin > 1:  # find the row that the model cannot compute
                for row in range(begin, end):
                    self._run(inputs, row, row + 1, start)
            rows = f"row {start + begin}" if end - begin == 1 else f"rows {start + begin} to {start + end - 1}"
            raise ConfigError(f"{rows}: the model cannot compute this: {' '.join(str(error).split())[:300]}") from None
        for index in self._outputs:
            if outputs[index].ndim == 0 or len(outputs[index]) != end - begin:
                name = self._model.signature.outputs[index].name
                raise ConfigError(
                    f"output '{name}' does not have a row for each row of the inputs; it cannot be scored"
                )
        return outputs


def _chosen(model: OpenModel, names: Sequence[str]) -> list[tuple[int, TensorSpec]]:
    specs = list(enumerate(model.signature.outputs))
    known = [spec.name for _, spec in specs]
    for name in names:
        if name not in known:
            raise ConfigError(f"the model has no output '{name}', it has {', '.join(known)}")
    return [(index, spec) for index, spec in specs if not names or spec.name in names]


def _check_keep(names: Sequence[str], source: Source, outputs: Sequence[str]) -> None:
    for index, name in enumerate(names):
        if name not in source.names or not source.is_table:
            raise ConfigError(f"{source.label} has no column '{name}' to keep")
        if name in outputs or name in names[:index]:
            raise ConfigError(f"'{name}' would be there twice; keep it once, and none that is called like an output")


def _kept(chunk: Chunk, name: str) -> Array:
    """Return a column of the input as it goes into the answers. Raises ConfigError."""
    values = chunk.columns[name]
    if values.dtype != np.object_:
        return values
    for row, cell in enumerate(values, chunk.start):
        if not isinstance(cell, str) or len(cell) > KEPT_CHARACTERS_MAX:
            raise ConfigError(
                f"row {row}, column '{name}': a cell to keep is a number, or text of at most {KEPT_CHARACTERS_MAX} "
                "characters"
            )
    return values.astype(np.str_)


def _batch_rows(model: OpenModel, settings: Settings) -> int:
    """Return the rows of a batch: 1 where rows do not stand alone."""
    return settings.batch_rows if model.signature.batchable else 1


def _chunk_rows(inputs: Sequence[TensorSpec], source: Source) -> int:
    """Return how many rows fit CHUNK_BYTES, as tensors and as cells; an open dimension counts as one."""
    row_bytes = len(source.names) * (_CELL_BYTES if source.is_text else 8)
    for spec in inputs:
        elements = math.prod(dimension for dimension in spec.shape[1:] if dimension != DYNAMIC)
        row_bytes += elements * (spec.datatype.item_bytes or _CELL_BYTES)
    return max(1, min(CHUNK_ROWS_MAX, CHUNK_BYTES // row_bytes))


def _storable(array: Array, datatype: Datatype) -> Array:
    """Return an output as files hold it: text as numpy's own strings, BF16 as the float32 of the same value."""
    if datatype is Datatype.BYTES:
        return array.astype(np.str_)
    if datatype is Datatype.BF16:
        return (array.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return array
