"""`penstock bench run`: one load, its latency, throughput and errors."""

from pathlib import Path
from typing import Any

import click

from bench.commands.options import read_scenario, report_options, scenario_options
from bench.commands.reporting import reporting
from bench.report.views import RunView
from bench.session import Server, Session
from serving.commands.options import Connect, client_options

_EXAMPLES = """\b
Examples:
  penstock bench run --model iris --rate 2000 --slo-ms 20
  penstock bench run --model iris --concurrency 64 --rows 8 --html report.html
  penstock bench run --model iris --rate 500 --arrivals trace:requests.txt --payload rows.npz
"""


@click.command("run", epilog=_EXAMPLES)
@scenario_options()
@client_options
@report_options
def command(connect: Connect, json_file: str | None, html_file: Path | None, **values: Any) -> None:
    """Send one load to a model and report what came back.

    With --rate requests leave at their moments whatever the server does, and latency counts from the intended moment.
    With --concurrency each answer makes place for the next request.
    """
    scenario = read_scenario(values)
    slice_ = scenario.to_slice()
    subject = f"model {scenario.model} on {connect.address}"
    with reporting("run", scenario, subject, json_file=json_file, html_file=html_file) as reporter:
        server = Server(connect.address, connect.tls)
        with reporter.progress as progress, Session(
            [server], scenario, progress.note, interrupt=reporter.interrupt
        ) as session:  # fmt: skip
            progress.stage(subject, slice_)
            outcome = session.measure(slice_)
        reporter.show(RunView(reporter.asked(connect.address, outcome)), has_result=False)
