"""Traces: spans that a real collector's protocol brings to a receiver here, from a real server on both transports."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
import numpy as np
import pytest

from serving.errors import ConfigError
from serving.pb.open_inference_pb2_grpc import GRPCInferenceServiceStub
from tests.support import graphs
from tests.support.conformance import CALL_TIMEOUT_S, raw_request
from tests.support.metrics import counter
from tests.support.servers import TRANSPORTS, server_thread

service_pb2 = pytest.importorskip(
    "opentelemetry.proto.collector.trace.v1.trace_service_pb2", reason="needs penstock[otel]"
)

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
STAGES = ["queue", "compute_input", "compute_infer", "compute_output"]
METHOD = "inference.GRPCInferenceService/ModelInfer"


class Collector(BaseHTTPRequestHandler):
    """Takes what is exported."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        assert self.path == "/v1/traces"
        exported = service_pb2.ExportTraceServiceRequest.FromString(body)
        for resource in exported.resource_spans:
            for scope in resource.scope_spans:
                self.server.spans += scope.spans
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def collector():
    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        server.spans = []
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def traced(repository, collector, **options):
    graphs.write_model(repository, "affine", graphs.affine())
    endpoint = f"http://127.0.0.1:{collector.server_port}"
    return server_thread(repository, otlp_endpoint=endpoint, **options)


def infer(server, times=1, columns=4, metadata=(), parameter=None):
    request = raw_request("affine", x=("FP32", np.zeros((1, columns), np.float32)))
    if parameter is not None:
        request.parameters["traceparent"].string_param = parameter
    with grpc.insecure_channel(server.address) as channel:
        for _ in range(times):
            GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=CALL_TIMEOUT_S, metadata=metadata)


def roots(spans):
    return [span for span in spans if span.name == METHOD]


def attributes(span):
    return {item.key: item.value.string_value or item.value.int_value for item in span.attributes}


def test_a_request_is_a_span_with_its_stages_below_it_in_their_order(repository, collector, transport):
    with traced(repository, collector, trace_ratio=1.0, **transport) as server:
        infer(server)
    (root,) = roots(collector.spans)
    stages = [span for span in collector.spans if span.parent_span_id]
    assert {stage.name for stage in stages} == set(STAGES)
    assert all(stage.parent_span_id == root.span_id and stage.trace_id == root.trace_id for stage in stages)
    by_name = {stage.name: stage for stage in stages}
    moments = [root.start_time_unix_nano]
    for name in STAGES:
        moments += [by_name[name].start_time_unix_nano, by_name[name].end_time_unix_nano]
    moments.append(root.end_time_unix_nano)
    assert moments == sorted(moments)
    said = attributes(root)
    assert (said["penstock.model"], said["penstock.version"], said["penstock.code"]) == ("affine", "1", "OK")
    assert (said["rpc.system"], said["penstock.batch.rows"]) == ("grpc", 1)


def test_every_so_manieth_request_is_traced(repository, collector, transport):
    with traced(repository, collector, trace_ratio=0.25, **transport) as server:
        infer(server, times=40)
        assert counter(server, "penstock_traces_total") == 10
        assert counter(server, "penstock_traces_dropped_total") == 0
    assert len(roots(collector.spans)) == 10


def test_the_headers_traceparent_is_honoured_on_grpcio(repository, collector):
    with traced(repository, collector, trace_ratio=0.0, **TRANSPORTS["grpcio"]) as server:
        infer(server, metadata=(("traceparent", f"00-{TRACE}-{PARENT}-01"),))
        infer(server, metadata=(("traceparent", f"00-{TRACE}-{PARENT}-00"),))
        infer(server)
    (root,) = roots(collector.spans)
    assert (root.trace_id.hex(), root.parent_span_id.hex()) == (TRACE, PARENT)


def test_the_parameter_traceparent_is_honoured(repository, collector, transport):
    with traced(repository, collector, trace_ratio=1.0, **transport) as server:
        infer(server, parameter=f"00-{TRACE}-{PARENT}-01")
        infer(server, parameter=f"00-{TRACE}-{PARENT}-00")
    (root,) = roots(collector.spans)
    assert (root.trace_id.hex(), root.parent_span_id.hex()) == (TRACE, PARENT)
    assert len(collector.spans) == 1 + len(STAGES)


def test_a_traced_request_that_is_refused_is_an_error_without_stages(repository, collector, transport):
    with traced(repository, collector, trace_ratio=0.0, **transport) as server, pytest.raises(grpc.RpcError):
        infer(server, columns=3, parameter=f"00-{TRACE}-{PARENT}-01")
    (root,) = collector.spans
    assert attributes(root)["penstock.code"] == "INVALID_ARGUMENT"
    assert (root.status.code, "expected" in root.status.message) == (2, True)


def test_without_an_endpoint_nothing_is_traced(repository):
    graphs.write_model(repository, "affine", graphs.affine())
    with server_thread(repository, trace_ratio=1.0) as server:
        infer(server)
        assert counter(server, "penstock_traces_total") == 0
        assert server.call(lambda: [one._tracer for one in server.server._repository.servables()]) == [None]


@pytest.mark.parametrize("endpoint", ["localhost:4318", "ftp://collector"])
def test_an_endpoint_that_is_no_url_is_refused_at_the_start(endpoint, repository):
    with pytest.raises(ConfigError, match="expected one like http"), server_thread(repository, otlp_endpoint=endpoint):
        pass
