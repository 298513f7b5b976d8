"""`penstock bench peers`: the same model on Penstock and on other servers that are installed on this machine."""

from pathlib import Path
from typing import Any

import click

from bench import payload
from bench.commands.options import read_scenario, report_options, scenario_options
from bench.commands.reporting import reporting
from bench.outcome import Outcome
from bench.peers import environments
from bench.peers.model import read_model
from bench.peers.run import ROUNDS, measure_peers, names
from bench.session import Server, Session

_EXAMPLES = """\b
Examples:
  penstock bench peers models/iris/1/model.onnx --concurrency 16 \\
      --venv mlserver=/opt/venvs/mlserver --venv kserve=/opt/venvs/kserve
"""


@click.command("peers", epilog=_EXAMPLES)
@click.argument("onnx", metavar="MODEL", type=click.Path(exists=True, path_type=Path))
@click.option("--venv", "venvs", multiple=True, metavar="NAME=PATH",
              help=f"The virtual environment of a peer: {', '.join(names())}. May be given several times.")  # fmt: skip
@click.option(
    "--rounds", type=int, default=ROUNDS, show_default=True, metavar="N", help="Rounds; each measures all once."
)
@scenario_options(without=("model", "version"))
@report_options
def command(
    onnx: Path, venvs: tuple[str, ...], rounds: int, *, json_file: str | None, html_file: Path | None, **values: Any
) -> None:
    """Start each server that is there on MODEL, an .onnx file or a model's folder, and measure them under one load.

    One server runs at a time. Its answers are held to onnxruntime's before it is measured. A peer that is absent or
    answers wrongly is left out, and said so.
    """
    found = environments.parse(venvs, names())
    model = read_model(onnx)
    scenario = read_scenario(values | {"model": model.name})
    slice_ = scenario.to_slice()
    requests = payload.read(
        scenario.payload_file, model.metadata(), rows=scenario.rows, seed=scenario.seed,
        shapes=scenario.shapes_by_input(),
    )  # fmt: skip
    with reporting("peers", scenario, f"model {model.name}", json_file=json_file, html_file=html_file) as reporter:
        with reporter.progress as progress:

            def measure(host: str, port: int, name: str) -> Outcome:
                with Session(
                    [Server(f"{host}:{port}", model=name)], scenario, progress.note, interrupt=reporter.interrupt
                ) as session:  # fmt: skip
                    return session.measure(slice_)

            view = measure_peers(
                model, requests, measure=measure, environments=found, tell=progress.stage, on_run=reporter.write,
                rounds=rounds,
            )  # fmt: skip
        reporter.show(view)
