"""The group `penstock bench`; a command's module is imported when the command is used."""

import importlib

import click

from serving.errors import ConfigError

_COMMANDS = {
    "run": "One load: latency, throughput, errors.",
    "sweep": "One run per rate or concurrency.",
    "knee": "The largest rate whose p99 stays within an objective.",
    "compare": "Two servers or models side by side: is B slower than A?",
    "tune": "Instances, threads and batch rows for a model on this machine.",
    "peers": "The same model on other servers that are installed here.",
    "overhead": "What counting drift and scraping /metrics cost on this machine.",
    "simulate": "The batching policy against its rivals, in virtual time.",
}


class BenchGroup(click.Group):
    """Imports what a command needs when it is used, so that `--help` is instant."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """See click.Group."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """See click.Group. Raises ConfigError when a library of the extra is missing."""
        if cmd_name not in _COMMANDS:
            return None
        try:
            module = importlib.import_module(f"bench.commands.{cmd_name}")
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"`penstock bench` needs {error.name}, which is not installed: pip install 'penstock[bench]'"
            ) from None
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """See click.Group."""
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group("bench", cls=BenchGroup)
def group() -> None:
    """Measure a server that speaks the Open Inference Protocol over gRPC: this one, Triton, MLServer, KServe, others.

    Latency counts from the moment in which a request was meant to leave, so that a server that stalls is charged for
    every request that it kept waiting.
    """
