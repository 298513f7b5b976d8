"""An MLServer runtime for any ONNX graph: onnxruntime on the CPU, one thread inside an operator.

It runs in MLServer's environment and imports nothing of Penstock's.
"""

from typing import Any

import numpy as np
import onnxruntime as ort
from mlserver import MLModel
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput

DTYPES = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
}
DATATYPES = {np.dtype(dtype): name for name, dtype in DTYPES.items()}


class OnnxModel(MLModel):  # type: ignore[misc]
    """The graph that `parameters.uri` names. Lives on MLServer's event loop, as its own runtimes do."""

    async def load(self) -> bool:
        """Open the graph."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = ort.InferenceSession(self.settings.parameters.uri, options, providers=["CPUExecutionProvider"])
        self._outputs = [node.name for node in self._session.get_outputs()]
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Run the graph on one request, or on the batch that MLServer made of several."""
        arrays = self._session.run(self._outputs, {tensor.name: _read(tensor) for tensor in payload.inputs})
        outputs = [_write(name, array) for name, array in zip(self._outputs, arrays, strict=True)]
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=outputs)


def _read(tensor: Any) -> Any:
    data = getattr(tensor.data, "root", tensor.data)
    if tensor.datatype == "BYTES":
        texts = [element.decode() if isinstance(element, bytes) else element for element in data]
        return np.array(texts, np.object_).reshape(tensor.shape)
    return np.array(data, DTYPES[tensor.datatype]).reshape(tensor.shape)


def _write(name: str, array: Any) -> ResponseOutput:
    if array.dtype == np.object_:
        texts = [str(element).encode() for element in array.ravel()]
        return ResponseOutput(name=name, shape=list(array.shape), datatype="BYTES", data=texts)
    data = array.ravel().tolist()
    return ResponseOutput(name=name, shape=list(array.shape), datatype=DATATYPES[array.dtype], data=data)
