"""KServe's Python server with any ONNX graph: `kserve_server.py MODEL.json`, and the flags of KServe's own servers.

MODEL.json holds the model's `name`, the `path` of its graph, and `inputs` and `outputs` as model metadata has them. It
runs in KServe's environment and imports nothing of Penstock's. KServe listens on all interfaces and has no flag against
it, so both of its listeners are sent to the loopback interface here.
"""

import json
import logging
import sys
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnxruntime as ort
import uvicorn
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer

HOST = "127.0.0.1"


class OnnxModel(Model):  # type: ignore[misc]
    """A graph on the CPU, one thread inside an operator. Runs on KServe's event loop, as its own servers' models do."""

    def __init__(self, description: dict[str, Any]) -> None:
        super().__init__(description["name"])
        self._description = description
        self._datatypes = {output["name"]: output["datatype"] for output in description["outputs"]}

    def load(self) -> bool:
        """Open the graph."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = ort.InferenceSession(self._description["path"], options, providers=["CPUExecutionProvider"])
        self.ready = True
        return True

    def get_input_types(self) -> list[dict[str, Any]]:
        """Return the inputs for the model's metadata."""
        return list(self._description["inputs"])

    def get_output_types(self) -> list[dict[str, Any]]:
        """Return the outputs for the model's metadata."""
        return list(self._description["outputs"])

    def predict(self, payload: InferRequest, headers: Any = None) -> InferResponse:  # noqa: ARG002 - KServe's signature
        """Run the graph on one request; KServe's server forms no batches."""
        arrays = self._session.run(list(self._datatypes), {tensor.name: _read(tensor) for tensor in payload.inputs})
        outputs = []
        for (name, datatype), array in zip(self._datatypes.items(), arrays, strict=True):
            output = InferOutput(name=name, shape=list(array.shape), datatype=datatype)
            output.set_data_from_numpy(array, binary_data=True)
            outputs.append(output)
        # An id of None would be no string, which KServe refuses to encode.
        return InferResponse(response_id=payload.id or "", model_name=self.name, infer_outputs=outputs)


def _read(tensor: Any) -> Any:
    array = tensor.as_numpy()
    if tensor.datatype != "BYTES":
        return array
    texts = [element.decode() if isinstance(element, bytes) else element for element in array.ravel()]
    return np.array(texts, np.object_).reshape(array.shape)


def _listen_on_loopback() -> None:
    """Send the gRPC and the HTTP listener to the loopback interface, whatever KServe asks for."""
    make_server, configure = grpc.aio.server, uvicorn.Config.__init__

    def make_loopback_server(*arguments: Any, **options: Any) -> Any:
        server = make_server(*arguments, **options)
        add_port = server.add_insecure_port
        server.add_insecure_port = lambda address: add_port(f"{HOST}:{address.rpartition(':')[2]}")
        return server

    def configure_loopback(config: Any, *arguments: Any, **options: Any) -> None:
        configure(config, *arguments, **{**options, "host": HOST})

    grpc.aio.server = make_loopback_server
    uvicorn.Config.__init__ = configure_loopback


def main() -> None:
    """Serve until asked to stop."""
    _listen_on_loopback()
    model = OnnxModel(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    model.load()
    server = ModelServer()
    logging.getLogger("kserve").setLevel(logging.WARNING)  # it writes a line per request otherwise
    server.start([model])


if __name__ == "__main__":
    main()
