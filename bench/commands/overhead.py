"""`penstock bench overhead`: what counting drift and scraping /metrics cost on this machine."""

from pathlib import Path

import click

from bench.compare import PAIRS_MAX, PAIRS_MIN
from bench.interrupt import STATUS, Interrupt
from bench.overhead import measure_all
from serving.commands.options import Number, json_option, show

_PAIRS, _SLICE_S = 400, 0.2
"""Many short slices: the speed of a machine changes from second to second."""


def _note(text: str) -> None:
    click.echo(text, err=True)


@click.command("overhead")
@click.option("--pairs", type=click.IntRange(PAIRS_MIN, PAIRS_MAX), default=_PAIRS, show_default=True, metavar="N",
              help="Pairs of slices per comparison.")  # fmt: skip
@click.option("--slice-s", type=Number(0.2, 60), default=_SLICE_S, show_default=True, metavar="SECONDS",
              help="How long a slice lasts; 2 s at least where /metrics is scraped, in as much time.")  # fmt: skip
@json_option
def command(pairs: int, slice_s: float, json_file: Path | None) -> None:
    """Serve two models, each counted for drift in every other slice, and compare; also with /metrics scraped or not.

    Takes about 15 minutes and starts its own servers. Ends with 1 when a promise is broken, or could not be judged. On
    a busy machine intervals are wide, and say little.
    """
    lines, facts, failures = [], [], []
    with Interrupt() as interrupt:
        for experiment, found, judged in measure_all(slice_s, pairs, interrupt, _note):
            if found.failure:
                failures.append(f"{experiment.title}: {found.failure}")
            lines += judged
            facts.append({"title": experiment.title, **found.to_json()})
    result = {"lines": [line.to_json() for line in lines], "failures": failures, "comparisons": facts}
    show("\n".join([*map(str, lines), *failures]), result, json_file)
    if interrupt.is_set:
        raise click.exceptions.Exit(STATUS)
    if failures or not all(line.is_kept for line in lines):
        raise click.exceptions.Exit(1)
