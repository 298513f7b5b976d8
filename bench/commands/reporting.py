"""How a command shows what it measures: progress while it runs, then a table, JSON lines and a page."""

import contextlib
import dataclasses
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import click

from bench.interrupt import STATUS, Interrupt
from bench.outcome import BUSY_SHARE_MAX, Outcome
from bench.report import jsonl, libraries, page, tables
from bench.report.jsonl import STDOUT, JsonLines
from bench.report.machine import commit, fingerprint
from bench.report.progress import Progress
from bench.report.views import Context, Run, View
from bench.scenario import Scenario, VirtualScenario

FAILED = 1


@dataclass(slots=True)
class Reporter:
    """Takes runs as they are made, and the view at the end. `status` is the command's exit status so far.

    A run that was `asked` for and that the server or the client could not carry to its end is a failure of the command;
    a search or a comparison has its own.
    """

    kind: str
    context: Context
    progress: Progress
    html_file: Path | None
    json_lines: JsonLines | None
    is_stdout_json: bool
    interrupt: Interrupt
    status: int = 0

    def write(self, run: Run) -> None:
        """Write a run as JSON at once, so that it is kept whatever comes after it."""
        if self.json_lines is not None:
            self.json_lines.write(jsonl.line_of_run(self.kind, run, self.context))

    def asked(self, label: str, outcome: Outcome) -> Run:
        """Write a run, and judge it."""
        run = Run(label, outcome)
        self.write(run)
        if outcome.failure or not outcome.answered or outcome.unsent or outcome.busy_share > BUSY_SHARE_MAX:
            self.status = FAILED
        return run

    def show(self, view: View, *, has_result: bool = True) -> None:
        """Show everything. Without a result the view says no more than its runs do."""
        if view.failure:
            self.status = FAILED
        if has_result and self.json_lines is not None:
            self.json_lines.write(jsonl.line_of_result(view, self.context))
        if self.html_file is not None:
            page.write(self.html_file, view, self.context)
            click.echo(f"report: {self.html_file}", err=True)
        tables.show(view, sys.stderr if self.is_stdout_json else None)


@contextlib.contextmanager
def reporting(
    kind: str, scenario: Scenario | VirtualScenario, subject: str, *, json_file: str | None, html_file: Path | None
) -> Iterator[Reporter]:
    """Open what results are written to, before anything is measured; end with the status that they deserve.

    Ctrl-C ends what is measured, and then the command as usual, with status 130. Raises ConfigError for a place that
    cannot be written, or a library that is missing.
    """
    libraries.check(html=html_file is not None)
    if html_file is not None:
        page.check_place(html_file)
    context = Context(
        command=shlex.join(["penstock", *sys.argv[1:]]),
        subject=subject,
        scenario=dataclasses.asdict(scenario),
        seed=scenario.seed,
        machine=fingerprint(),
        commit=commit(),
        at=datetime.now(UTC).astimezone(),
    )
    with contextlib.ExitStack() as stack:
        lines = stack.enter_context(JsonLines(json_file)) if json_file else None
        progress = Progress()
        interrupt = stack.enter_context(Interrupt())
        is_stdout_json = json_file == STDOUT
        reporter = Reporter(kind, context, progress, html_file, lines, is_stdout_json, interrupt)
        yield reporter
    if status := STATUS if interrupt.is_set else reporter.status:
        click.get_current_context().exit(status)
