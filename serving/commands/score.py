"""`penstock score`: a file of rows in, a file of answers out, in this process and without a server."""

import time
from pathlib import Path
from typing import Any

import click

from serving.commands.options import json_option, show
from serving.errors import ConfigError
from serving.scoring.opened import check_graph_alone, open_model
from serving.scoring.run import BATCH_ROWS, CHUNK_ROWS_MAX, Settings, score
from serving.tables.sources import open_source

_FILE = click.Path(path_type=Path, dir_okay=False)
_SHOW_EVERY_S = 1.0

_EXAMPLES = """\b
Examples:
  penstock score fraud.tar --input rows.csv --out answers.csv --keep id
  penstock score models/fraud/3 --input rows.parquet --out answers.parquet --output probabilities
"""
"""The first character tells click to keep the lines."""


@click.command("score", epilog=_EXAMPLES)
@click.argument("model", metavar="MODEL_OR_PACKAGE", type=click.Path(path_type=Path))
@click.option(
    "--input", "source", required=True, type=_FILE, metavar="FILE", help="Rows: .csv, .parquet, .npz or .npy."
)
@click.option("--out", required=True, type=_FILE, metavar="FILE", help="Answers: .csv, .parquet, .npz or .npy.")
@click.option(
    "--output", "outputs", multiple=True, metavar="NAME", help="Only this output; may be given several times."
)
@click.option("--keep", multiple=True, metavar="NAME",
              help="Copy this column, such as an id, before the answers; may be given several times.")  # fmt: skip
@click.option("--file-order", is_flag=True,
              help="Feed the columns in the file's order to a model that does not name its own.")  # fmt: skip
@click.option("--batch-rows", type=click.IntRange(1, CHUNK_ROWS_MAX), default=BATCH_ROWS, show_default=True,
              metavar="N", help="Rows that the model computes at a time, as a server's batch_rows_max.")  # fmt: skip
@click.option("--checkpoint-rows", type=click.IntRange(0, 1 << 20), default=0, metavar="N",
              help="Keep answers every N rows; 0 chooses by the size of a row.  [default: 0]")  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Replace a file of answers that is there already.")
@json_option
def command(
    model: Path, source: Path, out: Path, *, overwrite: bool, json_file: Path | None, **settings: Any
) -> None:  # fmt: skip
    """Score a file of rows with a model or a package, in bounded memory.

    Columns of a table are found by name: a column of an input's name, or the columns that the package names, in any
    order. A run that was stopped goes on where it was when the same command is given again.
    """
    if out.exists() and not overwrite:
        raise ConfigError(f"{out} is there already; name another file, or give --overwrite")
    if out.exists() and source.exists() and out.samefile(source):
        raise ConfigError(f"{out} is the input, whose rows the answers would replace; name another file")
    check_graph_alone(model)
    opened, rows = open_model(model), open_source(source)
    shown = _Progress()
    try:
        count = score(opened, rows, out, settings=Settings(**settings), identity=_identity(source), progress=shown)
    except KeyboardInterrupt:
        click.echo(f"penstock: stopped after {shown.rows} rows; the same command goes on from there", err=True)
        raise click.Abort from None
    show(f"{count} rows scored into {out}", {"rows": count, "path": str(out), "model": opened.digest}, json_file)


def _identity(source: Path) -> dict[str, Any]:
    """Tell a file from another, and from itself after a change."""
    facts = source.stat()
    return {"path": str(source.absolute()), "bytes": facts.st_size, "mtime_ns": facts.st_mtime_ns}


class _Progress:
    """Shows how far a run is on stderr, the first time and then not more often than people read."""

    def __init__(self) -> None:
        self.rows = 0
        self._began_rows: int | None = None
        self._began_s = self._shown_s = time.monotonic()

    def __call__(self, rows: int, total: int | None) -> None:
        """Note the rows done."""
        now_s = time.monotonic()
        if self._began_rows is None:
            self._began_rows = rows
            if rows:
                click.echo(f"going on after {rows} rows", err=True)
        elif not self.rows or now_s - self._shown_s >= _SHOW_EVERY_S:
            rate = (rows - self._began_rows) / max(now_s - self._began_s, 1e-9)
            click.echo(f"{rows}{f' of {total}' if total is not None else ''} rows, {rate:,.0f} rows/s", err=True)
            self._shown_s = now_s
        self.rows = rows
