"""Small real ONNX graphs, and the folders that a model repository is made of."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

OPSET = [helper.make_opsetid("", 21)]
IR_VERSION = 10  # what onnxruntime 1.23 can load

ONNX_TYPES = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
    "BF16": TensorProto.BFLOAT16,
}


def build(nodes, inputs, outputs, initializers=()) -> bytes:
    """Serialise a graph. Inputs and outputs are (name, datatype, shape), with a string for an open dimension."""
    values = [
        [helper.make_tensor_value_info(name, ONNX_TYPES[datatype], list(shape)) for name, datatype, shape in group]
        for group in (inputs, outputs)
    ]
    graph = helper.make_graph(list(nodes), "graph", *values, initializer=list(initializers))
    return helper.make_model(graph, opset_imports=OPSET, ir_version=IR_VERSION).SerializeToString()


def identity(datatype: str, shape=("rows", 4)) -> bytes:
    """y = x, of any datatype."""
    return build([helper.make_node("Identity", ["x"], ["y"])], [("x", datatype, shape)], [("y", datatype, shape)])


def affine(width: int = 4, scale: float = 2.0, offset: float = 1.0, *, rows: str | int = "rows") -> bytes:
    """y = scale * x + offset, FP32 [rows, width]; a number of rows is fixed."""
    constants = [
        helper.make_tensor("scale", TensorProto.FLOAT, [], [scale]),
        helper.make_tensor("offset", TensorProto.FLOAT, [], [offset]),
    ]
    nodes = [
        helper.make_node("Mul", ["x", "scale"], ["scaled"]),
        helper.make_node("Add", ["scaled", "offset"], ["y"]),
    ]
    return build(nodes, [("x", "FP32", (rows, width))], [("y", "FP32", (rows, width))], constants)


def add_and_subtract() -> bytes:
    """Two inputs, two outputs, as Triton's `simple` model: OUTPUT0 = INPUT0 + INPUT1, OUTPUT1 = INPUT0 - INPUT1."""
    nodes = [
        helper.make_node("Add", ["INPUT0", "INPUT1"], ["OUTPUT0"]),
        helper.make_node("Sub", ["INPUT0", "INPUT1"], ["OUTPUT1"]),
    ]
    return build(
        nodes,
        [("INPUT0", "INT64", ("rows", 16)), ("INPUT1", "INT64", ("rows", 16))],
        [("OUTPUT0", "INT64", ("rows", 16)), ("OUTPUT1", "INT64", ("rows", 16))],
    )


def lookup(width: int = 4, table_rows: int = 10) -> bytes:
    """y = table[index], INT64 [rows] -> FP32 [rows, width]: an index beyond the table fails the whole batch."""
    table = np.arange(table_rows * width, dtype=np.float32).reshape(table_rows, width)
    constants = [helper.make_tensor("table", TensorProto.FLOAT, table.shape, table.tobytes(), raw=True)]
    nodes = [helper.make_node("Gather", ["table", "index"], ["y"])]
    return build(nodes, [("index", "INT64", ("rows",))], [("y", "FP32", ("rows", width))], constants)


def brittle(scale: float = 2.0, breaks_at: int = 10) -> bytes:
    """y = scale * x + 1, FP32 [rows, 4], which fails for rows whose first number is `breaks_at` or more."""
    constants = [
        helper.make_tensor("scale", TensorProto.FLOAT, [], [scale]),
        helper.make_tensor("table", TensorProto.FLOAT, [breaks_at, 4], [1.0] * 4 * breaks_at),
        helper.make_tensor("first", TensorProto.INT64, [], [0]),
    ]
    nodes = [
        helper.make_node("Mul", ["x", "scale"], ["scaled"]),
        helper.make_node("Gather", ["x", "first"], ["number"], axis=1),
        helper.make_node("Cast", ["number"], ["index"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "index"], ["offset"]),
        helper.make_node("Add", ["scaled", "offset"], ["y"]),
    ]
    return build(nodes, [("x", "FP32", ("rows", 4))], [("y", "FP32", ("rows", 4))], constants)


def fixed_shape() -> bytes:
    """y = x, FP32 [2, 3]: not batchable, since the first dimension is fixed."""
    return identity("FP32", (2, 3))


def centred(rows: str | int = "rows") -> bytes:
    """y = x minus the mean of all rows, FP32 [rows, 4]: an answer depends on what else is in the batch."""
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [0])
    nodes = [
        helper.make_node("ReduceMean", ["x", "axes"], ["mean"], keepdims=1),
        helper.make_node("Sub", ["x", "mean"], ["y"]),
    ]
    return build(nodes, [("x", "FP32", (rows, 4))], [("y", "FP32", (rows, 4))], [axes])


def open_inner() -> bytes:
    """y = x, FP32 [rows, length]: rows of different length cannot share a batch."""
    return identity("FP32", ("rows", "length"))


def heavy(width: int = 512, layers: int = 8) -> bytes:
    """A chain of matrix products: milliseconds per batch, for tests that need an instance to be busy."""
    rng = np.random.default_rng(7)
    nodes, constants, last = [], [], "x"
    for layer in range(layers):
        weights = (rng.standard_normal((width, width)) / width**0.5).astype(np.float32)
        constants.append(helper.make_tensor(f"w{layer}", TensorProto.FLOAT, weights.shape, weights.tobytes(), raw=True))
        name = "y" if layer == layers - 1 else f"h{layer}"
        nodes.append(helper.make_node("MatMul", [last, f"w{layer}"], [name]))
        last = name
    return build(nodes, [("x", "FP32", ("rows", width))], [("y", "FP32", ("rows", width))], constants)


def single_and_half() -> bytes:
    """single = x, half = x as FP16, from FP32 [rows, 4]: `half` has no typed form, `single` has one."""
    nodes = [
        helper.make_node("Identity", ["x"], ["single"]),
        helper.make_node("Cast", ["x"], ["half"], to=TensorProto.FLOAT16),
    ]
    return build(nodes, [("x", "FP32", ("rows", 4))], [("single", "FP32", ("rows", 4)), ("half", "FP16", ("rows", 4))])


def slow(width: int = 512, layers: int = 24) -> bytes:
    """A chain of products with one matrix, FP32 [rows, width]: tens of milliseconds for 256 rows, in a small file."""
    weights = (np.random.default_rng(7).standard_normal((width, width)) / width**0.5).astype(np.float32)
    constants = [helper.make_tensor("w", TensorProto.FLOAT, weights.shape, weights.tobytes(), raw=True)]
    names = ["x", *(f"h{layer}" for layer in range(1, layers)), "y"]
    nodes = [helper.make_node("MatMul", [names[layer], "w"], [names[layer + 1]]) for layer in range(layers)]
    return build(nodes, [("x", "FP32", ("rows", width))], [("y", "FP32", ("rows", width))], constants)


def write_model(repository: Path, name: str, graph: bytes, *, version: int = 1, config: str | None = None) -> Path:
    """Put a version into a model repository; return its folder."""
    folder = repository / name / str(version)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(graph)
    if config is not None:
        (repository / name / "model.toml").write_text(config)
    onnx.checker.check_model(graph) if len(graph) < 1_000_000 and b"BFLOAT16" not in graph else None
    return folder
