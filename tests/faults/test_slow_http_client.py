"""The HTTP port gives a silent client a limited time, and serves a limited number at once."""

import contextlib
import socket
import urllib.parse

import pytest

from serving.transport import http

REQUEST = b"GET /livez HTTP/1.1\r\nHost: test\r\n\r\n"


@pytest.fixture
def connect(affine_server):
    with contextlib.ExitStack() as stack:

        def connect():
            url = urllib.parse.urlsplit(affine_server.http)
            return stack.enter_context(socket.create_connection((url.hostname, url.port), timeout=30))

        yield connect


def ask(connection):
    connection.sendall(REQUEST)
    answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 200 OK")


def is_cut_off(connection):
    """Wait for the end of a connection that nothing is expected from."""
    try:
        return connection.recv(65536) == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize("begun", [b"", REQUEST[:10], REQUEST[:-2]], ids=["nothing", "half_a_line", "half_a_header"])
def test_a_client_that_sends_no_whole_request_is_cut_off(monkeypatch, connect, affine_server, begun):
    monkeypatch.setattr(http, "_FIRST_REQUEST_S", 0.05)
    connection = connect()
    connection.sendall(begun)
    assert is_cut_off(connection)
    affine_server.wait_until(lambda: not affine_server.server._http._silent)


def test_a_client_that_has_asked_once_may_stay(monkeypatch, connect, affine_server):
    monkeypatch.setattr(http, "_FIRST_REQUEST_S", 0.05)
    patient, silent = connect(), connect()
    ask(patient)
    assert is_cut_off(silent)  # so its time, which began later, is over for the patient one as well
    ask(patient)


def test_a_connection_beyond_the_bound_is_closed_and_one_that_ends_makes_room(monkeypatch, connect, affine_server):
    monkeypatch.setattr(http, "_CONNECTIONS_MAX", 3)
    served = [connect() for _ in range(3)]
    for connection in served:
        ask(connection)
    assert is_cut_off(connect())
    for connection in served:
        ask(connection)
    served[0].close()
    runner = affine_server.server._http._runner
    affine_server.wait_until(lambda: len(runner.server.connections) == 2)
    ask(connect())


@pytest.mark.parametrize(
    "request_bytes",
    [b"GET /" + b"x" * 10_000 + b" HTTP/1.1\r\n\r\n", b"GET /livez HTTP/1.1\r\nA: " + b"x" * 10_000 + b"\r\n\r\n",
     b"\0\1\2\3\r\n\r\n"],
    ids=["long_line", "long_header", "garbage"],
)  # fmt: skip
def test_a_request_that_is_none_is_refused_and_others_are_served(connect, request_bytes):
    connection = connect()
    connection.sendall(request_bytes)
    assert connection.recv(65536).startswith(b"HTTP/1.") or is_cut_off(connection)
    ask(connect())
