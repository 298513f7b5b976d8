"""Where the trees of a graph split: which number of which input, and at which values."""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import numpy_helper

from converters.graph import graph_inputs

_ENSEMBLES = ("TreeEnsembleClassifier", "TreeEnsembleRegressor", "TreeEnsemble")
_PRODUCTS = {"LinearClassifier", "LinearRegressor", "MatMul", "Gemm", "Scaler", "SVMClassifier", "SVMRegressor", "Div"}
_SAME_VALUES = ("Identity", "Cast")

Column = tuple[str, int]
"""An input and the place of a number in its rows."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Values that a number is compared with, in the framework's own precision where an adapter knows it."""

    input: str
    column: int
    values: NDArray[np.float64]


def has_trees(model: Any) -> bool:
    """Tell whether any node is an ensemble of trees."""
    return any(node.op_type in _ENSEMBLES for node in model.graph.node)


def only_trees(model: Any) -> bool:
    """Tell whether trees are all that computes: nothing is multiplied, so the largest float32 cannot overflow."""
    return has_trees(model) and not _PRODUCTS & {node.op_type for node in model.graph.node}


def of_graph(model: Any) -> tuple[Thresholds, ...]:
    """Return the splits of the trees that look at inputs as they came; behind a transformation they are not known."""
    found: dict[Column, set[float]] = defaultdict(set)
    makers = {name: node for node in model.graph.node for name in node.output}
    widths = {value.name: _width(value) for value in graph_inputs(model)}
    for node in model.graph.node:
        if node.op_type not in _ENSEMBLES:
            continue
        columns = _columns(node.input[0], makers, widths)
        for feature, value in _splits(node):
            if columns is not None and feature < len(columns):
                found[columns[feature]].add(value)
    return tuple(Thresholds(name, place, np.array(sorted(values))) for (name, place), values in sorted(found.items()))


def _splits(node: Any) -> list[tuple[int, float]]:
    """Return feature and threshold of every node of the trees that is no leaf."""
    attributes = {item.name: item for item in node.attribute}
    features = attributes["nodes_featureids"].ints
    if node.op_type == "TreeEnsemble":  # of ai.onnx.ml 5: leaves are kept apart
        return list(zip(features, map(float, numpy_helper.to_array(attributes["nodes_splits"].t)), strict=True))
    if "nodes_values_as_tensor" in attributes:
        values = list(map(float, numpy_helper.to_array(attributes["nodes_values_as_tensor"].t)))
    else:
        values = list(attributes["nodes_values"].floats)
    modes = attributes["nodes_modes"].strings
    return [(f, v) for f, v, mode in zip(features, values, modes, strict=True) if mode != b"LEAF"]


def _columns(name: str, makers: dict[str, Any], widths: dict[str, int]) -> list[Column] | None:
    """Follow a value back to the inputs whose numbers it holds, in order; None when they were changed on the way."""
    if name in widths:
        return [(name, place) for place in range(widths[name])]
    node = makers.get(name)
    if node is None:
        return None
    if node.op_type in _SAME_VALUES:
        return _columns(node.input[0], makers, widths)
    if node.op_type == "Concat":
        parts = [_columns(item, makers, widths) for item in node.input]
        return None if None in parts else [column for part in parts for column in part or []]
    return None


def _width(value: Any) -> int:
    dims = value.type.tensor_type.shape.dim
    return dims[1].dim_value if len(dims) == 2 else 0
