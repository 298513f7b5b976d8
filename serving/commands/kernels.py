"""`penstock kernels`: compile what the native transport needs before it is needed."""

from dataclasses import asdict
from pathlib import Path

import click

from serving.commands.options import json_option, show
from serving.statistics import KERNEL_MODULES


@click.command("kernels")
@json_option
def command(json_file: Path | None) -> None:
    """Compile the native transport's kernels, or load them, and say where they are kept.

    `penstock serve` does the same at its first start, for most of a minute of CPU. The cache is in the folder
    penstock/kernels of XDG_CACHE_HOME, or of ~/.cache.
    """
    from serving.wire.kernels import load  # noqa: PLC0415 - brings numba with it, and `--help` is instant

    result = load(_note, others=KERNEL_MODULES)
    facts = asdict(result) | {"cache": str(result.cache)}
    show(
        f"{result.compiled} kernels compiled, {result.loaded} loaded, {result.cpu_s:.1f} s of CPU\n{result.cache}",
        facts,
        json_file,
    )


def _note(name: str, cpu_s: float | None) -> None:
    """Show what is being compiled, on stderr, so that `--json -` stays JSON."""
    if cpu_s is None:
        click.echo(f"compiling {name} ...", nl=False, err=True)
    else:
        click.echo(f" {cpu_s:.1f} s", err=True)
