"""`penstock bench simulate`: the batching policy beside its rivals in virtual time. It needs no server."""

from collections.abc import Sequence
from pathlib import Path

import click

from bench.commands.options import report_options
from bench.commands.reporting import reporting
from bench.report.views import Rule, SimulatedWorkload, SimulationView
from bench.scenario import VirtualScenario
from bench.simulate import COLUMNS
from bench.simulation.verdict import BELOW_NATURAL_MAX, MEDIAN_BELOW_MAX, WORST_BELOW_MAX, Row, judge, verdict
from bench.simulation.workloads import drawn, replayed

_EXAMPLES = """\b
Examples:
  penstock bench simulate --html policies.html
  penstock bench simulate --seeds 10 --requests 50000       (what the rules ask for; about an hour)
  penstock bench simulate --trace arrivals.txt
"""


@click.command("simulate", epilog=_EXAMPLES)
@click.option("--seeds", type=click.IntRange(1, 1000), default=1, show_default=True, metavar="N",
              help="Worlds per workload.")  # fmt: skip
@click.option("--requests", type=click.IntRange(100, 10_000_000), default=10_000, show_default=True, metavar="N",
              help="Requests per world.")  # fmt: skip
@click.option("--workloads", type=click.IntRange(1), metavar="N", help="Only the first so many of each group.")
@click.option("--promise", type=click.Choice(("deadline", "target")), default="deadline", show_default=True,
              help="What the objective is: a deadline, past which requests are dropped, or slo_ms.")  # fmt: skip
@click.option("--trace", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE",
              help="Replay these moments, one number of seconds per line.")  # fmt: skip
@report_options
def command(
    seeds: int, requests: int, workloads: int | None, *,
    promise: str, trace: Path | None, json_file: str | None, html_file: Path | None,
) -> None:  # fmt: skip
    """Replay arrivals against service curves, and compare the server's policy with the others' on goodput.

    The others: the best fixed window in hindsight, natural batching, none, Clipper's AIMD, BentoML's rule. Ends with 1
    when a rule of comparison is broken.
    """
    judged, aside = drawn()
    if trace is not None:
        judged, aside = [replayed(workload, trace) for workload in judged], []
    scenario = VirtualScenario(seeds=seeds, requests=requests, promise=promise, trace=str(trace or ""))
    subject = f"{seeds} worlds of {requests} requests per workload, the objective as a {promise}"
    with reporting("simulate", scenario, subject, json_file=json_file, html_file=html_file) as reporter:
        groups: dict[str, list[Row]] = {}
        with reporter.progress as progress:
            for title, some in (("judged", judged[:workloads]), ("kept aside", aside[:workloads])):
                groups[title] = []
                for workload in some:
                    progress.stage(f"{title}: {workload.name}")
                    groups[title].append(judge(workload, seeds=seeds, requests=requests, hard=promise == "deadline"))
        view = view_of(groups)
        reporter.show(view)
        if not all(rule.is_kept for rule in view.rules):
            reporter.status = 1


def view_of(groups: dict[str, list[Row]]) -> SimulationView:
    """Return what reports show of the rows of each group of workloads."""
    return SimulationView(
        workloads=tuple(_workload(row, title) for title, rows in groups.items() for row in rows),
        rules=tuple(rule for title, rows in groups.items() if rows for rule in _rules(title, rows)),
    )


def _workload(row: Row, title: str) -> SimulatedWorkload:
    delay_ms, cap = row.best_window
    return SimulatedWorkload(
        name=row.workload.name,
        goodput={name: row.scores[name].goodput for name in COLUMNS},
        window=f"{delay_ms:g} ms, {cap}",
        is_aside=title == "kept aside",
    )


def _rules(title: str, rows: Sequence[Row]) -> list[Rule]:
    found = verdict(rows)
    return [
        Rule(title, "the best window, median", found.window_median, 1 - MEDIAN_BELOW_MAX),
        Rule(title, "the best window, worst", found.window_worst, 1 - WORST_BELOW_MAX),
        Rule(title, "natural batching, worst", found.natural_worst, 1 - BELOW_NATURAL_MAX),
        Rule(title, "Clipper's AIMD, median", found.aimd_median, 1.0),
        Rule(title, "BentoML's rule, median", found.bentoml_median, 1.0),
    ]
