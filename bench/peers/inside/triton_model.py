"""A model of Triton's Python backend for any ONNX graph: onnxruntime on the CPU, one thread inside an operator.

It runs in the process that Triton starts for the backend, and imports nothing of Penstock's. The requests that Triton
hands over together run as one batch, when the model's configuration lets Triton batch at all.
"""

import json
from typing import Any

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as triton


class TritonPythonModel:
    """The graph that the configuration's parameter `graph` names; Triton calls it from one thread."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the graph."""
        config = json.loads(args["model_config"])
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        graph = config["parameters"]["graph"]["string_value"]
        self._session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self._inputs = [node.name for node in self._session.get_inputs()]
        self._outputs = [node.name for node in self._session.get_outputs()]
        self._is_batched = config["max_batch_size"] > 0

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer requests, in their order."""
        taken = [[_read(request, name) for name in self._inputs] for request in requests]
        if len(taken) > 1 and self._is_batched:
            return self._run_together(taken)
        return [self._answer(self._run(arrays)) for arrays in taken]

    def _run_together(self, taken: list[list[Any]]) -> list[Any]:
        outputs = self._run([np.concatenate(arrays) for arrays in zip(*taken, strict=True)])
        ends = np.cumsum([len(arrays[0]) for arrays in taken])[:-1]
        pieces = [np.split(output, ends) for output in outputs]
        return [self._answer(list(arrays)) for arrays in zip(*pieces, strict=True)]

    def _run(self, arrays: list[Any]) -> list[Any]:
        outputs: list[Any] = self._session.run(self._outputs, dict(zip(self._inputs, arrays, strict=True)))
        return outputs

    def _answer(self, arrays: list[Any]) -> Any:
        pairs = zip(self._outputs, arrays, strict=True)
        return triton.InferenceResponse([triton.Tensor(name, np.ascontiguousarray(array)) for name, array in pairs])


def _read(request: Any, name: str) -> Any:
    array = triton.get_input_tensor_by_name(request, name).as_numpy()
    if array.dtype != np.object_:
        return array
    texts = [element.decode() for element in array.ravel()]
    return np.array(texts, np.object_).reshape(array.shape)
