"""`penstock infer`: one request from a file, its outputs printed."""

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np

from serving.commands.options import Connect, client_options, json_option, model_option, show
from serving.transport.client import as_datatype
from serving.types import DATATYPES, Array, Datatype

_EXAMPLES = """\b
Examples:
  echo '{"x": [[5.1, 3.5, 1.4, 0.2]]}' | penstock infer --model iris --input -
  penstock infer --model iris --input rows.npz --output probabilities
"""
"""The first character tells click to keep the lines."""


@click.command("infer", epilog=_EXAMPLES)
@model_option(required=True)
@click.option("--version", default="", metavar="N", help="The version; the server picks by its policy without one.")
@click.option("--input", "source", required=True, metavar="FILE|-", type=click.Path(allow_dash=True, dir_okay=False),
              help='A .npz file of arrays by name, or JSON like {"x": [[1.5]]}; - reads standard input.')  # fmt: skip
@click.option(
    "--output", "outputs", multiple=True, metavar="NAME", help="Only this output; may be given several times."
)
@client_options
@json_option
def command(
    model: str, version: str, source: str, outputs: tuple[str, ...], connect: Connect, json_file: Path | None
) -> None:
    """Ask a running server for one prediction and print the outputs as JSON."""
    values = _read(source)
    with connect() as client:
        metadata = client.metadata(model, version)
        inputs = {tensor.name: DATATYPES[tensor.datatype] for tensor in metadata.inputs}
        response, arrays = client.infer(model, _convert(values, inputs), version=version, outputs=outputs)
    result = {name: _readable(response.outputs[i].datatype, array) for i, (name, array) in enumerate(arrays.items())}
    show(json.dumps(result), result, json_file)


def _read(source: str) -> Mapping[str, Any]:
    try:
        if source.endswith(".npz"):
            with np.load(source, allow_pickle=False) as archive:
                return dict(archive)
        with click.open_file(source) as stream:
            values = json.load(stream)
    except (OSError, ValueError, TypeError, EOFError, RecursionError, zipfile.BadZipFile) as error:
        raise click.UsageError(f"--input {source} cannot be read: {error}") from None
    if not isinstance(values, dict):
        raise click.UsageError(
            f"--input {source} holds a JSON {type(values).__name__}, expected an object by input name"
        )
    return _from_protocol_json(values) if _is_protocol_json(values) else values


def _is_protocol_json(values: Mapping[str, Any]) -> bool:
    tensors = values.get("inputs")
    return isinstance(tensors, list) and all(isinstance(tensor, dict) for tensor in tensors)


def _from_protocol_json(values: Mapping[str, Any]) -> dict[str, Any]:
    """Read the protocol's own JSON form: {"inputs": [{"name", "shape", "data"}]}."""
    try:
        return {item["name"]: np.asarray(item["data"]).reshape(item["shape"]) for item in values["inputs"]}
    except (KeyError, TypeError, ValueError) as error:
        raise click.UsageError(f"'inputs' is not a list of name, shape and data: {error}") from None


def _convert(values: Mapping[str, Any], inputs: Mapping[str, Datatype]) -> dict[str, tuple[Datatype, Array]]:
    """Give each array the datatype that the model wants; names are left to the server to judge."""
    return {
        name: (datatype := inputs.get(name, Datatype.FP32), as_datatype(name, value, datatype))
        for name, value in values.items()
    }  # fmt: skip


def _readable(datatype: str, array: Array) -> Any:
    if datatype == Datatype.BF16.wire_name:
        array = (array.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return array.tolist()
