"""`penstock bench tune`: which instances, threads and batch rows a model should have on this machine."""

from pathlib import Path
from typing import Any

import click

from bench import tune
from bench.commands.options import read_scenario, report_options, scenario_options
from bench.commands.reporting import reporting
from bench.payload import signature_of
from bench.report.views import FrontierView, Run, Setting
from bench.session import Server, Session
from bench.tune_server import TuneServer
from serving.cores import usable_cores
from serving.errors import ConfigError
from serving.transport.client import Client

_EXAMPLES = """\b
Examples:
  penstock bench tune --models ./models --model resnet --concurrency 32
  penstock bench tune --models ./models --model resnet --rate 200 --slo-ms 50 --write --html tune.html
"""
SLICE_S = 2.0


@click.command("tune", epilog=_EXAMPLES)
@click.option("--models", required=True, metavar="DIR", help="The model repository; the model's folder is not changed.",
              type=click.Path(exists=True, file_okay=False, path_type=Path))  # fmt: skip
@click.option("--write", is_flag=True, help="Write the recommended model.toml into the model's folder; comments in it "
              "are lost.")  # fmt: skip
@scenario_options(without=("version",))
@report_options
def command(models: Path, write: bool, *, json_file: str | None, html_file: Path | None, **values: Any) -> None:
    """Try settings of a model on a server of its own, on this machine, and print the model.toml that is best.

    Settings are instances x threads up to the cores, and batch rows; the worse ones are given up early. With --slo-ms
    the best is the one with the most throughput within it. A first slice lasts --duration-s, 2 by default.
    """
    values["duration_s"] = values["duration_s"] or SLICE_S
    scenario = read_scenario(values)
    template = scenario.to_slice()
    subject = f"model {scenario.model} of {models}"
    with reporting("tune", scenario, subject, json_file=json_file, html_file=html_file) as reporter:
        runs: list[Run] = []
        with reporter.progress as progress, TuneServer(models, scenario.model) as server:
            with Client(server.address) as client:
                batchable = signature_of(client.metadata(scenario.model), scenario.shapes_by_input()).batchable
            settings = tune.settings_for(usable_cores(), server.config, rows=scenario.rows, batchable=batchable)
            with Session(
                [Server(server.address)], scenario, progress.note, interrupt=reporter.interrupt
            ) as session:  # fmt: skip

                def note(trial: tune.Trial) -> None:
                    runs.append(Run(f"{trial.setting}, round {trial.number}", trial.outcome))
                    reporter.write(runs[-1])
                    progress.stage(f"round {trial.number}, {len(runs)} runs so far, {len(settings)} settings")

                progress.stage(f"round 1, {len(settings)} settings")
                found = tune.tune(
                    server.measuring(session.record), settings, template=template, rows=scenario.rows,
                    seed=scenario.seed, on_trial=note,
                )  # fmt: skip
            text = tune.model_toml(server.values, found.best.setting) if found.best else None
        reporter.show(view_of(found, text, runs))
        if text is not None:
            click.echo(f"\n{models / scenario.model / 'model.toml'}:\n\n{text}", err=json_file == "-")
        if text is not None and write:
            _write(models / scenario.model / "model.toml", text)


def view_of(found: tune.Tuning, text: str | None, runs: list[Run]) -> FrontierView:
    """Return what reports show of a tuning: each setting by its longest trial."""
    latest = {trial.setting: trial for trial in found.trials}
    on_frontier = {trial.setting for trial in found.frontier}
    best = found.best.setting if found.best else None
    return FrontierView(
        settings=tuple(
            Setting(
                label=str(setting),
                throughput_rps=trial.outcome.throughput_rps,
                p99_us=trial.outcome.latency_us.p99,
                on_frontier=setting in on_frontier,
                recommended=setting == best,
            )
            for setting, trial in sorted(latest.items())
        ),
        model_toml=text,
        runs=tuple(runs),
        failure=found.failure or (None if best else _why_none(found)),
    )


def _why_none(found: tune.Tuning) -> str:
    reasons = [trial.outcome.failure for trial in found.trials if trial.outcome.failure]
    return reasons[0] if reasons else "no request was answered under any setting"


def _write(path: Path, text: str) -> None:
    """Replace a file in one step. Raises ConfigError."""
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(text)
        part.replace(path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from None
