"""`penstock bench knee`: the largest rate that a server carries within an objective."""

from pathlib import Path
from typing import Any

import click

from bench import knee
from bench.commands.options import read_scenario, report_options, scenario_options
from bench.commands.reporting import reporting
from bench.report.units import rate
from bench.report.views import KneeView, Probe, Run, Verdict
from bench.session import Server, Session
from serving.commands.options import Connect, client_options

_EXAMPLES = """\b
Examples:
  penstock bench knee --model iris --p99-ms 20
  penstock bench knee --model iris --p99-ms 20 --arrivals bursty --start-rate 1000 --html knee.html
"""
_DEFAULTS = knee.Plan()
_OF_A_PROBE = ("rate", "concurrency", "duration_s", "warm_up_s", "slo_ms")
_VERDICTS: dict[str, Verdict] = {"pass": "passed", "fail": "failed", "undecided": "undecided", knee.LATE: "late"}


@click.command("knee", epilog=_EXAMPLES)
@click.option("--p99-ms", required=True, type=float, metavar="X", help="The objective: p99 <= X ms.")
@click.option("--start-rate", type=float, default=_DEFAULTS.rate_start, show_default=True, metavar="R",
              help="The first rate; it doubles from there.")  # fmt: skip
@click.option("--probe-s", type=float, default=_DEFAULTS.probe_s, show_default=True, metavar="SECONDS",
              help="How long a probe lasts once the knee is bracketed.")  # fmt: skip
@click.option("--total-s", type=float, default=_DEFAULTS.time_s_max, show_default=True, metavar="SECONDS",
              help="The search ends after so long at the latest.")  # fmt: skip
@scenario_options(without=_OF_A_PROBE)
@client_options
@report_options
def command(
    connect: Connect, p99_ms: float, json_file: str | None, html_file: Path | None, *,
    start_rate: float, probe_s: float, total_s: float, **values: Any,
) -> None:  # fmt: skip
    """Find the largest rate with p99 <= X by bisection, within two minutes.

    The answer is an interval that holds the knee with 95 % confidence; every probe is shown.
    """
    plan = knee.Plan(rate_start=start_rate, probe_s=probe_s, time_s_max=total_s)
    scenario = read_scenario(values).with_rate(start_rate)
    subject = f"model {scenario.model} on {connect.address}"
    with reporting("knee", scenario, subject, json_file=json_file, html_file=html_file) as reporter:
        with reporter.progress as progress, Session(
            [Server(connect.address, connect.tls)], scenario, progress.note, interrupt=reporter.interrupt
        ) as session:  # fmt: skip
            found = knee.find(
                session.record, scenario.to_slice(), p99_ms=p99_ms, plan=plan, rows=scenario.rows,
                on_probe=lambda probe: progress.stage(f"{rate(probe.rate)}/s: {probe.verdict}"),
            )  # fmt: skip
        runs = tuple(Run(f"{rate(probe.rate)}/s", probe.outcome) for probe in found.probes)
        for run in runs:
            reporter.write(run)
        reporter.show(view_of(found, runs))


def view_of(found: knee.Knee, runs: tuple[Run, ...]) -> KneeView:
    """Return what reports show of a knee."""
    return KneeView(
        objective_ms=found.p99_ms,
        rate_rps=found.rate,
        low_rps=found.low,
        high_rps=found.high,
        probes=tuple(
            Probe(probe.rate, probe.outcome.latency_us.p99, _VERDICTS[probe.verdict]) for probe in found.probes
        ),
        ended=found.ended,
        runs=runs,
        failure=found.failure or (found.ended if found.rate is None else None),
    )
