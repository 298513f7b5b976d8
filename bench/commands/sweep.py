"""`penstock bench sweep`: the same load at several rates or concurrencies."""

from pathlib import Path
from typing import Any

import click

from bench import sweep
from bench.commands.options import read_scenario, report_options, scenario_options
from bench.commands.reporting import reporting
from bench.outcome import Outcome
from bench.report.units import rate
from bench.report.views import Run, SweepView
from bench.session import Server, Session
from bench.slices import Recording, Slice
from serving.commands.options import Connect, client_options

_EXAMPLES = """\b
Examples:
  penstock bench sweep --model iris --rates 500..4000..500 --slo-ms 20 --html sweep.html
  penstock bench sweep --model iris --concurrencies 1..64..x2

Levels are a list as in 100,200,400; from..to..step; or from..to..xFACTOR.
"""


@click.command("sweep", epilog=_EXAMPLES)
@click.option("--rates", metavar="LEVELS", help="Requests per second, one run each (open loop).")
@click.option("--concurrencies", metavar="LEVELS", help="Requests in flight, one run each (closed loop).")
@scenario_options(without=("rate", "concurrency"))
@client_options
@report_options
def command(
    connect: Connect, rates: str | None, concurrencies: str | None, *,
    json_file: str | None, html_file: Path | None, **values: Any,
) -> None:  # fmt: skip
    """Run the same load at several levels, in ascending order.

    The first level whose run ends before its time ends the sweep; what was measured is kept.
    """
    rate_levels = sweep.read_levels(rates) if rates else ()
    concurrency_levels = sweep.read_levels(concurrencies) if concurrencies else ()
    scenario = read_scenario(values)
    template = scenario.with_rate(1.0).to_slice()
    levels = sweep.slices(template, rates=rate_levels, concurrencies=concurrency_levels)
    subject = f"model {scenario.model} on {connect.address}"
    with reporting("sweep", scenario, subject, json_file=json_file, html_file=html_file) as reporter:
        server = Server(connect.address, connect.tls)
        runs: list[Run] = []
        with reporter.progress as progress, Session(
            [server], scenario, progress.note, interrupt=reporter.interrupt
        ) as session:  # fmt: skip

            def measure(level: Slice) -> Recording:
                progress.stage(f"level {len(runs) + 1} of {len(levels)}", level)
                return session.record(level)

            def note(outcome: Outcome) -> None:
                runs.append(Run(label(outcome), outcome))
                reporter.write(runs[-1])

            failure = sweep.run(measure, levels, rows=scenario.rows, on_outcome=note).failure
        reporter.show(SweepView(tuple(runs), failure), has_result=failure is not None)


def label(outcome: Outcome) -> str:
    """Return the level of a run: `1,000/s`, `16 in flight`."""
    if outcome.offered_rps is not None:
        return f"{rate(outcome.offered_rps)}/s"
    return f"{outcome.concurrency} in flight"
