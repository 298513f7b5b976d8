"""Surgery on ONNX graphs that keeps what they compute: names, ZipMap, the batch dimension, metadata.

Knows onnx and no framework. A ModelProto is changed in place.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from converters.target import all_nodes
from serving.errors import ConfigError

ROWS = "rows"
"""The name of the open first dimension."""

DTYPES: Mapping[int, np.dtype[Any]] = {
    TensorProto.BOOL: np.dtype(np.bool_),
    TensorProto.UINT8: np.dtype(np.uint8),
    TensorProto.INT8: np.dtype(np.int8),
    TensorProto.UINT16: np.dtype(np.uint16),
    TensorProto.INT16: np.dtype(np.int16),
    TensorProto.UINT32: np.dtype(np.uint32),
    TensorProto.INT32: np.dtype(np.int32),
    TensorProto.UINT64: np.dtype(np.uint64),
    TensorProto.INT64: np.dtype(np.int64),
    TensorProto.FLOAT16: np.dtype(np.float16),
    TensorProto.FLOAT: np.dtype(np.float32),
    TensorProto.DOUBLE: np.dtype(np.float64),
    TensorProto.STRING: np.dtype(object),
}


def load(data: bytes) -> Any:
    """Read a graph. Raises ConfigError for bytes that are none."""
    model = ModelProto()
    try:
        model.ParseFromString(data)
    except Exception as error:
        raise ConfigError(f"these {len(data)} bytes are no ONNX graph: {error}") from None
    if not model.graph.output:
        raise ConfigError(f"these {len(data)} bytes are no ONNX graph: it would have no outputs")
    return model


def graph_inputs(model: Any) -> list[Any]:
    """Return the inputs that a caller gives: those that are no initializers."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in constants]


def input_dtypes(model: Any) -> dict[str, np.dtype[Any]]:
    """Return how each input lies in memory. Raises ConfigError for one that numpy cannot hold."""
    found = {}
    for value in graph_inputs(model):
        element = value.type.tensor_type.elem_type
        if element not in DTYPES:
            raise ConfigError(f"input '{value.name}' is no tensor of a datatype that can be sampled")
        found[value.name] = DTYPES[element]
    return found


def rename(model: Any, names: Mapping[str, str]) -> None:
    """Give values other names, everywhere. Raises ConfigError when a new name is in use."""
    names = {old: new for old, new in names.items() if old != new}
    used = {name for node in all_nodes(model) for name in (*node.input, *node.output)}
    used |= {value.name for value in (*model.graph.input, *model.graph.output)}
    for old, new in names.items():
        if new in used and new not in names:
            rename(model, {new: _free(f"{new}_inner", used)})
        used.add(new)
        assert old, "bug: a value without a name is renamed"
    for node in all_nodes(model):
        node.input[:] = [names.get(item, item) for item in node.input]
        node.output[:] = [names.get(item, item) for item in node.output]
    graph = model.graph
    for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        value.name = names.get(value.name, value.name)


def strip_zipmap(model: Any) -> tuple[str, ...]:
    """Take ZipMap off the end of a classifier; return the classes that it held, none when there was no ZipMap.

    ZipMap turns a tensor of probabilities into a list of dictionaries, which is slow and which the protocol cannot
    carry. The output then is the tensor that went into it.
    """
    labels: tuple[str, ...] = ()
    graph = model.graph
    for node in [node for node in graph.node if node.op_type == "ZipMap"]:
        for attribute in node.attribute:
            labels = labels or tuple(map(_text, attribute.strings or attribute.ints))
        (index,) = (i for i, value in enumerate(graph.output) if value.name == node.output[0])
        tensor = helper.make_tensor_value_info(node.input[0], TensorProto.FLOAT, [ROWS, len(labels)])
        graph.node.remove(node)
        outputs = [tensor if i == index else value for i, value in enumerate(graph.output)]
        del graph.output[:]
        graph.output.extend(outputs)
    return labels


def open_rows(model: Any) -> bool:
    """Name the first dimension of every input and output `rows`, leaving it open; tell whether any was fixed.

    A Reshape to a constant shape that begins with the fixed number of rows is opened too. Whether the graph still
    computes the same is for a check to say.
    """
    fixed = {dims[0].dim_value for dims in map(_dims, graph_inputs(model)) if dims and dims[0].HasField("dim_value")}
    for value in (*graph_inputs(model), *model.graph.output):
        dims = _dims(value)
        if dims:
            dims[0].Clear()
            dims[0].dim_param = ROWS
    if fixed:
        del model.graph.value_info[:]
        _open_reshapes(model, fixed)
    return bool(fixed)


