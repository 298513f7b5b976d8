"""Requests of different length share batches: padded by a declared rule, computed together, answered at their own."""

import concurrent.futures

import numpy as np
import pytest
from onnx import TensorProto, helper

from serving.errors import RemoteError
from serving.pb import open_inference_pb2 as pb
from serving.transport.client import Client
from serving.types import Datatype
from tests.support import graphs
from tests.support.environments import environment
from tests.support.servers import TRANSPORTS, server_thread
from tests.support.stock_clients import CLIENTS, run_session

SERIES = """
[batching]
mode = "window"
queue_delay_us_max = 20_000
batch_rows_max = 64

[[pipeline.inputs]]
name = "series"
datatype = "FP32"
shape = [-1, -1]
ragged = true

[[pipeline.preprocess]]
step = "pad"
input = "series"
outputs = ["x", "mask", "lengths"]
lengths = [4, 16, 64]
value = 0.0

[[pipeline.postprocess]]
step = "cut"
input = "sums"
like = "series"
"""
PICTURES = """
[[pipeline.inputs]]
name = "picture"
datatype = "UINT8"
shape = [-1, -1, -1, 3]
ragged = true

[[pipeline.preprocess]]
step = "resize"
input = "picture"
output = "x"
height = 2
width = 2
method = "nearest"
"""


def running_sums():
    """sums = running sums of x [rows, length], mean = sum of x * mask / lengths [rows], places = length [rows]."""
    floats = TensorProto.FLOAT
    nodes = [
        helper.make_node("CumSum", ["x", "one"], ["sums"]),
        helper.make_node("Cast", ["mask"], ["weights"], to=floats),
        helper.make_node("Cast", ["lengths"], ["counts"], to=floats),
        helper.make_node("Mul", ["x", "weights"], ["masked"]),
        helper.make_node("ReduceSum", ["masked", "axes"], ["total"], keepdims=0),
        helper.make_node("Div", ["total", "counts"], ["mean"]),
        helper.make_node("ReduceSum", ["ones", "axes"], ["places"], keepdims=0),
        helper.make_node("Add", ["weights", "inverted"], ["ones"]),
        helper.make_node("Sub", ["unit", "weights"], ["inverted"]),
    ]
    nodes = [*nodes[:6], nodes[8], nodes[7], nodes[6]]
    constants = [
        helper.make_tensor("one", TensorProto.INT64, [], [1]),
        helper.make_tensor("axes", TensorProto.INT64, [1], [1]),
        helper.make_tensor("unit", floats, [], [1.0]),
    ]
    inputs = [("x", "FP32", ("rows", "length")), ("mask", "INT64", ("rows", "length")), ("lengths", "INT64", ("rows",))]
    outputs = [("sums", "FP32", ("rows", "length")), ("mean", "FP32", ("rows",)), ("places", "FP32", ("rows",))]
    return graphs.build(nodes, inputs, outputs, constants)


@pytest.fixture(scope="module", params=TRANSPORTS)
def server(request, tmp_path_factory):
    models = tmp_path_factory.mktemp("models")
    graphs.write_model(models, "series", running_sums(), config=SERIES)
    graphs.write_model(models, "pictures", graphs.identity("UINT8", ("rows", 2, 2, 3)), config=PICTURES)
    with server_thread(models, **TRANSPORTS[request.param]) as running:
        yield running


def rows_of(count, length, seed=0):
    return np.random.default_rng(seed + 100 * length).integers(-9, 9, (count, length)).astype(np.float32)


def ask(client, rows):
    return client.infer("series", {"series": (Datatype.FP32, rows)})[1]


def check(rows, outputs):
    np.testing.assert_array_equal(outputs["sums"], np.cumsum(rows, axis=1))
    np.testing.assert_allclose(outputs["mean"], rows.mean(axis=1), rtol=1e-6)


def test_requests_of_many_lengths_are_answered_at_their_own(server):
    batches = [rows_of(1 + length % 3, length, seed) for seed in range(3) for length in (1, 2, 3, 4, 5, 15, 16, 17, 64)]
    with Client(server.address) as client, concurrent.futures.ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda rows: ask(client, rows), batches))
    for rows, outputs in zip(batches, answers, strict=True):
        check(rows, outputs)
    padded = [(rows.shape[1], outputs["places"].max()) for rows, outputs in zip(batches, answers, strict=True)]
    assert {places for _, places in padded} <= {4, 16, 64}
    assert any(length <= 4 < places for length, places in padded)  # short rows, padded for a longer batchmate


