"""`penstock metrics`: what Grafana and Prometheus need beside /metrics."""

import json
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import click

from serving.errors import ConfigError
from serving.statistics.dashboard import dashboard

_Command = Callable[..., Any]


@click.group("metrics")
def group() -> None:
    """Write a dashboard for Grafana and alert rules for Prometheus, for what /metrics shows."""


def _out_option(command: _Command) -> _Command:
    return click.option(
        "--out", default="-", show_default="standard output", metavar="FILE",
        type=click.Path(dir_okay=False, path_type=Path, allow_dash=True), help="Where to write it.",
    )(command)  # fmt: skip


@group.command("dashboard")
@_out_option
def dashboard_command(out: Path) -> None:
    """Write a Grafana dashboard as JSON: import it, or put it where Grafana is provisioned from."""
    _write(json.dumps(dashboard(), indent=2) + "\n", out)


@group.command("alerts")
@_out_option
def alerts(out: Path) -> None:
    """Write alert rules as YAML, for rule_files in Prometheus' configuration."""
    _write(resources.files("serving.statistics").joinpath("alerts.yml").read_text("utf-8"), out)


def _write(text: str, out: Path) -> None:
    try:
        with click.open_file(str(out), "w", encoding="utf-8") as stream:
            stream.write(text)
    except OSError as error:
        raise ConfigError(f"--out {out} cannot be written: {error.strerror}") from None
