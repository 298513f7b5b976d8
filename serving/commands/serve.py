"""`penstock serve`."""

import logging
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from serving.commands import logs
from serving.commands.options import environment, environment_name, resolve, server_options, unknown_variables
from serving.config import ServerConfig
from serving.errors import ConfigError
from serving.server import serve

_EXAMPLES = """\b
Examples:
  penstock serve --models ./models
  penstock serve --models ./models --poll-interval-s 2 --host 0.0.0.0
  penstock serve --registry ./registry --model fraud@production
"""
"""The first character tells click to keep the lines."""


@click.command("serve", epilog=_EXAMPLES)
@server_options
@click.option(
    "--config", "config_file", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
    envvar=environment_name("config"), show_envvar=True,
    help="A TOML file with these options, written with underscores. Variables beat it, and flags beat both.",
)  # fmt: skip
def command(config_file: Path | None, **flags: Any) -> None:
    """Serve the models of a folder, or of a registry by alias, over gRPC.

    The folder holds MODEL/VERSION/model.onnx, where VERSION is an integer, and optionally MODEL/model.toml. A package
    may take the place of model.onnx: MODEL/VERSION/ is its folder, or MODEL/VERSION.tar its tar.
    """
    config = resolve(flags, config_file)
    _check_registry(config)
    logs.set_up(config.log_format, config.log_level)
    for line in unknown_variables(environment()):
        logging.getLogger(__name__).warning(line)
    serve(config)


def _check_registry(config: ServerConfig) -> None:
    """Refuse a registry of which nothing is to be served. Raises ConfigError.

    Its variable may be set for `penstock registry` alone, and says nothing about what to serve.
    """
    source = click.get_current_context().get_parameter_source("registry")
    if config.registry and not config.model and source is not ParameterSource.ENVIRONMENT:
        raise ConfigError(f"registry = {config.registry}, and no model says what to serve from there; name an alias, "
                          "such as --model fraud@production")  # fmt: skip
