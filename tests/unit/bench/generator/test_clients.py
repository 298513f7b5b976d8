"""What a generator records of a server whose answers leave at moments that arithmetic foretells."""

import os
import socket
import ssl
import threading

import numpy as np
import pytest

from bench.arrivals import times_ns
from bench.generator.schedule import Schedule
from bench.slices import ClosedLoop, OpenLoop, Slice, Target
from tests.support.certificates import Authority, TlsFolder
from tests.support.fake_server import HTTP_503, RESET, SILENCE, Behaviour, Stall, fake_server, leaves

CLIENTS = ["native", "grpcio"]
QUANTILES = (0.5, 0.9, 0.99, 0.999)
TOLERANCE_S = 0.05
"""Of a latency: small against the second that is injected."""
ATTEMPTS = 5
"""A machine that others use delays both sides, so what is foretold must show in one of these."""


def open_loop(rate: float = 200, duration: float = 1.0, arrivals: str = "constant", **options) -> Slice:
    return Slice(load=OpenLoop(rate_per_s=rate, duration_s=duration, arrivals=arrivals), drain_s=5, **options)


def closed_loop(concurrency: int = 4, duration: float = 0.5, **options) -> Slice:
    return Slice(load=ClosedLoop(concurrency=concurrency, duration_s=duration), drain_s=5, **options)


def expected_ns(slice_: Slice, **behaviour) -> np.ndarray:
    """The latencies that arithmetic foretells, in ns, ascending."""
    arrivals_s = (times_ns(slice_.load) / 1e9).tolist()
    left = leaves([at - arrivals_s[0] for at in arrivals_s], Behaviour(**behaviour))
    return np.sort(np.array(left) - np.array(arrivals_s) + arrivals_s[0]) * 1e9


# ---- open loop -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("arrivals", ["constant", "poisson"])
def test_every_request_of_a_schedule_is_sent_and_answered_once(record, arrivals, client):
    slice_ = open_loop(arrivals=arrivals)
    with fake_server() as server:
        (recording,) = record(server, slice_, client=client)
    total, count = recording.total, times_ns(slice_.load).size
    assert (total.sent, total.answered, total.latency.count, total.lag.count) == (count, count, count, count)
    assert (server.infers, recording.unanswered, recording.unsent, recording.failure) == (count, 0, 0, None)
    assert not total.errors
    assert total.begin_s == 0
    assert total.end_s >= slice_.load.duration_s
    assert set(server.messages) == {b"one", b"two", b"three"}


@pytest.mark.parametrize("client", CLIENTS)
def test_a_stall_is_charged_to_every_request_that_it_kept_waiting(record, client):
    stall = {"stall": Stall(length_s=1.0, period_s=10.0, offset_s=1.0), "service_s": 0.0005}
    slice_ = open_loop(50, 4.0)
    foretold = expected_ns(slice_, **stall)

    def measure():
        with fake_server(**stall) as server:
            opened, closed = record(server, slice_, closed_loop(1, 2.5), client=client)
        assert opened.total.answered == foretold.size
        figures = [opened.total.latency.quantile_ns(quantile) / 1e9 for quantile in QUANTILES]
        # A closed loop of one sends nothing while the server stalls, so one request in hundreds shows it.
        return [*figures, closed.total.latency.quantile_ns(0.99) / 1e9]

    expected = [foretold[int(np.ceil(quantile * foretold.size - 1e-9)) - 1] / 1e9 for quantile in QUANTILES]
    assert expected[-1] > expected[-2] > 0.9
    foretells(measure, [*expected, 0.0005])


def foretells(measure, expected) -> None:
    """Assert that a measurement gives what is expected, as soon as nobody disturbs it."""
    for attempt in range(ATTEMPTS):
        measured = measure()
        if measured == pytest.approx(expected, abs=TOLERANCE_S):
            return
        assert attempt + 1 < ATTEMPTS, (measured, expected)


def test_what_could_not_be_sent_for_want_of_a_stream_counts_from_its_intended_moment(record):
    slice_ = open_loop(100, 1.0)
    behaviour = {"service_s": 0.02, "streams_max": 1}
    foretold = expected_ns(slice_, service_s=0.02)
    with fake_server(**behaviour) as server:
        (recording,) = record(server, slice_, connections=1)
    assert recording.total.answered == foretold.size
    # The server serves at 50 per second what comes at 100: the last one waits for as long as the schedule took.
    assert recording.total.latency.max_ns > 0.99 * foretold[-1]
    assert recording.total.lag.max_ns > 0.9 * foretold[-1]


