"""The command line of the distribution."""

import importlib
import io
import os
import sys

import click

from serving import __version__
from serving.errors import ConfigError, PackageError, RegistryError, RemoteError, ServingError

_LAZY = {
    "serve": ("serving.commands.serve", "command", "Serve the models of a folder over gRPC."),
    "models": ("serving.commands.models", "group", "List, load and unload the models of a running server."),
    "infer": ("serving.commands.infer", "command", "Ask a running server for one prediction."),
    "score": ("serving.commands.score", "command", "Score a file of rows with a model or a package, without a server."),
    "pack": ("serving.commands.packages", "pack", "Make a package of a model's folder: one digest, signed or not."),
    "unpack": ("serving.commands.packages", "unpack_command", "Write the parts of a package as plain files."),
    "inspect": ("serving.commands.packages", "inspect", "Verify a package and show what it holds."),
    "registry": ("serving.commands.registry", "group", "Keep packages, move aliases, look at who released what."),
    "convert": ("converters.command", "command", "Convert a trained model, prove its answers, write a package."),
    "bench": ("bench.commands.group", "group", "Measure a server: load, latency, knee, comparison, tuning."),
    "drift": ("serving.commands.drift", "group", "See whether what is served still looks like the training data."),
    "metrics": ("serving.commands.metrics", "group", "Write a Grafana dashboard and Prometheus alert rules."),
    "kernels": (
        "serving.commands.kernels",
        "command",
        "Compile the native transport's kernels before the first start.",
    ),
    "quickstart": (
        "serving.commands.quickstart",
        "command",
        "Train, convert, serve and ask a real model, in a minute.",
    ),
}


class LazyGroup(click.Group):
    """Imports a command's module when the command is used, so that `--help` is instant."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """See click.Group."""
        return list(_LAZY)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """See click.Group."""
        if cmd_name not in _LAZY:
            return None
        name, attribute, _ = _LAZY[cmd_name]
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name.partition(".")[0]:
                raise
            raise ConfigError(f"`penstock {cmd_name}` is not part of this installation, as in the image") from None
        command: click.Command = getattr(module, attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """See click.Group."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in _LAZY.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="penstock")
def cli() -> None:
    """Penstock serves versioned ONNX models over the Open Inference Protocol.

    Begin with `penstock quickstart`.
    """


def main() -> None:
    """Run the command line; every expected failure is one line on stderr and a non-zero exit status."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # grpc's core would print lines of its own beside that one
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr is: a path may hold what is no text
    try:
        sys.exit(cli(standalone_mode=False))  # the status of a command that exits early, None otherwise
    except click.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except UnicodeEncodeError as error:
        click.echo(f"penstock: {error.object!r} is not valid text", err=True)
        sys.exit(1)
    except (ConfigError, PackageError, RegistryError, RemoteError, ServingError) as error:
        click.echo(f"penstock: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
