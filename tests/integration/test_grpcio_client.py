"""Stock grpcio, synchronous, on each transport: many at once, compression, large messages, metadata, interruptions."""

import contextlib
import queue

import grpc
import numpy as np
import pytest

from serving.pb.open_inference_pb2_grpc import GRPCInferenceServiceStub
from tests.support import graphs
from tests.support.conformance import CALL_TIMEOUT_S, raw_request, read_outputs
from tests.support.proxies import Proxy
from tests.support.servers import server_thread

PING, GOAWAY = 6, 7
MESSAGE_BYTES_MAX = 64 << 20
HEADER_LIST_BYTES_MAX = 16 << 10
MESSAGES = 2000
"""On one stream: more than a connection's allowance of control frames, of which a client sends two for each answer."""
UNLIMITED = {"grpc.max_receive_message_length": -1, "grpc.max_send_message_length": -1}


@contextlib.contextmanager
def connected(address, compression=None, **options):
    """A stub on a connection of its own."""
    options = {"grpc.enable_http_proxy": 0, "grpc.use_local_subchannel_pool": 1, **UNLIMITED} | options
    with grpc.insecure_channel(address, list(options.items()), compression) as channel:
        yield GRPCInferenceServiceStub(channel)


@pytest.fixture(scope="module")
def stub(stock_server):
    with connected(stock_server.address) as stub:
        yield stub


def affine(value, rows=1):
    return raw_request("affine", x=("FP32", np.full((rows, 4), value, np.float32)))


def answer_of(response):
    return read_outputs(response)["y"]


def fails(call, *arguments, **options):
    with pytest.raises(grpc.RpcError) as caught:
        call(*arguments, timeout=CALL_TIMEOUT_S, **options)
    return caught.value


def test_many_requests_over_several_connections_get_their_own_answers(stock_server):
    with contextlib.ExitStack() as stack:
        stubs = [stack.enter_context(connected(stock_server.address)) for _ in range(8)]
        calls = {
            value: stubs[value % len(stubs)].ModelInfer.future(affine(value, 1 + value % 3), timeout=CALL_TIMEOUT_S)
            for value in range(800)
        }
        for value, call in calls.items():
            assert answer_of(call.result()).tolist() == [[2.0 * value + 1] * 4] * (1 + value % 3)


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate], ids=["gzip", "deflate"])
@pytest.mark.parametrize("width", [1, 1000, 1_000_000])
def test_compressed_requests_are_read(stock_server, compression, width):
    row = np.arange(width, dtype=np.float32).reshape(1, width) % 100
    with connected(stock_server.address, compression) as stub:
        response = stub.ModelInfer(raw_request("echo", x=("FP32", row)), timeout=CALL_TIMEOUT_S)
        np.testing.assert_array_equal(answer_of(response), row)
        answers = stub.ModelStreamInfer(iter([raw_request("echo", x=("FP32", row))] * 3), timeout=CALL_TIMEOUT_S)
        for response in answers:
            np.testing.assert_array_equal(answer_of(response.infer_response), row)


def test_a_message_just_below_the_bound_goes_both_ways_and_one_above_is_refused(stub):
    width = (MESSAGE_BYTES_MAX - 200) // 4
    row = np.arange(width, dtype=np.float32).reshape(1, width)
    message = raw_request("echo", x=("FP32", row))
    assert MESSAGE_BYTES_MAX - 200 < message.ByteSize() <= MESSAGE_BYTES_MAX
    np.testing.assert_array_equal(answer_of(stub.ModelInfer(message, timeout=CALL_TIMEOUT_S)), row)
    message.raw_input_contents[0] += bytes(300)
    assert fails(stub.ModelInfer, message).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert answer_of(stub.ModelInfer(affine(1), timeout=CALL_TIMEOUT_S)).tolist() == [[3.0] * 4]