def test_the_warm_up_is_sent_and_not_counted(record):
    slice_ = open_loop(100, 1.0, warm_up_s=1.0)
    with fake_server() as server:
        (recording,) = record(server, slice_)
    assert (server.infers, recording.total.sent, recording.total.answered) == (200, 100, 100)
    assert recording.total.begin_s == 0
    assert recording.total.end_s < 1.9


def test_the_schedule_of_a_warm_up_goes_on_without_a_seam():
    schedule = Schedule.of(open_loop(10, 1.0, warm_up_s=0.5), begin_ns=7)
    assert schedule.due_ns.size == 15
    assert (schedule.count_from_ns, schedule.end_ns) == (500_000_007, 1_500_000_007)


@pytest.mark.parametrize("client", CLIENTS)
def test_the_objective_divides_the_answers(record, client):
    stall = Stall(length_s=1.5, period_s=100.0, offset_s=0.5)
    with fake_server(stall=stall) as server:
        (recording,) = record(server, open_loop(100, 1.0, slo_ms=750), client=client)
    assert recording.total.answered == 100
    assert recording.total.in_slo == pytest.approx(50, abs=10)


# ---- closed loop -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("client", CLIENTS)
def test_a_closed_loop_keeps_its_places_filled(record, client):
    with fake_server(service_s=0.005) as server:
        (recording,) = record(server, closed_loop(4, 1.0), client=client)
    total = recording.total
    assert total.sent == total.answered == server.infers
    assert total.latency.quantile_ns(0.5) > 19.9e6  # four places share a server that takes 5 ms
    assert total.sent > 8
    assert recording.unsent == recording.unanswered == 0


def test_places_without_a_stream_are_told_as_unsent(record):
    with fake_server(service_s=0.005, streams_max=1) as server:
        (recording,) = record(server, closed_loop(8, 0.5), connections=2)
    assert recording.unsent == pytest.approx(6, abs=1)
    assert recording.total.answered == server.infers


# ---- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("client", CLIENTS)
def test_errors_are_counted_by_their_codes(record, client):
    with fake_server(outcome=lambda n: [0, 3, 8, RESET, HTTP_503][n % 5]) as server:
        (recording,) = record(server, open_loop(100, 1.0), client=client)
    assert recording.total.answered == recording.total.latency.count == 20
    assert recording.total.errors == {
        "INVALID_ARGUMENT": 20, "RESOURCE_EXHAUSTED": 20, "INTERNAL": 20, "UNAVAILABLE": 20,
    }  # fmt: skip


@pytest.mark.parametrize("client", CLIENTS)
def test_a_server_that_never_answers_leaves_all_unanswered_and_the_next_slice_clean(record, client):
    silent = Slice(load=OpenLoop(rate_per_s=50, duration_s=0.5, arrivals="constant"), drain_s=0.1)
    with fake_server(outcome=lambda n: SILENCE if n < 25 else 0) as server:
        first, second = record(server, silent, open_loop(50, 0.5), client=client)
    assert (first.total.sent, first.total.answered, first.unanswered, first.failure) == (25, 0, 25, None)
    assert (second.total.sent, second.total.answered, second.unanswered) == (25, 25, 0)
    assert server.resets == 25


def test_what_no_stream_was_free_for_is_told_as_unsent(record):
    slice_ = Slice(load=OpenLoop(rate_per_s=50, duration_s=0.5, arrivals="constant"), drain_s=0.1)
    with fake_server(outcome=lambda _: SILENCE, streams_max=3) as server:
        (recording,) = record(server, slice_)
    assert (recording.total.sent, recording.unanswered, recording.unsent) == (6, 6, 19)


@pytest.mark.parametrize("client", CLIENTS)
def test_a_deadline_ends_a_call_that_gets_no_answer(record, client):
    with fake_server(outcome=lambda n: SILENCE if n % 2 else 0) as server:
        (recording,) = record(server, open_loop(50, 0.5, timeout_s=0.1), client=client)
    assert recording.total.answered == 13
    assert recording.total.errors == {"DEADLINE_EXCEEDED": 12}
    assert recording.unanswered == 0


# ---- failures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("client", CLIENTS)
def test_a_server_that_dies_midway_leaves_what_was_recorded_and_a_reason(record, client):
    with fake_server(dies_after=50) as server:
        recording, after = record(server, open_loop(100, 5.0), open_loop(), client=client)
        assert f"the server at 127.0.0.1:{server.port} closed the connection" in recording.failure
        assert f"cannot connect to 127.0.0.1:{server.port} (Connection refused)" in after.failure
    assert 40 <= recording.total.answered <= 50
    assert 0.4 < recording.total.end_s < 3
    assert after.total.sent == 0


