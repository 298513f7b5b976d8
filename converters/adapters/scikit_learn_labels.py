"""The label of SGDClassifier, read from its decision function as scikit-learn does it.

Among three classes and more skl2onnx reads it from probabilities, which are one sigmoid per class and reach 1 for
several of them once rows are not scaled: on scikit-learn's wine data 110 of 178 labels came out as another class.
"""

from typing import Any

import numpy as np
from onnx import numpy_helper

NOTE = "skl2onnx read labels from probabilities, which reach 1 for several classes; they are read from the decision"


def read_from_decision(converted: Any, final: Any) -> bool:
    """Let the label of an SGDClassifier come from its decision function; tell whether it was found in the graph."""
    if type(final).__name__ != "SGDClassifier" or len(final.classes_) < 3 or not hasattr(final, "predict_proba"):
        return False
    decision = _decision(converted.graph, final)
    chosen = [node for node in converted.graph.node if node.op_type == "ArgMax"]
    if decision is None or not chosen:
        return False
    chosen[-1].input[0] = decision
    return True


def _decision(graph: Any, final: Any) -> str | None:
    """Return the value that holds rows times coefficients plus intercepts."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        weights = constants.get(node.input[1]) if node.op_type == "MatMul" else None
        if weights is None or weights.shape != final.coef_.T.shape or not np.allclose(weights, final.coef_.T):
            continue
        sums = [after for after in graph.node if after.op_type == "Add" and node.output[0] in after.input]
        return str(sums[0].output[0]) if sums else None
    return None
