"""`penstock.v1.Monitor`, on both transports."""

import grpc
import numpy as np
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from serving.pb.open_inference_pb2_grpc import GRPCInferenceServiceStub
from serving.pb.penstock_pb2 import BatchingReportRequest
from serving.pb.penstock_pb2_grpc import MonitorStub
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
