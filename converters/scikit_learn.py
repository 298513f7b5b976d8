"""scikit-learn classifiers to ONNX, ready to be served: rows of float32 features in, label and probabilities out."""

from typing import Any

import numpy as np
from skl2onnx import to_onnx

INPUT = "features"
TARGET_OPSET = {"": 21, "ai.onnx.ml": 3}  # what onnxruntime 1.23, the oldest that Penstock runs on, can load


def convert_classifier(model: Any, feature_count: int) -> bytes:
    """Return the ONNX file of a fitted classifier or of a pipeline that ends in one.

    Input `features` is FP32 [rows, feature_count]; outputs are `label` [rows] and `probabilities` FP32 [rows, classes].
    ZipMap, which would turn the probabilities into a list of dictionaries, is off.
    """
    sample = np.zeros((1, feature_count), np.float32)
    graph = to_onnx(model, sample, name="classifier", options={"zipmap": False}, target_opset=TARGET_OPSET)
    _rename_input(graph, INPUT)
    data: bytes = graph.SerializeToString()
    return data


def _rename_input(graph: Any, name: str) -> None:
    """Give the one input of a graph a telling name instead of skl2onnx's X."""
    (value,) = graph.graph.input
    for node in graph.graph.node:
        node.input[:] = [name if item == value.name else item for item in node.input]
    value.name = name
