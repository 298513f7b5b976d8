"""Fully connected networks of random weights: some for which batches pay, and one that takes its time in the cache."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from onnx import NodeProto, TensorProto

HIDDEN_WIDTH = 256


def write_network(models: Path, name: str, widths: Sequence[int], *, config: str = "") -> None:
    """Write a network with these layers, ReLU between them, as model `name`: FP32 `x` to FP32 `y`."""
    from onnx import helper  # noqa: PLC0415 - behind the extra

    nodes, weights, last = [], [], "x"
    for layer, (rows, columns) in enumerate(pairwise(widths)):
        weights.append(_matrix(f"w{layer}", rows, columns, seed=layer))
        is_last = layer == len(widths) - 2
        nodes.append(helper.make_node("MatMul", [last, f"w{layer}"], ["y" if is_last else f"m{layer}"]))
        if not is_last:
            nodes.append(helper.make_node("Relu", [f"m{layer}"], [f"h{layer}"]))
        last = f"h{layer}"
    _write(models, name, nodes, weights, widths=(widths[0], widths[-1]), config=config)


def write_deep_network(models: Path, name: str, width: int, layers: int, *, config: str = "") -> None:
    """Write a network of so many hidden layers that all have the same weights, `width` FP32 values in and out.

    The weights of HIDDEN_WIDTH columns stay in a core's own cache, so what it takes depends little on what other cores,
    or other guests of the machine, do with the memory.
    """
    from onnx import helper  # noqa: PLC0415 - behind the extra

    weights = [
        _matrix("into", width, HIDDEN_WIDTH, seed=0),
        _matrix("hidden", HIDDEN_WIDTH, HIDDEN_WIDTH, seed=1),
        _matrix("out", HIDDEN_WIDTH, width, seed=2),
    ]
    nodes, last = [helper.make_node("MatMul", ["x", "into"], ["h0"])], "h0"
    for layer in range(layers):
        nodes.append(helper.make_node("MatMul", [last, "hidden"], [f"m{layer}"]))
        last = f"h{layer + 1}"
        nodes.append(helper.make_node("Relu", [f"m{layer}"], [last]))
    nodes.append(helper.make_node("MatMul", [last, "out"], ["y"]))
    _write(models, name, nodes, weights, widths=(width, width), config=config)


def _matrix(name: str, rows: int, columns: int, seed: int) -> "TensorProto":
    from onnx import numpy_helper  # noqa: PLC0415 - behind the extra

    values = np.random.default_rng(seed).standard_normal((rows, columns)) / rows**0.5
    return numpy_helper.from_array(values.astype(np.float32), name)


def _write(
    models: Path, name: str, nodes: "Sequence[NodeProto]", weights: "Sequence[TensorProto]",
    *, widths: tuple[int, int], config: str,
) -> None:  # fmt: skip
    from onnx import TensorProto, checker, helper  # noqa: PLC0415 - behind the extra

    graph = helper.make_graph(
        nodes, name,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", widths[0]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", widths[1]])],
        weights,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model)
    path = models / name / "1" / "model.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())
    (models / name / "model.toml").write_text(config)
