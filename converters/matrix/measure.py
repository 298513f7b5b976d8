"""Converting the entries of the matrix: what comes out, how far it is off, how large and how fast it is."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from converters.conversion import Conversion, convert
from converters.matrix.zoo import Entry
from converters.race import race
from converters.runner import Runner, quiet, rows_of
from serving.errors import ConfigError

SPEED_ROWS = 32
"""Rows of the batch that is timed, in the framework and in the graph on one thread."""


@dataclass(frozen=True, slots=True)
class Cell:
    """What became of an entry.

    `error` is the smaller of the largest errors of conversion and of precision; `speed` is how many times as fast as
    the framework's predict the graph is.
    """

    entry: Entry
    error: float = 0.0
    graph_bytes: int = 0
    speed: float = 0.0
    failure: str = ""


def measure(entries: Iterable[Entry], progress: Callable[[str], None] = lambda _: None) -> Iterator[Cell]:
    """Convert every entry; what fails is told and does not end it."""
    for entry in entries:
        progress(entry.id)
        try:
            model, rows = entry.make()
            done = convert(model, rows)
        except ConfigError as error:
            yield Cell(entry, failure=str(error))
            continue
        yield Cell(entry, min(done.report.largest()), len(done.graph), speed_of(done))


def speed_of(done: Conversion) -> float:
    """Return the time of the framework's answers over the time of the graph's, for a batch of rows."""
    runner = Runner(done.graph)
    exact = rows_of(done.draft.exact, slice(0, SPEED_ROWS))
    cast = runner.cast(exact)
    with quiet():
        return race(lambda: runner.run(cast), lambda: done.draft.answer(exact), pairs=6).ratio
