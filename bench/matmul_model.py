"""A model that is heavy and small: matrix products, milliseconds for a row alone and far less for one in a batch.

A row alone reads all weights from memory for one product each; a batch reads them once. So batches, threads and
instances matter, as they do for the dense layers of real models.
"""

from pathlib import Path

import numpy as np

INPUT = "x"


def write_matmul(models: Path, name: str, *, width: int = 1024, layers: int = 4) -> Path:
    """Write a model of so many dense layers of `width` x `width` float32 weights, seeded; return its file.

    It takes and gives rows of `width` values; layers end in Relu, and weights are scaled so that values stay finite.
    """
    from onnx import TensorProto, checker, helper, numpy_helper  # noqa: PLC0415 - behind the extra

    random = np.random.default_rng(0)
    nodes, weights, last = [], [], INPUT
    for layer in range(layers):
        values = random.standard_normal((width, width)) * (2 / width) ** 0.5
        weights.append(numpy_helper.from_array(values.astype(np.float32), f"weights_{layer}"))
        product, out = f"product_{layer}", "y" if layer == layers - 1 else f"layer_{layer}"
        nodes += [
            helper.make_node("MatMul", [last, f"weights_{layer}"], [product]),
            helper.make_node("Relu", [product], [out]),
        ]
        last = out
    shape: list[str | int | None] = ["rows", width]
    inputs = [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, shape)]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)]
    graph = helper.make_graph(nodes, name, inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model)
    path = models / name / "1" / "model.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())
    return path
