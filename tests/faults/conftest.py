"""Servers whose models a test can hold up, and a client that sends many requests at once."""

import contextlib

import grpc
import numpy as np
import pytest

from serving import model
from serving.pb import open_inference_pb2 as pb
from serving.tensors import to_raw
from serving.transport.services import SERVICE
from serving.types import DATATYPES
from tests.support import graphs
from tests.support.servers import server_thread
from tests.support.sessions import NATURAL, HeldGraph

DEADLINE_S = 30


@pytest.fixture
def held(monkeypatch):
    """The sessions of servers started in this test, in order of loading; each can be held up."""
    sessions = []

    def load(path, config, instances):
        sessions.append(HeldGraph(path, config, instances))
        return sessions[-1]

    monkeypatch.setattr(model, "Session", load)
    return sessions


class ManyCalls:
    """Sends requests without waiting for their answers."""

    def __init__(self, address):
        self._channel = grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)])
        self._infer = self._channel.unary_unary(f"/{SERVICE}/ModelInfer")
        self._stream = self._channel.stream_stream(f"/{SERVICE}/ModelStreamInfer")

    def send(self, array, *, name="x", datatype="FP32", model="affine", timeout_us=None, deadline_s=DEADLINE_S):
        """Send one request; return its future."""
        data = self.message(array, name=name, datatype=datatype, model=model, timeout_us=timeout_us)
        return self._infer.future(data, timeout=deadline_s)

    def stream(self, messages):
        return self._stream(messages, timeout=DEADLINE_S)

    def close(self):
        self._channel.close()

    @staticmethod
    def message(array, *, name="x", datatype="FP32", model="affine", timeout_us=None):
        request = pb.ModelInferRequest(model_name=model)
        request.inputs.add(name=name, datatype=datatype, shape=array.shape)
        request.raw_input_contents.append(to_raw(DATATYPES[datatype], array))
        if timeout_us is not None:
            request.parameters["timeout"].int64_param = timeout_us
        return request.SerializeToString()

    @staticmethod
    def read(data):
        """The first output of an answer, as rows of float32."""
        response = pb.ModelInferResponse.FromString(data)
        return np.frombuffer(response.raw_output_contents[0], np.float32).reshape(response.outputs[0].shape)


@pytest.fixture
def calls():
    """Makes clients; they are closed at the end."""
    with contextlib.ExitStack() as stack:

        def connect(address):
            client = ManyCalls(address)
            stack.callback(client.close)
            return client

        yield connect


def rows(value, count=1):
    return np.full((count, 4), value, np.float32)


@pytest.fixture
def busy(repository, held, calls, transport):
    """A server whose one instance is busy until the session is let go: (server, client, session, its answer)."""
    graphs.write_model(repository, "affine", graphs.affine(), config=NATURAL)
    with server_thread(repository, drain_timeout_s=DEADLINE_S, inline_us_max=0, **transport) as server:
        (session,) = held
        client = calls(server.address)
        session.hold()
        first = client.send(rows(0))
        session.wait_until_running()
        yield server, client, session, first
        session.let_go()
        server.wait_until(lambda: server.in_flight == 0)