def test_a_lone_request_is_padded_to_the_least_length_that_holds_it(server):
    with Client(server.address) as client:
        for length, places in ((1, 4), (4, 4), (5, 16), (17, 64)):
            assert ask(client, rows_of(2, length))["places"].tolist() == [places] * 2


def test_a_row_that_is_too_long_fails_alone(server):
    batches = [rows_of(1, 65 if number % 5 == 0 else 7, number) for number in range(20)]

    def outcome(rows):
        try:
            return ask(client, rows)
        except RemoteError as error:
            return error

    with Client(server.address) as client, concurrent.futures.ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(outcome, batches))
    for rows, answer in zip(batches, answers, strict=True):
        if rows.shape[1] == 65:
            assert answer.code == "INVALID_ARGUMENT"
            assert "row 0: pad of 'series': a row of length 65 came, expected at most 64" in str(answer)
        else:
            check(rows, answer)


@pytest.mark.parametrize("shape", [(0, 5), (0, 0), (2, 0)])
def test_no_rows_and_rows_of_no_length_are_answered(server, shape):
    with Client(server.address) as client:
        outputs = ask(client, np.zeros(shape, np.float32))
    assert outputs["sums"].shape == (shape[0], 0)
    assert outputs["mean"].shape == shape[:1]


@pytest.mark.parametrize("shape", [(4,), (1, 2, 2)])
def test_another_rank_is_refused(server, shape):
    with Client(server.address) as client, pytest.raises(RemoteError, match=r"expected \[-1, -1\]") as caught:
        ask(client, np.zeros(shape, np.float32))
    assert caught.value.code == "INVALID_ARGUMENT"


def test_typed_contents_are_padded_as_well(server):
    request = pb.ModelInferRequest(model_name="series")
    tensor = request.inputs.add(name="series", datatype="FP32", shape=[2, 3])
    tensor.contents.fp32_contents.extend([1, 2, 3, 4, 5, 6])
    with Client(server.address) as client:
        answer = client.call("ModelInfer", request, pb.ModelInferResponse)
    assert list(answer.outputs[0].contents.fp32_contents) == [1, 3, 6, 4, 9, 15]
    assert list(answer.outputs[0].shape) == [2, 3]


def test_a_large_message_is_padded_as_well(server):
    rows = rows_of(64, 64)
    with Client(server.address) as client:
        check(rows, ask(client, rows))


def test_stock_tritonclient_sends_rows_of_its_length(server, tmp_path):
    rows = rows_of(3, 5)
    np.savez(tmp_path / "inputs.npz", series=rows)
    python = environment("tritonclient[grpc]>=2.60,<3")
    found = run_session(python, CLIENTS / "named_tensors_session.py", server.address, tmp_path, "series")
    (described,) = found["metadata"]["inputs"]
    assert (described["name"], described["datatype"], described["shape"]) == ("series", "FP32", ["-1", "-1"])
    assert found["metadata"]["outputs"][0]["shape"] == ["-1", "-1"]
    check(rows, {name: np.array(values, np.float32) for name, values in found["outputs"].items()})


def test_raw_pictures_of_different_sizes_share_a_model(server):
    with Client(server.address) as client:
        for height, width in ((2, 2), (4, 6), (3, 1)):
            picture = np.arange(height * width * 3, dtype=np.uint8).reshape(1, height, width, 3)
            (_, outputs) = client.infer("pictures", {"picture": (Datatype.UINT8, picture)})
            ys, xs = (np.minimum(((np.arange(2) + 0.5) * side / 2).astype(int), side - 1) for side in (height, width))
            np.testing.assert_array_equal(outputs["y"][0], picture[0][ys][:, xs])
        for shape in ((1, 0, 5, 3), (1, (1 << 14) + 1, 1, 3)):
            words = f"row 0: resize of 'picture': an image of {shape[2]} x {shape[1]} came, expected 1 to 16384"
            with pytest.raises(RemoteError, match=words) as caught:
                client.infer("pictures", {"picture": (Datatype.UINT8, np.zeros(shape, np.uint8))})
            assert caught.value.code == "INVALID_ARGUMENT"