def test_a_goaway_is_told_with_its_code_and_text(record):
    with fake_server(goaway_after=20) as server:
        recording, after = record(server, open_loop(100, 5.0), open_loop(100, 0.5))
    assert "GOAWAY ENHANCE_YOUR_CALM, 'too many requests'" in recording.failure
    assert recording.total.answered >= 20
    assert (after.failure, after.total.answered) == (None, 50)  # on new connections


@pytest.mark.parametrize("client", CLIENTS)
def test_a_refused_connection_says_the_address_and_what_to_do(record, client):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    (recording,) = record(Target("127.0.0.1", port), open_loop(), client=client)
    assert recording.failure == (
        f"cannot connect to 127.0.0.1:{port} (Connection refused); is the server running, and is this its gRPC port?"
    )
    assert (recording.intervals, recording.total.sent) == ([], 0)


def test_a_name_that_nobody_has_says_so(record):
    (recording,) = record(Target("no-such-host.invalid", 1), open_loop())
    assert recording.failure.startswith("cannot connect to no-such-host.invalid:1 (")


@pytest.mark.parametrize(
    ("said", "reason"),
    [(b"", "closed the connection at once"), (b"HTTP/1.1 400 Bad Request\r\n\r\n", "does not answer in HTTP/2")],
)
def test_a_port_that_speaks_something_else_is_named(record, said, reason):
    def serve(listener):
        connected, _ = listener.accept()
        connected.recv(1 << 16)
        connected.sendall(said)
        connected.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        (recording,) = record(Target("127.0.0.1", listener.getsockname()[1]), open_loop(), connections=1)
        thread.join()
    assert reason in recording.failure


# ---- large messages, several targets, TLS ----------------------------------------------------------------------------


@pytest.mark.parametrize("client", CLIENTS)
def test_large_messages_go_through_small_windows_both_ways(record, client):
    message = os.urandom(300_000)
    with fake_server(window_bytes=1000, answer_bytes=1 << 20) as server:
        (recording,) = record(server, closed_loop(2, 0.2), connections=1, client=client, messages=[message])
        assert recording.failure is None
        assert recording.total.answered == server.infers > 0
        assert set(server.messages) == {message}


@pytest.fixture
def authority():
    return Authority()


def server_context(authority: Authority, folder, *, asks: bool = False) -> ssl.SSLContext:
    files = TlsFolder(folder / "server")
    files.write(authority.issue())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.cert, files.key)
    context.set_alpn_protocols(["h2"])
    if asks:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=authority.pem.decode())
    return context


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("asks", [False, True], ids=["tls", "mtls"])
def test_tls_is_spoken_with_a_ca_and_a_client_certificate(record, authority, tmp_path, client, asks):
    ca = tmp_path / "ca.pem"
    ca.write_bytes(authority.pem)
    files = TlsFolder(tmp_path / "client")
    files.write(authority.issue("client"))
    options = {"tls_ca": ca, **({"tls_cert": files.cert, "tls_key": files.key} if asks else {})}
    with fake_server(tls=server_context(authority, tmp_path, asks=asks), answer_bytes=100_000) as server:
        (recording,) = record(server, open_loop(50, 0.5), client=client, connections=1, **options)
    assert (recording.failure, recording.total.answered) == (None, 25)


def test_a_certificate_that_nobody_here_trusts_is_named(record, authority, tmp_path):
    ca = tmp_path / "ca.pem"
    ca.write_bytes(Authority().pem)
    with fake_server(tls=server_context(authority, tmp_path)) as server:
        (recording,) = record(server, open_loop(), connections=1, tls_ca=ca)
    assert "is not to be trusted" in recording.failure
    assert "--tls-ca" in recording.failure


def test_a_server_that_asks_for_a_certificate_and_gets_none_is_named(record, authority, tmp_path):
    ca = tmp_path / "ca.pem"
    ca.write_bytes(authority.pem)
    with fake_server(tls=server_context(authority, tmp_path, asks=True)) as server:
        (recording,) = record(server, open_loop(), connections=1, tls_ca=ca)
    assert "--tls-cert" in recording.failure


def test_tls_with_a_server_that_does_not_speak_it_is_named(record, authority, tmp_path):
    ca = tmp_path / "ca.pem"
    ca.write_bytes(authority.pem)
    with fake_server() as server:
        (recording,) = record(Target("localhost", server.port, tls=True, tls_ca=ca), open_loop(), connections=1)
    assert recording.failure is not None
