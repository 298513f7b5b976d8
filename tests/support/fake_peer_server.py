"""A model server that does what a test says. `fake_peer_server.py PORT BEHAVIOUR` serves y = 2 x + 1 as `affine`.

BEHAVIOUR is `right`, `wrong`, `refusing`, `mixing` (answers one of several requests with another's rows), or `unready`
(it never says that its model is ready).
"""

import sys
import threading
from concurrent import futures

import grpc
import numpy as np

from serving.pb import open_inference_pb2 as pb

SERVICE = "inference.GRPCInferenceService"
TOGETHER = 2


class Server:
    def __init__(self, behaviour: str) -> None:
        self.behaviour = behaviour
        self.waiting: list[np.ndarray] = []
        self.together = threading.Barrier(TOGETHER)
        self.calls = 0

    def ready(self, request, context):
        return pb.ServerReadyResponse(ready=True)

    def model_ready(self, request, context):
        return pb.ModelReadyResponse(ready=request.name == "affine" and self.behaviour != "unready")

    def infer(self, request, context):
        if self.behaviour == "refusing":
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no\nthanks")
        x = np.frombuffer(request.raw_input_contents[0], np.float32)
        y = 2 * x + (5 if self.behaviour == "wrong" else 1)
        if self.behaviour == "mixing":
            y = self.mixed(y)
        response = pb.ModelInferResponse(model_name="affine")
        response.outputs.add(name="y", datatype="FP32", shape=request.inputs[0].shape)
        response.raw_output_contents.append(y.astype(np.float32).tobytes())
        return response

    def mixed(self, y):
        """After two calls one by one, give each of the next two the other's answer."""
        self.calls += 1
        if self.calls <= TOGETHER:
            return y
        self.waiting.append(y)
        self.together.wait(10)
        return next(other for other in self.waiting if not np.array_equal(other, y))


def main() -> None:
    port, behaviour = sys.argv[1:]
    peer = Server(behaviour)
    methods = {
        "ServerReady": (peer.ready, pb.ServerReadyRequest),
        "ModelReady": (peer.model_ready, pb.ModelReadyRequest),
        "ModelInfer": (peer.infer, pb.ModelInferRequest),
    }
    handlers = {
        name: grpc.unary_unary_rpc_method_handler(method, kind.FromString, lambda message: message.SerializeToString())
        for name, (method, kind) in methods.items()
    }
    server = grpc.server(futures.ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    main()
