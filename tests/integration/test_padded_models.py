"""Models that run some sizes of batches only, on both transports: what clients get, and what operators are told."""

import grpc
import numpy as np
import pytest

from serving.pb import open_inference_pb2 as pb
from serving.pb.open_inference_pb2_grpc import GRPCInferenceServiceStub
from serving.pb.penstock_pb2 import BatchingReportRequest, DriftReportRequest
from serving.pb.penstock_pb2_grpc import MonitorStub
from tests.support import graphs
from tests.support.command_line import run
from tests.support.conformance import CALL_TIMEOUT_S, raw_request, read_outputs
from tests.support.metrics import counter
from tests.support.servers import TRANSPORTS, server_thread

SIZES = {"fixed": [8], "steps": [1, 4, 16], "steps_on_threads": [2, 16]}
THREADS = "[instances]\ncount = 2\n"


@pytest.fixture(scope="module", params=TRANSPORTS)
def server(request, tmp_path_factory):
    models = tmp_path_factory.mktemp("models")
    for name, sizes in SIZES.items():
        graph = graphs.affine(rows=8) if name == "fixed" else graphs.heavy() if name == "steps_on_threads" else None
        config = f"[batching]\nbatch_rows_allowed = {sizes}\n{THREADS if name == 'steps_on_threads' else ''}"
        graphs.write_model(models, name, graph or graphs.affine(), config=config + "[drift]\noverhead_max = 1.0\n")
    graphs.write_model(models, "mixed", graphs.centred(8), config="[batching]\nbatch_rows_allowed = [8]\n")
    with server_thread(models, **TRANSPORTS[request.param]) as running:
        yield running


@pytest.fixture(scope="module")
def channel(server):
    with grpc.insecure_channel(server.address) as channel:
        yield channel


def report(channel, name):
    request = BatchingReportRequest(name=name)
    (one,) = MonitorStub(channel).BatchingReport(request, timeout=CALL_TIMEOUT_S).servables
    return one


@pytest.mark.parametrize("name", ["fixed", "steps"])
def test_requests_of_any_rows_that_come_together_get_their_own_answers_and_padding_is_nobodys(server, channel, name):
    random = np.random.default_rng(3)
    rows_of = random.integers(0, 1 + SIZES[name][-1], 200)
    arrays = [random.standard_normal((rows, 4)).astype(np.float32) for rows in rows_of]
    infer = GRPCInferenceServiceStub(channel).ModelInfer
    calls = [infer.future(raw_request(name, x=("FP32", array)), timeout=CALL_TIMEOUT_S) for array in arrays]
    for call, array in zip(calls, arrays, strict=True):
        np.testing.assert_array_equal(read_outputs(call.result())["y"], 2 * array + 1)
    one = report(channel, name)
    assert (list(one.batch_rows_allowed), one.batch_rows_max) == (SIZES[name], SIZES[name][-1])
    assert [size.rows for size in one.service_times] == SIZES[name]
    padded = {rows: min(size for size in SIZES[name] if size >= rows) for rows in range(SIZES[name][-1] + 1)}
    assert one.padding_rows == sum((padded[item.rows] - item.rows) * item.count for item in one.batches) > 0
    assert counter(server, "penstock_padding_rows_total", model=name) == one.padding_rows
    assert counter(server, "penstock_rows_total", model=name) == rows_of.sum()
    (drift,) = MonitorStub(channel).DriftReport(DriftReportRequest(name=name), timeout=CALL_TIMEOUT_S).servables
    assert drift.rows_seen == rows_of.sum()


def test_a_heavy_model_is_padded_on_instance_threads(channel):
    random = np.random.default_rng(4)
    arrays = [random.standard_normal((rows, 512)).astype(np.float32) for rows in random.integers(1, 17, 60)]
    infer = GRPCInferenceServiceStub(channel).ModelInfer
    name = "steps_on_threads"
    calls = [infer.future(raw_request(name, x=("FP32", array)), timeout=CALL_TIMEOUT_S) for array in arrays]
    together = [read_outputs(call.result())["y"] for call in calls]
    for array, answer in zip(arrays[:10], together, strict=False):
        alone = read_outputs(infer(raw_request(name, x=("FP32", array)), timeout=CALL_TIMEOUT_S))["y"]
        np.testing.assert_allclose(answer, alone, rtol=1e-3, atol=1e-4)
    assert [answer.shape for answer in together] == [array.shape for array in arrays]


def test_more_rows_than_the_largest_batch_are_refused_with_a_reason(channel):
    infer = GRPCInferenceServiceStub(channel).ModelInfer
    with pytest.raises(grpc.RpcError) as caught:
        infer(raw_request("steps", x=("FP32", np.zeros((17, 4), np.float32))), timeout=CALL_TIMEOUT_S)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "has 17 rows, the model takes at most batch_rows_max = 16" in caught.value.details()


def test_clients_see_a_model_that_takes_rows(channel):
    stub = GRPCInferenceServiceStub(channel)
    metadata = stub.ModelMetadata(pb.ModelMetadataRequest(name="fixed"), timeout=CALL_TIMEOUT_S)
    assert [list(tensor.shape) for tensor in (*metadata.inputs, *metadata.outputs)] == [[-1, 4], [-1, 4]]
    assert stub.ModelConfig(pb.ModelConfigRequest(name="fixed"), timeout=CALL_TIMEOUT_S).config.max_batch_size == 8


def test_a_model_whose_rows_do_not_stand_alone_does_not_load_and_says_why(channel):
    index = GRPCInferenceServiceStub(channel).RepositoryIndex(pb.RepositoryIndexRequest(), timeout=CALL_TIMEOUT_S)
    (mixed,) = (entry for entry in index.models if entry.name == "mixed")
    assert mixed.state == "UNAVAILABLE"
    assert "rows of this model do not stand alone" in mixed.reason


def test_the_command_tells_what_padding_costs(server, channel, capsys):
    infer = GRPCInferenceServiceStub(channel).ModelInfer
    infer(raw_request("fixed", x=("FP32", np.zeros((3, 4), np.float32))), timeout=CALL_TIMEOUT_S)
    assert run("models", "batching", "--model", "fixed", "--address", server.address) == 0
    assert "padding       to 8 rows; " in capsys.readouterr().out
