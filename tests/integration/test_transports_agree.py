"""The same bytes get the same answer: on every transport, and on every way through one.

A request takes the compiled way where there is one. Compressed, or with a field that nobody knows, it takes the
ordinary way. Bytes, codes, messages and metadata must not tell which.
"""

import contextlib
import random

import grpc
import numpy as np
import pytest
from onnx import TensorProto, helper

from serving.pb import open_inference_pb2 as pb
from tests.property.test_infer_twin import CORPUS, mutated_bytes, mutated_fields, written
from tests.support import graphs
from tests.support.conformance import CALL_TIMEOUT_S, SERVICE, raw_request
from tests.support.infer_wire import field
from tests.support.servers import TRANSPORTS, server_thread

UNKNOWN_FIELD = field(99, 1)
WAYS = {
    "plain": (b"", grpc.Compression.NoCompression),
    "with an unknown field": (UNKNOWN_FIELD, grpc.Compression.NoCompression),
    "compressed": (b"", grpc.Compression.Gzip),
}
ROWS_MAX = 8
MUTATIONS = 400
AT_ONCE = 50


def corpus_graph() -> bytes:
    """A graph with the signature of the corpus: y = a [rows, 2], z = b [rows] as a number."""
    nodes = [
        helper.make_node("Identity", ["a"], ["y"]),
        helper.make_node("Cast", ["b"], ["z"], to=TensorProto.FLOAT),
    ]
    inputs, outputs = (
        [("a", "FP32", ("rows", 2)), ("b", "BOOL", ("rows",))],
        [("y", "FP32", ("rows", 2)), ("z", "FP32", ("rows",))],
    )
    return graphs.build(nodes, inputs, outputs)


class Asker:
    """Asks one server in one way."""

    def __init__(self, address: str, more: bytes, compression: grpc.Compression, stack: contextlib.ExitStack) -> None:
        options = [("grpc.enable_http_proxy", 0)]
        channel = stack.enter_context(grpc.insecure_channel(address, options, compression))
        self._infer = channel.unary_unary(f"/{SERVICE}/ModelInfer")
        self._more = more

    def ask(self, messages: list[bytes]) -> list[tuple]:
        """Return code, message, metadata and bytes for each message."""
        calls = [self._infer.future(message + self._more, timeout=CALL_TIMEOUT_S) for message in messages]
        return [self._outcome(call) for call in calls]

    @staticmethod
    def _outcome(call) -> tuple:
        metadata = sorted(dict(call.trailing_metadata()))
        return call.code().name, call.details(), metadata, None if call.exception() else call.result()


@pytest.fixture(scope="module")
def askers(tmp_path_factory):
    models = tmp_path_factory.mktemp("models")
    for version in (1, 2):
        config = f'version_policy = "all"\n[batching]\nbatch_rows_max = {ROWS_MAX}\n'
        graphs.write_model(models, "m", corpus_graph(), version=version, config=config)
    graphs.write_model(models, "affine", graphs.affine(), config=f"[batching]\nbatch_rows_max = {ROWS_MAX}\n")
    graphs.write_model(models, "lookup", graphs.lookup())
    graphs.write_model(models, "fixed_shape", graphs.fixed_shape())
    with contextlib.ExitStack() as stack:
        servers = {name: stack.enter_context(server_thread(models, **options)) for name, options in TRANSPORTS.items()}
        yield {
            f"{name}, {way}": Asker(server.address, *arguments, stack)
            for name, server in servers.items()
            for way, arguments in WAYS.items()
        }


def agree(askers: dict[str, Asker], messages: list[bytes]) -> list[tuple]:
    """Check that all askers hear the same; return it."""
    heard = {name: asker.ask(messages) for name, asker in askers.items()}
    expected = next(iter(heard.values()))
    for name, outcomes in heard.items():
        for message, outcome, other in zip(messages, outcomes, expected, strict=True):
            assert outcome == other, (name, message.hex())
    return expected


