"""`penstock bench compare`: two servers, or two models of one, side by side."""

import dataclasses
from pathlib import Path
from typing import Any

import click

from bench import compare
from bench.commands.options import read_scenario, report_options, scenario_options
from bench.commands.reporting import reporting
from bench.report.views import ComparisonView, Ratio, Run
from bench.session import Server, Session
from serving.commands.options import Connect, client_options

_EXAMPLES = """\b
Examples:
  penstock bench compare 127.0.0.1:8001 127.0.0.1:9001 --model iris --rate 1000
  penstock bench compare 127.0.0.1:8001 127.0.0.1:8001/iris_int8 --model iris --concurrency 16

A and B are HOST:PORT, or HOST:PORT/MODEL for another model than that of --model.
"""
SLICE_S = 2.0
WARM_UP_S = 0.25


@click.command("compare", epilog=_EXAMPLES)
@click.argument("a")
@click.argument("b")
@click.option("--pairs", type=int, default=compare.PAIRS_MIN, show_default=True, metavar="N", help="Pairs of slices.")
@scenario_options()
@client_options
@report_options
def command(
    a: str, b: str, pairs: int, *, connect: Connect, json_file: str | None, html_file: Path | None, **values: Any
) -> None:
    """Measure A and B in short slices, A B B A and so on, and say by how much B differs.

    One pair of slices is one observation, so the 95 % intervals hold the noise between slices in them. A slice lasts
    --duration-s, 2 by default.
    """
    values["duration_s"] = values["duration_s"] or SLICE_S
    values["warm_up_s"] = values["warm_up_s"] or WARM_UP_S
    scenario = read_scenario(values)
    slice_ = scenario.to_slice()
    servers = [dataclasses.replace(_server(text), tls=connect.tls) for text in (a, b)]
    subject = f"model {scenario.model}: A is {a}, B is {b}"
    with reporting("compare", scenario, subject, json_file=json_file, html_file=html_file) as reporter:
        done: list[compare.Pair] = []
        with reporter.progress as progress, Session(
            servers, scenario, progress.note, interrupt=reporter.interrupt
        ) as session:  # fmt: skip

            def note(pair: compare.Pair) -> None:
                done.append(pair)
                reporter.write(Run("A", pair.a))
                reporter.write(Run("B", pair.b))
                progress.stage(f"pair {len(done) + 1} of {pairs}")

            progress.stage(f"pair 1 of {pairs}")
            found = compare.compare(
                session.record, slice_, b=dataclasses.replace(slice_, target=1),
                pairs=pairs, rows=scenario.rows, seed=scenario.seed, on_pair=note,
            )  # fmt: skip
        reporter.show(view_of(found, a, b))


def view_of(found: compare.Comparison, a: str, b: str) -> ComparisonView:
    """Return what reports show of a comparison."""
    names = ("A", "B") if a == b else (a, b)
    runs = [Run(names[side], outcome) for pair in found.pairs for side, outcome in enumerate((pair.a, pair.b))]
    return ComparisonView(
        name_a=names[0],
        name_b=names[1],
        metrics={ratio.figure: Ratio(ratio.estimate, ratio.low, ratio.high) for ratio in found.ratios},
        pairs={
            figure: tuple(read(pair.b) / read(pair.a) for pair in found.pairs)
            for figure, read in compare.FIGURES.items()
        },
        confidence=compare.CONFIDENCE,
        runs=tuple(runs),
        failure=found.failure,
    )


def _server(text: str) -> Server:
    address, _, model = text.partition("/")
    return Server(address, model=model)