def set_metadata(model: Any, facts: Mapping[str, str]) -> None:
    """Write small facts into the file, in place of an exporter's, which hold dates, paths and random numbers."""
    del model.metadata_props[:]
    for key in sorted(facts):
        model.metadata_props.add(key=key, value=facts[key])
    model.doc_string = model.graph.doc_string = ""
    for node in all_nodes(model):
        node.doc_string = ""
        del node.metadata_props[:]


def correct_shapes(model: Any, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Declare the shapes that outputs were seen to have, where the graph declares rows of another one."""
    for value in model.graph.output:
        dims, seen = _dims(value), shapes.get(value.name, ())[1:]
        declared = [item.dim_value if item.HasField("dim_value") else None for item in dims][1:]
        if seen and (
            len(declared) != len(seen) or any(a not in {None, b} for a, b in zip(declared, seen, strict=True))
        ):
            value.CopyFrom(helper.make_tensor_value_info(value.name, value.type.tensor_type.elem_type, [ROWS, *seen]))


def squeeze_label(model: Any, name: str) -> None:
    """Make an output that holds one value per row one-dimensional, whatever shape it had."""
    values = {value.name: value for value in model.graph.output}
    element = values[name].type.tensor_type.elem_type
    used = {item for node in all_nodes(model) for item in (*node.input, *node.output)}
    inner, shape = _free(f"{name}_shaped", used), _free(f"{name}_shape", used)
    rename(model, {name: inner})
    model.graph.initializer.append(numpy_helper.from_array(np.array([-1], np.int64), shape))
    model.graph.node.append(helper.make_node("Reshape", [inner, shape], [name]))
    outputs = [
        helper.make_tensor_value_info(name, element, [ROWS]) if value.name == inner else value
        for value in model.graph.output
    ]
    del model.graph.output[:]
    model.graph.output.extend(outputs)


def sort_nodes(model: Any) -> None:
    """Put nodes behind what they need, as ONNX asks; otherwise they keep their order."""
    graph = model.graph
    known = {value.name for value in (*graph.input, *graph.initializer)} | {""}
    waiting, ordered = list(graph.node), []
    while waiting:
        ready = [node for node in waiting if known >= _needs(node)]
        assert ready, "bug: a pass made a graph whose nodes wait for each other"
        ordered += ready
        waiting = [node for node in waiting if not known >= _needs(node)]
        known |= {name for node in ready for name in node.output}
    del graph.node[:]
    graph.node.extend(ordered)


def _needs(node: Any) -> set[str]:
    """Return what a node reads, the graphs inside of it included, less what these make themselves."""
    inner = [attribute.g for attribute in node.attribute if attribute.HasField("g")]
    found = set(node.input)
    for graph in inner:
        made = {value.name for value in (*graph.input, *graph.initializer)}
        made |= {name for item in graph.node for name in item.output}
        found |= {name for item in graph.node for name in _needs(item)} - made
    return found


def keep_outputs(model: Any, names: list[str]) -> None:
    """Leave out the other outputs; what only they needed is dropped by onnxruntime when it loads the graph."""
    kept = [value for value in model.graph.output if value.name in names]
    del model.graph.output[:]
    model.graph.output.extend(kept)


def _open_reshapes(model: Any, fixed: set[int]) -> None:
    shapes = {tensor.name: tensor for tensor in model.graph.initializer}
    constants = {node.output[0]: node for node in model.graph.node if node.op_type == "Constant"}
    for node in model.graph.node:
        if node.op_type != "Reshape":
            continue
        tensor = shapes.get(node.input[1])
        if tensor is None and node.input[1] in constants:
            tensor = next((item.t for item in constants[node.input[1]].attribute if item.name == "value"), None)
        if tensor is None:
            continue
        shape = numpy_helper.to_array(tensor)
        if shape.size and int(shape[0]) in fixed and -1 not in shape:
            opened = np.concatenate([[-1], shape[1:]]).astype(np.int64)
            tensor.CopyFrom(numpy_helper.from_array(opened, tensor.name))


def _dims(value: Any) -> Any:
    return value.type.tensor_type.shape.dim if value.type.tensor_type.HasField("shape") else []


def _free(name: str, used: set[str]) -> str:
    while name in used:
        name += "_"
    return name


def _text(label: Any) -> str:
    return label.decode() if isinstance(label, bytes) else str(label)
