"""What a client says first on a connection, and the header block that all of its requests begin with, as bytes.

The block uses static and literal fields only, so it is the same for every request and needs no table on either side.
Knows RFC 7541, RFC 9113 and the headers of gRPC over HTTP/2; knows no connection.
"""

import math
import struct

from serving.wire.client.layout import HEADER_LIST_BYTES_MAX, RECEIVE_WINDOW_BYTES
from serving.wire.connection import PREFACE
from serving.wire.frames import (
    END_HEADERS,
    HEADERS,
    SETTINGS,
    SETTINGS_ENABLE_PUSH,
    SETTINGS_INITIAL_WINDOW_SIZE,
    SETTINGS_MAX_HEADER_LIST_SIZE,
    WINDOW_UPDATE,
)
from serving.wire.header_values import MODEL_INFER
from serving.wire.hpack import encode_field
from serving.wire.huffman import huffman_encode
from serving.wire.layout import WINDOW_BYTES_INITIAL

_TIMEOUT_NUMBER_MAX = 99_999_999


def opening() -> bytes:
    """Return the preface, our settings, and the rest of the connection's window."""
    settings = (
        (SETTINGS_ENABLE_PUSH, 0),
        (SETTINGS_INITIAL_WINDOW_SIZE, RECEIVE_WINDOW_BYTES),
        (SETTINGS_MAX_HEADER_LIST_SIZE, HEADER_LIST_BYTES_MAX),
    )
    payload = b"".join(struct.pack(">HI", *pair) for pair in settings)
    window = struct.pack(">I", RECEIVE_WINDOW_BYTES - WINDOW_BYTES_INITIAL)
    return PREFACE.tobytes() + _frame(SETTINGS, 0, payload) + _frame(WINDOW_UPDATE, 0, window)


def request_head(authority: str, *, tls: bool = False, timeout_s: float | None = None) -> bytes:
    """Return the HEADERS frame of a ModelInfer, with the stream id 0 in place of its own."""
    path = huffman_encode(MODEL_INFER)
    block = b"".join(
        (
            encode_field(b":method", b"POST"),
            encode_field(b":scheme", b"https" if tls else b"http"),
            b"\x04" + bytes([0x80 | len(path)]) + path,
            encode_field(b":authority", authority.encode()),
            encode_field(b"content-type", b"application/grpc"),
            encode_field(b"te", b"trailers"),
            b"" if timeout_s is None else encode_field(b"grpc-timeout", timeout(timeout_s)),
        )
    )
    return _frame(HEADERS, END_HEADERS, block)


def timeout(seconds: float) -> bytes:
    """Return a grpc-timeout, in the finest unit that holds it, rounded up."""
    for unit, per_s in ((b"n", 1e9), (b"u", 1e6), (b"m", 1e3), (b"S", 1.0)):
        number = max(1, math.ceil(seconds * per_s - 1e-6))
        if number <= _TIMEOUT_NUMBER_MAX:
            return b"%d" % number + unit
    return b"%dS" % _TIMEOUT_NUMBER_MAX


def _frame(kind: int, flags: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + bytes(4) + payload
