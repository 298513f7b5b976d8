"""`penstock convert`: from a trained model to a package that `penstock serve` takes."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import click

from converters.draft import Kind
from serving.errors import ConfigError

_FILE = click.Path(dir_okay=False, path_type=Path)
VERSION_MAX = 2**63 - 1
_EXTRA = "converting needs {name}, which is not installed: pip install 'penstock[convert]'"


@dataclass(frozen=True, slots=True)
class Place:
    """Where the package goes: DIR/NAME/VERSION."""

    path: Path

    @property
    def name(self) -> str:
        """The model's name."""
        return self.path.absolute().parent.name


def _place(_: click.Context, __: click.Parameter, value: Path) -> Place:
    version = re.fullmatch(r"0|[1-9][0-9]{0,18}", value.name)  # as a server reads them
    if not version or int(value.name) > VERSION_MAX or not value.absolute().parent.name:
        raise click.BadParameter(
            f"{value} does not end in NAME/VERSION, where VERSION is an integer, as in models/fraud/1"
        )
    return Place(value)


def _waivers(_: click.Context, __: click.Parameter, values: Sequence[str]) -> dict[str, str]:
    found = {}
    for value in values:
        name, separator, reason = value.partition(":")
        if not separator or not name or not reason.strip():
            raise click.BadParameter(f"{value!r} is not NAME:REASON, as in edge-nan:callers send no missing numbers")
        found[name] = reason.strip()
    return found


def _names(_: click.Context, __: click.Parameter, value: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in value.split(",") if name.strip())


@click.command("convert")
@click.argument("model")
@click.option("--sample", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE",
              help="Rows like the model's real ones, to prove it on: .npy, .npz, .csv or .parquet.")  # fmt: skip
@click.option("--out", "place", required=True, type=click.Path(path_type=Path), callback=_place,
              metavar="DIR/NAME/VERSION", help="Where the package goes, in a model repository.")  # fmt: skip
@click.option("--passes", default="", callback=_names, metavar="NAME,...",
              help="Passes to apply, in this order: slim, optimised, fp16, int8-static.")  # fmt: skip
@click.option("--recommend", is_flag=True, help="Try every pass and say which are worth it; none is applied for that.")
@click.option("--waive", "waivers", multiple=True, callback=_waivers, metavar="NAME:REASON",
              help="Let a check of parity fail, for a reason that the package keeps; may be repeated.")  # fmt: skip
@click.option(
    "--kind", type=click.Choice(get_args(Kind)), help="Which tolerance answers are held to, if not the model's."
)
@click.option("--batch-rows-max", type=click.IntRange(1, 65_536), default=256, show_default=True,
              help="The largest batch that is tried; the server's [batching] batch_rows_max.")  # fmt: skip
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="For rows that are chosen by chance."
)
@click.option("--licence", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE",
              help="The model's licence, a text file that goes into the package.")  # fmt: skip
@click.option("--html", "html_file", type=_FILE, metavar="FILE", help="Write the report as a page that opens offline.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path, allow_dash=True), metavar="FILE",
              help="Write the report as JSON, - for standard output.")  # fmt: skip
def command(**options: Any) -> None:
    """Convert MODEL to ONNX, prove that it gives the same answers, and write a package.

    MODEL is a .joblib or .pkl file, a framework's own (.json and .ubj of XGBoost, .txt of LightGBM, .cbm of CatBoost,
    .keras, .pt2 of torch.export, the folder of a SavedModel), an .onnx, or MODULE:OBJECT. A pickle runs code when it is
    loaded, and a SavedModel may: give only files that you trust. Nothing of it but a graph enters the package.
    """
    try:
        from converters.work import work  # noqa: PLC0415 - needs the extra, and --help should not
    except ModuleNotFoundError as error:
        raise ConfigError(_EXTRA.format(name=error.name)) from None
    work(**options)


def write_json(path: Path | None, value: Any) -> None:
    """Write a report as JSON. Raises ConfigError when it cannot be written."""
    if path is None:
        return
    try:
        with click.open_file(str(path), "w", encoding="utf-8", errors="backslashreplace") as stream:
            stream.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
    except OSError as error:
        raise ConfigError(f"--json {path} cannot be written: {error.strerror}") from None
