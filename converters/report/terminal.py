"""A conversion's report in a terminal, and what is shown while it runs."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import IO

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from converters.report import summary

PIPE_COLUMNS = 160


def show(facts: summary.Facts, stream: IO[str] | None = None) -> None:
    """Print a report, to stdout unless told otherwise; names are text and no markup."""
    stream = stream or sys.stdout
    console = Console(file=stream, width=None if stream.isatty() else PIPE_COLUMNS, highlight=False)
    style = "bold" if facts.report.passed else "bold red"
    console.print(Text(facts.headline, style=style))
    for name, value in facts.lines:
        console.print(Text(f"  {name}: {value}"))
    for sentence in facts.sentences():
        console.print(Text(sentence, style="bold yellow" if sentence.startswith(("failed", "waived")) else "dim"))
    for table in facts.tables():
        console.print()
        console.print(_drawn(table))


@contextlib.contextmanager
def progress(stream: IO[str] | None = None) -> Iterator[Callable[[str], None]]:
    """Yield what shows a stage: a spinner in a terminal, a line anywhere else. On stderr, where no result goes."""
    stream = stream or sys.stderr
    if not stream.isatty():
        yield lambda text: print(text, file=stream, flush=True)
        return
    console = Console(file=stream, highlight=False)
    with console.status("") as status:
        yield lambda text: status.update(Text(text))


def _drawn(table: summary.Table) -> Table:
    shown = Table(title=Text(table.title, style="bold"), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(table.columns):
        shown.add_column(Text(column), justify="left" if index in table.words else "right")
    for index, row in enumerate(table.rows):
        shown.add_row(*map(Text, row), style="bold" if index in table.marked else None)
    return shown
