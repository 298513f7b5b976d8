"""Who gets what of a batch that has run, or could not: rows of its outputs, or errors. Pure, but for the entries."""

from collections.abc import Mapping, Sequence

from serving.batching.entries import Entry
from serving.errors import InvalidRequest
from serving.types import Array


class OutputsDoNotFollowRowsError(Exception):
    """A batch's output has another number of rows than the batch: its first dimension does not count rows."""


def scatter(entries: Sequence[Entry], rows: int, outputs: list[Array]) -> None:
    """Give each entry its rows of the outputs of `rows` rows, as views. Raises OutputsDoNotFollowRowsError."""
    if len(entries) == 1 and entries[0].requests == 1:
        entries[0].outputs = outputs
        return
    check_rows(entries, rows, outputs)
    start = 0
    for entry in entries:
        stop = start + entry.rows
        entry.outputs = outputs if entry.rows == rows else [output[start:stop] for output in outputs]
        start = stop


def check_rows(entries: Sequence[Entry], rows: int, outputs: Sequence[Array]) -> None:
    """Raise OutputsDoNotFollowRowsError unless outputs can be told apart by rows, which one request need not be."""
    if len(entries) == 1 and entries[0].requests == 1:
        return
    if any(output.ndim == 0 or len(output) != rows for output in outputs):
        raise OutputsDoNotFollowRowsError


def refuse(entries: Sequence[Entry], reasons: Mapping[int, str]) -> list[Entry]:
    """Give the requests of the rows that were refused, for these reasons, their errors; return the others.

    A request that runs alone may have rows of which nobody knows: of a model whose rows cannot be told apart.
    """
    left: list[Entry] = []
    end = 0
    for entry in entries:
        begin, end = end, end + entry.rows if len(entries) > 1 else max(reasons) + 1
        mine = [f"row {row - begin}: {reasons[row]}" for row in range(begin, end) if row in reasons]
        if mine:
            more = f" (and {len(mine) - 1} more rows)" if len(mine) > 1 else ""
            entry.outputs = InvalidRequest(mine[0] + more)
        else:
            left.append(entry)
    assert len(left) < len(entries), "bug: rows were refused that no request has sent"
    return left


def halves(entries: Sequence[Entry]) -> list[Sequence[Entry]]:
    """Split entries in the middle, to find the one that cannot be computed."""
    middle = len(entries) // 2
    return [entries[:middle], entries[middle:]]
