"""Quickstart for models that are asked with raw input: what the tours for images and texts share.

A kind trains a model on the spot, describes the files of its servable, and has a reference in Python that the served
answers are held to.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import click
import numpy as np

from serving.errors import ConfigError
from serving.pb import open_inference_pb2 as pb
from serving.transport.client import Client
from serving.types import Array, Datatype

VERSION = "1"
OPSET = 21  # what onnxruntime 1.23, the oldest that Penstock runs on, can load
IR_VERSION = 10


class RawModel(Protocol):
    """A trained model of one kind. Inputs are one element of BYTES each."""

    name: str
    input: str
    summary: str
    tolerance: float
    """How far a probability may be from the reference's: as far as decoding and resizing may be from Pillow's."""

    def files(self) -> Mapping[str, bytes]:
        """Return the files of the servable by their paths in a model repository."""

    def held_out_inputs(self) -> list[Any]:
        """Return inputs that it was not trained on."""

    def reference(self, inputs: Sequence[Any]) -> tuple[list[str], list[float]]:
        """Return labels and their probabilities, computed in Python."""


def trained(kind: str) -> RawModel:
    """Train the model of a kind. Raises ConfigError when a library is missing."""
    try:
        if kind == "image":
            from serving.commands import quickstart_image as module  # noqa: PLC0415 - behind extras
        else:
            from serving.commands import quickstart_text as module  # type: ignore[no-redef]  # noqa: PLC0415
        model: RawModel = module.train()
    except ImportError as error:
        raise ConfigError(
            f"quickstart --kind {kind} needs {error.name}: pip install 'penstock[convert,{kind}]'"
        ) from None
    click.echo(f"  train      {model.summary}")
    return model


def write(model: RawModel, models: Path) -> None:
    """Write the servable; the graph last, so that a server that watches the folder sees it whole."""
    folder = models / model.name
    ours = {VERSION, "model.toml"}
    others = sorted(entry.name for entry in folder.iterdir() if entry.name not in ours) if folder.is_dir() else []
    if others:
        raise ConfigError(f"{folder} holds {', '.join(others)} already; name another folder with --models")
    try:
        for name, content in model.files().items():
            path = models / name
            path.parent.mkdir(parents=True, exist_ok=True)
            draft = path.with_suffix(".part")
            draft.write_bytes(content)
            draft.replace(path)
    except OSError as error:
        raise ConfigError(f"cannot write to {folder}: {error.strerror}") from None
    click.echo(f"  write      {folder} ({', '.join(sorted(Path(name).name for name in model.files()))})")


def tensors(model: RawModel, inputs: Sequence[Any]) -> dict[str, tuple[Datatype, Array]]:
    """Return inputs as a client sends them."""
    array = np.empty(len(inputs), np.object_)
    array[:] = list(inputs)
    return {model.input: (Datatype.BYTES, array)}


def compare(model: RawModel, address: str) -> None:
    """Ask for every held-out input, and hold the answers to the reference's. Raises ConfigError when they differ."""
    inputs = model.held_out_inputs()
    labels, probabilities = model.reference(inputs)
    served_labels: list[str] = []
    served: list[float] = []
    with Client(address) as client:
        for begin in range(0, len(inputs), 100):
            _, outputs = client.infer(model.name, tensors(model, inputs[begin : begin + 100]))
            served_labels += [str(label) for label in outputs["label"].reshape(-1)]
            served += outputs["probability"].reshape(-1).tolist()
    difference = float(np.abs(np.array(served) - probabilities).max())
    same = sum(ours == theirs for ours, theirs in zip(served_labels, labels, strict=True))
    if difference > model.tolerance or same < 0.99 * len(labels):
        raise ConfigError(
            f"the served answers differ from the reference's: {same} of {len(labels)} labels are the same, "
            f"probabilities differ by up to {difference:.2g}"
        )
    click.echo(
        f"  predict    {len(inputs)} raw inputs over gRPC: {same} labels are the reference's, probabilities within "
        f"{difference:.1e}; for example {served_labels[0]!r} ({served[0]:.0%})"
    )


def passes(model: RawModel, address: str) -> str:
    """Return what the server does to a row, a line per pass."""
    with Client(address) as client:
        answer = client.call("ModelConfig", pb.ModelConfigRequest(name=model.name), pb.ModelConfigResponse)
    report = json.loads(answer.config.parameters["pipeline"].string_value)
    lines = [f"{', '.join(item['steps'])}: {item['ns_per_row'] / 1e3:.1f} us per row" for item in report]
    return "\n".join(f"  pipeline   {line}" for line in lines)


def graph_of(nodes: Sequence[Any], inputs: Sequence[Any], constants: Mapping[str, Array], outputs: int) -> bytes:
    """Return a graph of these nodes, from `inputs` to FP32 `scores` [rows, outputs], as an ONNX file."""
    from onnx import TensorProto, helper, numpy_helper  # noqa: PLC0415 - behind the extra

    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["rows", outputs])
    initializers = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(list(nodes), "graph", list(inputs), [scores], initializer=initializers)
    opset = [helper.make_opsetid("", OPSET)]
    content: bytes = helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION).SerializeToString()
    return content