@pytest.mark.parametrize("length", [0, 1, 4090, 16_370, 16_379, 16_380, 65_530, 65_536, 1 << 20, 5 << 20])
def test_messages_around_the_sizes_of_frames_and_windows_go_both_ways(stub, length):
    row = np.resize(np.arange(251, dtype=np.float32), (1, max(1, length // 4)))
    message = raw_request("echo", x=("FP32", row))
    message.id = "i" * (length % 4)
    response = stub.ModelInfer(message, timeout=CALL_TIMEOUT_S)
    assert response.id == message.id
    np.testing.assert_array_equal(answer_of(response), row)


METADATA = {
    "none": [],
    "text": [("x-request-id", "a b;c,d=e"), ("x-empty", ""), ("x-tilde", "~" * 100)],
    "repeated": [("x-tag", str(k)) for k in range(50)],
    "binary": [("every-byte-bin", bytes(range(256))), ("empty-bin", b""), ("comma-bin", b",,")],
    "tracing": [("traceparent", "00-" + "a" * 32 + "-" + "b" * 16 + "-01"), ("grpc-trace-bin", bytes(29))],
    "cookies": [("cookie", "a=1"), ("cookie", "b=2"), ("authorization", "Bearer " + "t" * 2000)],
    "long names": [("x-" + "n" * 500, "v"), ("1.2_3-4", "v")],
}


@pytest.mark.parametrize("metadata", METADATA.values(), ids=METADATA)
def test_metadata_of_all_kinds_changes_nothing(stub, metadata):
    for _ in range(3):  # the second time it comes from the header table
        response = stub.ModelInfer(affine(5), metadata=metadata, timeout=CALL_TIMEOUT_S)
        assert answer_of(response).tolist() == [[11.0] * 4]


@pytest.mark.parametrize("tag", ["x-long", "long-bin"])
def test_large_metadata_is_taken_below_the_bound_and_refused_above_it(stub, tag):
    value = "v" * (HEADER_LIST_BYTES_MAX - 1000)
    value = value.encode()[: len(value) * 3 // 4] if tag.endswith("-bin") else value
    response = stub.ModelInfer(affine(5), metadata=[(tag, value)], timeout=CALL_TIMEOUT_S)
    assert answer_of(response).tolist() == [[11.0] * 4]
    error = fails(stub.ModelInfer, affine(5), metadata=[(tag, value * 2)])
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    response = stub.ModelInfer(affine(6), metadata=[("x-short", "v")], timeout=CALL_TIMEOUT_S)
    assert answer_of(response).tolist() == [[13.0] * 4]


def test_metadata_may_be_as_long_as_the_option_says(repository, transport):
    graphs.write_model(repository, "affine", graphs.affine())
    bound = 256 << 10
    with (
        server_thread(repository, header_list_bytes_max=bound, **transport) as server,
        connected(server.address, **{"grpc.max_metadata_size": 4 * bound}) as stub,
    ):
        for metadata in ([("x-long", "v" * 200_000)], [(f"x-{k}", "w" * 2000) for k in range(100)]):
            response = stub.ModelInfer(affine(5), metadata=metadata, timeout=CALL_TIMEOUT_S)
            assert answer_of(response).tolist() == [[11.0] * 4]
        too_long = bound * 4 // 3  # grpc's core refuses what is a little too long now and then only
        error = fails(stub.ModelInfer, affine(5), metadata=[("x-long", "v" * too_long)])
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert answer_of(stub.ModelInfer(affine(6), timeout=CALL_TIMEOUT_S)).tolist() == [[13.0] * 4]


def test_an_expired_and_a_cancelled_call_leave_nothing_behind(stock_server, stub):
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(raw_request("slow", x=("FP32", np.ones((256, 512), np.float32))), timeout=0.05)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    stock_server.wait_until(lambda: stock_server.in_flight == 0)
    waiting = raw_request("waits", x=("FP32", np.ones((1, 4), np.float32)))
    calls = [stub.ModelInfer.future(waiting, timeout=CALL_TIMEOUT_S) for _ in range(20)]
    stock_server.wait_until(lambda: stock_server.in_flight == 20)
    for call in calls:
        call.cancel()
    stock_server.wait_until(lambda: stock_server.in_flight == 0)
    assert {call.code() for call in calls} == {grpc.StatusCode.CANCELLED}
    assert stock_server.call(lambda: stock_server.queued_rows) == 0


def test_deadlines_of_every_length_are_understood(stub):
    for timeout_s in (0.5, 5, 50, 5_000, 500_000, 50_000_000, None):
        assert answer_of(stub.ModelInfer(affine(1), timeout=timeout_s)).tolist() == [[3.0] * 4]


def test_streams_and_unary_calls_share_a_connection(stub):
    begun = iter([affine(value) for value in range(200)])
    stream = stub.ModelStreamInfer(begun, timeout=CALL_TIMEOUT_S)
    calls = [stub.ModelInfer.future(affine(value), timeout=CALL_TIMEOUT_S) for value in range(200)]
    seen = [float(answer_of(response.infer_response)[0, 0]) for response in stream]
    assert sorted(seen) == [2.0 * value + 1 for value in range(200)]
    assert [float(answer_of(call.result())[0, 0]) for call in calls] == [2.0 * value + 1 for value in range(200)]


def test_a_stream_may_go_to_and_fro_for_as_long_as_its_client_likes(stock_server):
    with connected(stock_server.address) as stub:
        asked = queue.SimpleQueue()
        answers = stub.ModelStreamInfer(iter(asked.get, None), timeout=CALL_TIMEOUT_S)
        for value in range(MESSAGES):
            asked.put(affine(value))
            assert answer_of(next(answers).infer_response).tolist() == [[2.0 * value + 1] * 4]
        asked.put(None)
        assert list(answers) == []


def test_answers_that_are_read_late_and_one_by_one_may_be_followed_by_more_questions(stock_server):
    with connected(stock_server.address) as stub:
        asked = queue.SimpleQueue()
        answers = stub.ModelStreamInfer(iter(asked.get, None), timeout=CALL_TIMEOUT_S)
        for value in range(MESSAGES):
            asked.put(affine(value))
        seen = []
        for value in range(2 * MESSAGES):
            seen.append(float(answer_of(next(answers).infer_response)[0, 0]))
            asked.put(affine(value + MESSAGES) if value < MESSAGES else None)
        assert sorted(seen) == [2.0 * value + 1 for value in range(2 * MESSAGES)]


def test_a_client_that_waits_for_the_server_is_answered_when_it_starts_and_after_it_comes_back(repository, transport):
    graphs.write_model(repository, "affine", graphs.affine())
    with server_thread(repository, **transport) as server:
        address, port = server.address, server.server.grpc_port
    quick = {"grpc.initial_reconnect_backoff_ms": 50, "grpc.max_reconnect_backoff_ms": 100}
    with connected(address, **quick) as stub:
        for _ in range(3):
            assert fails(stub.ModelInfer, affine(1)).code() is grpc.StatusCode.UNAVAILABLE
            call = stub.ModelInfer.future(affine(1), wait_for_ready=True, timeout=CALL_TIMEOUT_S)
            with server_thread(repository, grpc_port=port, **transport):
                ready = {"wait_for_ready": True, "timeout": CALL_TIMEOUT_S}
                assert not isinstance(call.exception(CALL_TIMEOUT_S), grpc.FutureTimeoutError)
                assert call.code() in STARTING
                assert answer_of(stub.ModelInfer(affine(1), **ready)).tolist() == [[3.0] * 4]


STARTING = {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
"""What a request gets that comes before the models are loaded."""
KEPT_ALIVE_PINGS = {"native": 8, "grpcio": 2}
"""grpcio's server shows a client out whose pings come faster than every five minutes, from the third on."""


def test_pings_keep_a_call_alive_that_takes_long(stock_server, transport):
    pings = KEPT_ALIVE_PINGS[transport["transport"]]
    options = {
        "grpc.keepalive_time_ms": 50, "grpc.keepalive_timeout_ms": 20_000,
        "grpc.http2.max_pings_without_data": 0, "grpc.keepalive_permit_without_calls": 1,
    }  # fmt: skip
    waiting = raw_request("waits", x=("FP32", np.ones((1, 4), np.float32)))
    with Proxy(stock_server.address) as proxy, connected(proxy.address, **options) as stub:
        call = stub.ModelInfer.future(waiting, timeout=CALL_TIMEOUT_S)
        proxy.wait_until(lambda: proxy.from_client[PING] >= pings)
        stub.ModelInfer(raw_request("waits", x=("FP32", np.ones((255, 4), np.float32))), timeout=CALL_TIMEOUT_S)
        assert answer_of(call.result()).tolist() == [[3.0] * 4]
        proxy.wait_until(lambda: proxy.from_server[PING] >= pings)
        assert proxy.from_server[GOAWAY] == 0
