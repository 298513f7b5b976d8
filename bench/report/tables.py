"""Results in a terminal: what the figures mean, what to know before trusting them, and the tables."""

import sys
from typing import IO, TYPE_CHECKING

from bench.report import findings, summary
from bench.report.libraries import needed
from bench.report.views import View

if TYPE_CHECKING:
    from rich.table import Table

PIPE_COLUMNS = 140
"""Width where there is no terminal to ask: nothing is folded in a file."""
_STYLES: dict[findings.Severity, str] = {"failure": "bold red", "warning": "bold yellow", "note": "dim"}
_SIGNS: dict[findings.Severity, str] = {"failure": "FAILED", "warning": "warning", "note": "note"}


def show(view: View, stream: IO[str] | None = None) -> None:
    """Print a result, to stdout unless told otherwise. Raises ConfigError when `rich` is not installed."""
    with needed():
        from rich.console import Console  # noqa: PLC0415 - behind the extra
        from rich.text import Text  # noqa: PLC0415
    stream = stream or sys.stdout
    console = Console(file=stream, width=None if stream.isatty() else PIPE_COLUMNS, highlight=False)
    console.print(Text(findings.headline(view), style="bold"))
    for notice in findings.notices(view):
        console.print(Text(f"{_SIGNS[notice.severity]}: {notice.text}", style=_STYLES[notice.severity]))
    for table in summary.tables(view):
        console.print()
        console.print(_rich(table))


def _rich(table: summary.Table) -> "Table":
    """Return a table for `rich`; texts are `Text`, since a model's name is no markup."""
    with needed():
        from rich import box  # noqa: PLC0415 - behind the extra
        from rich.table import Table  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415
    shown = Table(title=Text(table.title, style="bold"), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False,
                  show_header=any(table.columns))  # fmt: skip
    for index, column in enumerate(table.columns):
        shown.add_column(Text(column), justify="left" if index in table.words else "right")
    for index, row in enumerate(table.rows):
        shown.add_row(*map(Text, row), style="bold" if index in table.marked else None)
    return shown
