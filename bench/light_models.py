"""The convolutional graphs that ship with the onnx package, made servable: batch open, weights random."""

from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from serving.types import Array

IR_VERSION = 8


def open_batch(name: str) -> bytes:
    """Return `light_<name>` of the onnx package with an open batch dimension and seeded random weights."""
    folder = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
    model = onnx.load(folder / f"light_{name}.onnx")
    initialised = {tensor.name for tensor in model.graph.initializer}
    _fill_weights(model.graph)
    inputs = [value for value in model.graph.input if value.name not in initialised]
    for value in (*inputs, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "rows"
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    model.ir_version = IR_VERSION
    data: bytes = model.SerializeToString()
    return data


def _fill_weights(graph: onnx.GraphProto) -> None:
    """Replace the nodes that make constant weights by random ones, scaled so that activations stay finite."""
    random = np.random.default_rng(0)
    shapes = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in [node for node in graph.node if node.op_type == "ConstantOfShape"]:
        shape = tuple(int(dimension) for dimension in shapes[node.input[0]])
        fan_in = int(np.prod(shape[1:])) or 1
        weights = (random.standard_normal(shape) * (2 / fan_in) ** 0.5).astype(np.float32)
        graph.initializer.append(numpy_helper.from_array(weights, node.output[0]))
        graph.node.remove(node)
    used = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)
    _make_reshapes_follow_rows(graph, shapes)


def _make_reshapes_follow_rows(graph: onnx.GraphProto, shapes: dict[str, Array]) -> None:
    """Let reshapes keep their first dimension instead of a batch of one."""
    for node in [node for node in graph.node if node.op_type == "Reshape"]:
        shape = shapes.get(node.input[1])
        if shape is not None and shape.size > 2:
            kept = np.array([0, *shape[1:]], np.int64)  # 0 copies the dimension of the input
            graph.initializer.append(numpy_helper.from_array(kept, f"{node.output[0]}_rows"))
            node.input[1] = f"{node.output[0]}_rows"
            continue
        flat = helper.make_node("Flatten", [node.input[0]], list(node.output), axis=1)
        graph.node.insert(list(graph.node).index(node), flat)
        graph.node.remove(node)
