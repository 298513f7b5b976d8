"""Fully connected networks of random weights: models for which batches pay."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np


def write_network(models: Path, name: str, widths: Sequence[int], *, config: str = "") -> None:
    """Write a network with these layers, ReLU between them, as model `name`: FP32 `x` to FP32 `y`."""
    from onnx import TensorProto, checker, helper, numpy_helper  # noqa: PLC0415 - behind the extra

    random, nodes, weights, last = np.random.default_rng(0), [], [], "x"
    for layer, (rows, columns) in enumerate(pairwise(widths)):
        matrix = (random.standard_normal((rows, columns)) / rows**0.5).astype(np.float32)
        weights.append(numpy_helper.from_array(matrix, f"w{layer}"))
        is_last = layer == len(widths) - 2
        nodes.append(helper.make_node("MatMul", [last, f"w{layer}"], ["y" if is_last else f"m{layer}"]))
        if not is_last:
            nodes.append(helper.make_node("Relu", [f"m{layer}"], [f"h{layer}"]))
        last = f"h{layer}"
    graph = helper.make_graph(
        nodes, name,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", widths[0]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", widths[-1]])],
        weights,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model)
    path = models / name / "1" / "model.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())
    (models / name / "model.toml").write_text(config)
