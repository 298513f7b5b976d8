"""A peer that opens connection after connection gets no more than the bound, and those it has go on working."""

import contextlib
import socket

import numpy as np

from serving.transport.client import Client
from serving.types import Datatype
from tests.support import graphs
from tests.support.certificates import Authority, TlsFolder, answers, client_context, tls_connection
from tests.support.servers import server_thread

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])


def first_bytes(connection: socket.socket) -> bytes:
    connection.settimeout(30)
    try:
        return connection.recv(9)
    except ConnectionResetError:
        return b""


def test_connections_beyond_the_bound_are_closed_and_the_others_served(repository, transport):
    graphs.write_model(repository, "affine", graphs.affine())
    with server_thread(repository, connections_max=3, **transport) as server, Client(server.address) as client:
        rows = np.ones((1, 4), np.float32)
        client.infer("affine", {"x": (Datatype.FP32, rows)})  # the first connection
        host, port = server.address.split(":")
        others = [socket.create_connection((host, int(port))) for _ in range(6)]
        try:
            for connection in others:
                connection.sendall(PREFACE)
            answered = [bool(first_bytes(connection)) for connection in others]
            assert sum(answered) == 2
            _, outputs = client.infer("affine", {"x": (Datatype.FP32, rows)})
            np.testing.assert_array_equal(outputs["y"], 3 * rows)
        finally:
            for connection in others:
                connection.close()


def test_connections_count_before_their_tls_handshake_and_no_longer_when_it_fails(repository, tmp_path):
    authority, files = Authority(), TlsFolder(tmp_path / "tls")
    files.write(authority.issue())
    with server_thread(repository, connections_max=3, **files.options) as server, contextlib.ExitStack() as stack:
        transport = server.server._grpc
        with tls_connection(server.address, client_context(authority)) as first:
            assert answers(first)
            host, port = server.address.split(":")
            silent = [stack.enter_context(socket.create_connection((host, int(port)))) for _ in range(6)]
            server.wait_until(lambda: transport.refusals()["connections_max"] == 4)
            assert server.call(lambda: transport.connections) == 3
            for connection in silent:
                connection.sendall(bytes(100))  # no handshake begins like this
                connection.close()
            server.wait_until(lambda: transport.connections == 1)
            assert answers(first)
            for _ in range(2):
                assert answers(stack.enter_context(tls_connection(server.address, client_context(authority))))
        assert server.call(transport.refusals)["connections_max"] == 4
