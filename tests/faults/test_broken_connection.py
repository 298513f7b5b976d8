"""A client that dies in the middle of a message leaves nothing behind and disturbs nobody."""

import os
import socket
import struct

import numpy as np
import psutil
import pytest

from serving.transport.client import Client
from serving.transport.services import SERVICE
from serving.types import Datatype

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS, PING = 0, 1, 4, 6
END_STREAM, END_HEADERS, ACK = 1, 4, 1


def frame(kind, flags=0, stream=0, payload=b""):
    """One HTTP/2 frame."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def headers(method):
    """A request's header block, every field a literal without compression."""
    fields = {
        ":method": "POST", ":scheme": "http", ":path": f"/{SERVICE}/{method}", ":authority": "test",
        "te": "trailers", "content-type": "application/grpc",
    }  # fmt: skip
    return b"".join(
        b"\0" + b"".join(bytes([len(text)]) + text.encode() for text in field) for field in fields.items()
    )  # fmt: skip


def receive_until_pong(connection):
    """Read until the answer to our PING comes, which says that everything before it has been taken in."""
    data = b""
    while frame(PING, ACK, payload=b"8 bytes!") not in data:
        more = connection.recv(65536)
        assert more, "the server closed the connection"
        data += more


def connect(server):
    host, port = server.address.split(":")
    connection = socket.create_connection((host, int(port)), timeout=30)
    connection.sendall(PREFACE + frame(SETTINGS))
    return connection


def reset(connection):
    """Die as a killed process behind a lossy network does: with a TCP reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


@pytest.mark.parametrize("method", ["ModelInfer", "ModelStreamInfer"])
@pytest.mark.parametrize("end", ["close", "reset", "half_close"])
@pytest.mark.parametrize("sent", [0, 3, 5, 200], ids=lambda sent: f"{sent}_bytes")
def test_a_client_that_dies_inside_a_message_is_forgotten(affine_server, method, end, sent):
    message = b"\0" + struct.pack(">I", 1000) + bytes(1000)
    with Client(affine_server.address) as client:
        client.infer("affine", {"x": (Datatype.FP32, np.zeros((1, 4), np.float32))})
        process = psutil.Process(os.getpid())
        files = process.num_fds()
        connection = connect(affine_server)
        flags = END_STREAM if end == "half_close" else 0
        connection.sendall(frame(HEADERS, END_HEADERS, 1, headers(method)) + frame(DATA, flags, 1, message[:sent]))
        connection.sendall(frame(PING, payload=b"8 bytes!"))
        receive_until_pong(connection)
        reset(connection) if end == "reset" else connection.close()
        affine_server.wait_until(lambda: process.num_fds() <= files)
        assert affine_server.call(lambda: affine_server.in_flight) == 0
        _, outputs = client.infer("affine", {"x": (Datatype.FP32, np.ones((1, 4), np.float32))})
    assert outputs["y"].tolist() == [[3, 3, 3, 3]]


@pytest.mark.parametrize("garbage", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01" + bytes(100), bytes(64)])
def test_a_client_that_speaks_another_language_is_shown_out(affine_server, garbage):
    host, port = affine_server.address.split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(garbage)
        while connection.recv(65536):
            pass  # the server may say why before it closes
    with Client(affine_server.address) as client:
        _, outputs = client.infer("affine", {"x": (Datatype.FP32, np.ones((1, 4), np.float32))})
    assert outputs["y"].tolist() == [[3, 3, 3, 3]]
