"""`penstock.v1.Monitor`, on both transports."""

import grpc
import numpy as np
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from serving.pb.open_inference_pb2_grpc import GRPCInferenceServiceStub
from serving.pb.penstock_pb2 import BatchingReportRequest, LatencyReportRequest
from serving.pb.penstock_pb2_grpc import MonitorStub
from serving.statistics.stages import STAGES
from serving.transport.monitor import MONITOR_SERVICE
from tests.support import graphs
from tests.support.conformance import CALL_TIMEOUT_S, raw_request
from tests.support.servers import TRANSPORTS, server_thread


@pytest.fixture(scope="module", params=TRANSPORTS)
def channel(request, tmp_path_factory):
    models = tmp_path_factory.mktemp("models")
    for name in ("one", "two"):
        graphs.write_model(models, name, graphs.affine())
    with server_thread(models, **TRANSPORTS[request.param]) as server, grpc.insecure_channel(server.address) as channel:
        yield channel


def report(channel, **request):
    return MonitorStub(channel).BatchingReport(BatchingReportRequest(**request), timeout=CALL_TIMEOUT_S).servables


def test_batches_are_counted_by_their_rows(channel):
    infer = GRPCInferenceServiceStub(channel).ModelInfer
    for rows in (1, 3, 3):
        infer(raw_request("one", x=("FP32", np.zeros((rows, 4), np.float32))), timeout=CALL_TIMEOUT_S)
    (one,) = report(channel, name="one")
    assert [(batch.rows, batch.count) for batch in one.batches] == [(1, 1), (3, 2)]
    assert (one.name, one.version, one.batch_rows_max, one.queued_rows) == ("one", "1", 256, 0)


def test_a_report_tells_what_was_learnt_and_who_was_not_answered(channel):
    infer = GRPCInferenceServiceStub(channel).ModelInfer
    with pytest.raises(grpc.RpcError):
        infer(raw_request("two", x=("FP32", np.zeros((1, 5), np.float32))), timeout=CALL_TIMEOUT_S)
    for _ in range(3):
        infer(raw_request("two", x=("FP32", np.zeros((2, 4), np.float32))), timeout=CALL_TIMEOUT_S)
    (two,) = report(channel, name="two", version="1")
    assert (two.mode, two.slo_ms, two.instances, two.waits) == ("adaptive", 0, 1, 0)
    assert [size.rows for size in two.service_times] == [1 << power for power in range(9)]
    assert all(size.mean_us > 0 for size in two.service_times), "the sweep at load has measured every size"
    assert 1 <= two.knee_rows <= 256
    assert two.best_rows_per_s > 0
    assert {item.reason: item.count for item in two.rejections} == {"invalid": 1}
    assert sum(item.count for item in two.releases) == 3
    assert two.waiting_times[-1].count == 3
    assert two.fill_ratio == pytest.approx(2 / 256)
    assert not two.HasField("decision")


def test_without_a_name_every_model_is_reported(channel):
    assert {(one.name, one.version) for one in report(channel)} == {("one", "1"), ("two", "1")}


@pytest.mark.parametrize("request_", [{"name": "three"}, {"name": "one", "version": "7"}])
def test_what_is_not_served_is_not_found(channel, request_):
    with pytest.raises(grpc.RpcError) as caught:
        report(channel, **request_)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_reflection_is_enough_to_ask_for_a_report(channel):
    pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
    method = pool.FindServiceByName(MONITOR_SERVICE).methods_by_name["BatchingReport"]
    request = GetMessageClass(method.input_type)(name="two")
    call = channel.unary_unary(f"/{MONITOR_SERVICE}/BatchingReport")
    data = call(request.SerializeToString(), timeout=CALL_TIMEOUT_S)
    (two,) = GetMessageClass(method.output_type).FromString(data).servables
    assert two.name == "two"


def latency(channel, **request):
    return MonitorStub(channel).LatencyReport(LatencyReportRequest(**request), timeout=CALL_TIMEOUT_S).servables


def test_the_latency_of_every_stage_adds_up_and_has_its_quantiles(channel):
    infer = GRPCInferenceServiceStub(channel).ModelInfer
    (before,) = latency(channel, name="one", version="1")
    for _ in range(20):
        infer(raw_request("one", x=("FP32", np.zeros((1, 4), np.float32))), timeout=CALL_TIMEOUT_S)
    (one,) = latency(channel, name="one", version="1", quantiles=[0.99, 0.5])
    assert [stage.stage for stage in one.stages] == list(STAGES)
    for stage, earlier in zip(one.stages, before.stages, strict=True):
        assert stage.count == earlier.count + 20 == sum(bucket.count for bucket in stage.buckets)
        high, low = stage.quantiles
        assert (high.quantile, low.quantile) == (0.99, 0.5)
        assert high.us >= low.us
        assert stage.buckets[0].from_ns / 1e3 <= low.us
        assert high.us <= stage.buckets[-1].below_ns / 1e3
    means = {stage.stage: stage.total_s / stage.count for stage in one.stages}
    assert means["request"] >= means["queue"] + means["compute_infer"] > 0


@pytest.mark.parametrize("quantiles", [[1.5], [-0.1], [float("nan")], [0.5] * 101])
def test_quantiles_that_are_none_are_refused(channel, quantiles):
    with pytest.raises(grpc.RpcError) as caught:
        latency(channel, name="one", quantiles=quantiles)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "quantile" in caught.value.details()
