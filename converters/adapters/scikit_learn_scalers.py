"""Scaling before trees, in float64 as scikit-learn does it.

skl2onnx scales in float32. For a linear model that is an error of the last digit; a tree compares, and its thresholds
are often scaled values of the training data themselves, so that the last digit sends rows the other way (10 of 569
rows of scikit-learn's breast cancer data, in a pipeline of StandardScaler and XGBoost).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from converters.adapters.scikit_learn_parts import parts

NOTE = "scaling in front of trees is done in float64, as scikit-learn does it"
Vector = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _Scaling:
    """(x - offset) / scale of a StandardScaler and its like, or x * scale + offset of a MinMaxScaler."""

    offset: Vector
    scale: Vector
    multiplies: bool


def scale_in_double(converted: Any, model: Any) -> bool:
    """Replace the scalers of a graph, whose numbers are found in the model; tell whether there were any."""
    known = list(_scalings(model))
    nodes: list[Any] = []
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in converted.graph.initializer}
    producers = {node.output[0]: node for node in converted.graph.node}
    replaced: dict[str, tuple[str, _Scaling]] = {}
    unused: set[str] = set()
    for node in converted.graph.node:
        if found := _scaler(node, known):
            replaced[node.output[0]] = (node.input[0], found)
        elif found := _min_max(node, known, constants, producers):
            replaced[node.output[0]] = (producers[node.input[0]].input[0], found)
            unused.add(node.input[0])
    for node in converted.graph.node:
        if node.output[0] in replaced:
            source, scaling = replaced[node.output[0]]
            nodes += _in_double(converted, source, node.output[0], scaling)
        elif node.output[0] not in unused:
            nodes.append(node)
    del converted.graph.node[:]
    converted.graph.node.extend(nodes)
    return bool(replaced)


def _scalings(model: Any) -> Iterator[_Scaling]:
    for part in parts(model):
        kind = type(part).__name__
        if kind == "MinMaxScaler" and hasattr(part, "min_"):
            yield _Scaling(np.asarray(part.min_, np.float64), np.asarray(part.scale_, np.float64), multiplies=True)
        elif kind in {"StandardScaler", "RobustScaler", "MaxAbsScaler"}:
            offset = {"StandardScaler": "mean_", "RobustScaler": "center_"}.get(kind)
            offsets, scale = getattr(part, offset or "", None), getattr(part, "scale_", None)
            width = len(offsets) if offsets is not None else len(scale) if scale is not None else 0
            centred = getattr(part, "with_mean", True) and offsets is not None
            yield _Scaling(
                np.asarray(offsets if centred else np.zeros(width), np.float64),
                np.asarray(scale if scale is not None else np.ones(width), np.float64),
                multiplies=False,
            )


def _scaler(node: Any, known: list[_Scaling]) -> _Scaling | None:
    """Return what a Scaler of ai.onnx.ml does, in float64."""
    if node.op_type != "Scaler":
        return None
    values = {item.name: np.array(item.floats, np.float32) for item in node.attribute}
    for scaling in known:
        if (
            not scaling.multiplies
            and _same(values["offset"], scaling.offset)
            and _same(values["scale"], 1 / scaling.scale)
        ):
            return scaling
    return None


def _min_max(node: Any, known: list[_Scaling], constants: dict[str, Any], producers: dict[str, Any]) -> _Scaling | None:
    """Return what a Mul and the Add after it do, in float64, when they are a MinMaxScaler."""
    before = producers.get(node.input[0]) if node.op_type == "Add" else None
    if before is None or before.op_type != "Mul" or not {node.input[1], before.input[1]} <= set(constants):
        return None
    offset, scale = constants[node.input[1]].reshape(-1), constants[before.input[1]].reshape(-1)
    for scaling in known:
        if scaling.multiplies and _same(offset, scaling.offset) and _same(scale, scaling.scale):
            return scaling
    return None


def _in_double(converted: Any, source: str, result: str, scaling: _Scaling) -> list[Any]:
    names = {part: f"{result}_{part}" for part in ("double", "first", "second", "offset", "scale")}
    for part in ("offset", "scale"):
        array = np.asarray(getattr(scaling, part), np.float64)
        converted.graph.initializer.append(numpy_helper.from_array(array, names[part]))
    steps = [("Mul", "scale"), ("Add", "offset")] if scaling.multiplies else [("Sub", "offset"), ("Div", "scale")]
    return [
        helper.make_node("Cast", [source], [names["double"]], to=TensorProto.DOUBLE),
        helper.make_node(steps[0][0], [names["double"], names[steps[0][1]]], [names["first"]]),
        helper.make_node(steps[1][0], [names["first"], names[steps[1][1]]], [names["second"]]),
        helper.make_node("Cast", [names["second"]], [result], to=TensorProto.FLOAT),
    ]


def _same(single: Any, double: Vector) -> bool:
    return single.shape == double.shape and bool(np.allclose(single, double, rtol=1e-6, atol=0))
