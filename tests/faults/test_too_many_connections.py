"""A peer that opens connection after connection gets no more than the bound, and those it has go on working."""

import socket

import numpy as np

from serving.transport.client import Client
from serving.types import Datatype
from tests.support import graphs
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