def affine(rows=2, **changes) -> pb.ModelInferRequest:
    request = raw_request("affine", x=("FP32", np.arange(4 * rows, dtype=np.float32).reshape(rows, 4)))
    request.MergeFrom(pb.ModelInferRequest(**changes))
    return request


def changed(rows=2, **fields) -> pb.ModelInferRequest:
    """A request to `affine` whose input has other fields."""
    request = affine(rows)
    for name, value in fields.items():
        if isinstance(value, list):
            getattr(request.inputs[0], name)[:] = value
        else:
            setattr(request.inputs[0], name, value)
    return request


def with_raw(*contents: bytes) -> pb.ModelInferRequest:
    request = affine()
    request.raw_input_contents[:] = contents
    return request


def parameter(**choice):
    return {"p": pb.InferParameter(**choice)}


Tensor = pb.ModelInferRequest.InferInputTensor
Output = pb.ModelInferRequest.InferRequestedOutputTensor
REQUESTS = {
    "good": affine(),
    "good with an id": affine(id="ü" * 50),
    "a long id": affine(id="i" * 5000),
    "its version": affine(model_version="1"),
    "a name that is unknown": affine(model_name="nobody"),
    "a very long name": affine(model_name="n" * 5000),
    "no name": raw_request("", x=("FP32", np.ones((1, 4), np.float32))),
    "a version that is unknown": affine(model_version="7"),
    "a version that is no number": affine(model_version="latest"),
    "no rows": affine(0),
    "too many rows": affine(ROWS_MAX + 1),
    "another width": changed(shape=[2, 5]),
    "too few dimensions": changed(shape=[8]),
    "no dimensions": changed(shape=[]),
    "a negative dimension": changed(shape=[-2, 4]),
    "an enormous dimension": changed(shape=[2**62, 4]),
    "dimensions that multiply to nothing": changed(shape=[2**32, 2**32]),
    "another datatype": changed(datatype="FP64"),
    "an unknown datatype": changed(datatype="FLOAT"),
    "another input": changed(name="z"),
    "an input twice": affine(inputs=[Tensor(name="x", datatype="FP32", shape=[2, 4])]),
    "no inputs": pb.ModelInferRequest(model_name="affine"),
    "raw bytes too short": with_raw(bytes(31)),
    "raw bytes too long": with_raw(bytes(33)),
    "no raw bytes": with_raw(),
    "raw bytes twice": with_raw(bytes(32), bytes(32)),
    "an output that is unknown": affine(outputs=[Output(name="z")]),
    "an output twice": affine(outputs=[Output(name="y"), Output(name="y")]),
    "an output": affine(outputs=[Output(name="y")]),
    "a parameter": affine(parameters=parameter(string_param="v")),
    "a sequence": affine(parameters={"sequence_id": pb.InferParameter(int64_param=1)}),
    "a timeout": affine(parameters={"timeout": pb.InferParameter(int64_param=10**7)}),
    "a timeout of another type": affine(parameters={"timeout": pb.InferParameter(string_param="soon")}),
    "a request the model cannot compute": raw_request("lookup", index=("INT64", np.array([99]))),
    "a model of fixed shape": raw_request("fixed_shape", x=("FP32", np.ones((2, 3), np.float32))),
    "a model of fixed shape and another one": raw_request("fixed_shape", x=("FP32", np.ones((1, 3), np.float32))),
}


@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS)
def test_a_request_gets_the_same_answer_on_every_way(askers, request_):
    agree(askers, [request_.SerializeToString()])


@pytest.mark.parametrize("seed", range(MUTATIONS // AT_ONCE))
def test_damaged_requests_get_the_same_answers_on_every_way(askers, seed):
    choice, messages = random.Random(seed), []
    for _ in range(AT_ONCE):
        fields = CORPUS[1]
        for _ in range(choice.randrange(4)):
            fields = mutated_fields(choice, fields)
        message = written(fields)
        for _ in range(choice.randrange(2)):
            message = mutated_bytes(choice, message)
        messages.append(message)
    codes = {code for code, *_ in agree(askers, messages)}
    assert {"OK", "INVALID_ARGUMENT"} <= codes
