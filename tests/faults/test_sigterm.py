"""SIGTERM: what is in flight is answered, what comes later is refused, and the process ends with status 0."""

import os
import signal
import subprocess
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc

from serving.transport.native import transport as native
from serving.wire import frames
from tests.support import graphs
from tests.support.conformance import raw_request
from tests.support.peers import frame
from tests.support.raw_client import RawClient, infer
from tests.support.servers import PROGRAM, START_TIMEOUT_S, server_process, server_thread
from tests.support.sessions import DEADLINE_S

ROWS = np.ones((2, 4), np.float32)
LARGE_BYTES = 20 << 20
"""Much more than the sockets between client and server hold."""


def wait_until_in_flight(server):
    """Ask for the metrics until a request is in flight."""
    line = "penstock_requests_in_flight 1.0"
    for _ in range(2_000):
        with urllib.request.urlopen(f"{server.http}/metrics") as page:
            if line in page.read().decode():
                return
    raise AssertionError("the request was never admitted")


def test_a_request_in_flight_is_answered_and_the_exit_status_is_0(repository, transport, calls):
    graphs.write_model(repository, "slow", graphs.slow(layers=1_000))  # seconds for 256 rows, so SIGTERM finds it busy
    with server_process(repository, **transport) as server:
        client = calls(server.address)
        future = client.send(np.zeros((256, 512), np.float32), model="slow")
        wait_until_in_flight(server)
        server.process.send_signal(signal.SIGTERM)
        server.wait_for_log(r"draining 1 requests")
        refused = client.send(ROWS, model="slow").exception(DEADLINE_S)
        assert refused.code() is grpc.StatusCode.UNAVAILABLE
        np.testing.assert_array_equal(client.read(future.result(DEADLINE_S)), np.zeros((256, 512), np.float32))
        assert server.process.wait(START_TIMEOUT_S) == 0
        server.wait_for_log(r"stopped$")
        assert not any("Traceback" in line for line in server.log)


def test_a_request_that_waits_for_batchmates_waits_no_longer(repository, transport, calls):
    window = "[batching]\nmode = 'window'\nqueue_delay_us_max = 60_000_000"
    graphs.write_model(repository, "affine", graphs.affine(), config=window)
    with server_process(repository, "--drain-timeout-s", "20", **transport) as server:
        client = calls(server.address)
        future = client.send(ROWS)
        wait_until_in_flight(server)
        server.process.send_signal(signal.SIGTERM)
        np.testing.assert_array_equal(client.read(future.result(DEADLINE_S)), 2 * ROWS + 1)
        assert server.process.wait(START_TIMEOUT_S) == 0
        assert not any("requests still run" in line for line in server.log)


def test_a_client_that_reads_a_large_answer_slowly_gets_all_of_it(repository):
    graphs.write_model(repository, "echo", graphs.open_inner())
    large = raw_request("echo", x=("FP32", np.zeros((1, LARGE_BYTES // 4), np.float32))).SerializeToString()
    with (
        server_process(repository, "--drain-timeout-s", "60", "--transport", "native") as server,
        RawClient(server.address, receive_bytes=16_384) as client,
    ):
        client.send(infer(1, large))
        client.read_until(lambda seen: seen.kind == frames.DATA)
        server.process.send_signal(signal.SIGTERM)
        ping = client.read_until(lambda seen: seen.kind == frames.PING)
        client.send(frame(frames.PING, frames.ACK, 0, ping.payload))
        for seen in client.frames_of(frames.DATA, frames.HEADERS):
            if seen.flags & frames.END_STREAM:
                break
            time.sleep(0.001)
        assert client.answer(1).status == 0
        assert server.process.wait(START_TIMEOUT_S) == 0


def test_a_health_watch_hears_of_the_end_and_does_not_delay_it(repository, transport):
    graphs.write_model(repository, "affine", graphs.affine())
    options = [("grpc.enable_http_proxy", 0)]
    with server_process(repository, **transport) as server, grpc.insecure_channel(server.address, options) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=DEADLINE_S)
        statuses = [next(watch).status]
        server.process.send_signal(signal.SIGTERM)
        statuses.append(next(watch).status)
        assert statuses == [health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING]
        assert server.process.wait(START_TIMEOUT_S) == 0


def test_an_interrupt_from_the_keyboard_ends_it_too(repository, transport):
    with server_process(repository, **transport) as server:
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(START_TIMEOUT_S) == 0


def test_a_run_that_outlasts_the_drain_ends_with_the_process(repository, transport, calls):
    graphs.write_model(repository, "slow", graphs.slow(layers=4_000))
    with server_process(repository, "--drain-timeout-s", "0.1", **transport) as server:
        future = calls(server.address).send(np.zeros((256, 512), np.float32), model="slow")
        wait_until_in_flight(server)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(START_TIMEOUT_S) == 0
        assert future.exception(DEADLINE_S) is not None
        server.wait_for_log("1 requests still run after drain_timeout_s")


def test_a_server_that_still_compiles_ends_at_once(repository, tmp_path):
    process = subprocess.Popen(
        [*PROGRAM, "serve", "--models", str(repository), "--grpc-port", "0", "--http-port", "0"],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cold")},
    )
    try:
        assert any("compiling the kernels" in line for line in process.stderr)
        process.send_signal(signal.SIGTERM)
        assert process.wait(START_TIMEOUT_S) == -signal.SIGTERM
        assert "compiled" not in process.stderr.read()
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def test_a_call_on_its_way_when_an_idle_server_goes_is_answered(repository, monkeypatch):
    """The server has nothing to wait for, but the peer has not seen yet that it goes."""
    monkeypatch.setattr(native, "_DRAIN_PING_S", START_TIMEOUT_S)  # the peer confirms long before
    graphs.write_model(repository, "affine", graphs.affine())
    with server_thread(repository) as server, RawClient(server.address) as client, ThreadPoolExecutor(1) as pool:
        client.sync()
        stopping = pool.submit(server.stop)
        ping = client.read_until(lambda seen: seen.kind == frames.PING)
        client.send(infer(1, raw_request("affine", x=("FP32", ROWS)).SerializeToString()))
        assert client.answer(1).status == grpc.StatusCode.UNAVAILABLE.value[0]
        client.send(frame(frames.PING, frames.ACK, 0, ping.payload))
        goaways = [seen for seen in client.read_to_the_end() if seen.kind == frames.GOAWAY]
        assert [int.from_bytes(seen.payload[:4]) for seen in goaways] == [2**31 - 1, 1]
        stopping.result(START_TIMEOUT_S)


def test_a_peer_that_confirms_nothing_does_not_hold_up_the_end(repository, monkeypatch):
    monkeypatch.setattr(native, "_DRAIN_PING_S", 0.01)
    with server_thread(repository) as server, RawClient(server.address) as client:
        client.sync()
        server.stop()
        assert client.is_cut_off()
