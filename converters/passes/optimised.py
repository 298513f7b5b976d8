"""onnxruntime's own optimisations, written to the file so that loading need not repeat them.

Only those that hold on every processor: the ones that choose layouts for this machine are left to loading.
"""

import tempfile
from pathlib import Path

import onnxruntime as ort

from converters.sample import Tensors
from converters.target import Target


def apply(graph: bytes, _exact: Tensors, _target: Target, _seed: int) -> bytes:
    """Return the graph as onnxruntime would run it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimised.onnx"
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(path)
        options.log_severity_level = 4
        ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        return path.read_bytes()
