"""Header blocks of answers: before a message, behind it, and instead of it when there is an error.

All are made of static and literal fields, so they are the same on every connection; only the first block of a
connection must begin with the table size 0 (RFC 7541, section 4.2), and whoever writes one sees to that. It knows the
fields of gRPC over HTTP/2 and its status codes by number, and no connection, no stream and no reason for an error.
"""

import base64
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from serving.wire.hpack import TABLE_SIZE_ZERO, encode_field
from serving.wire.layout import (
    FAIL_COMPRESSED,
    FAIL_CONTENT_TYPE,
    FAIL_CUT_OFF,
    FAIL_ENCODING,
    FAIL_HEADER_LIST,
    FAIL_MESSAGE_FLAG,
    FAIL_MESSAGE_LENGTH,
    FAIL_METHOD,
    FAIL_NO_MESSAGE,
    FAIL_SECOND_MESSAGE,
    FAIL_TIMEOUT,
)

Metadata = Sequence[tuple[bytes, bytes]]

OK, RESOURCE_EXHAUSTED, UNIMPLEMENTED, INTERNAL = 0, 8, 12, 13
"""The gRPC status codes that the wire answers with by itself."""

MESSAGE_BYTES_MAX = 2048
"""A longer grpc-message is cut: gRPC clients refuse a list of trailers above 8 KiB."""

_STATUS_200 = encode_field(b":status", b"200")
_CONTENT_TYPE = encode_field(b"content-type", b"application/grpc")
_LITERAL_CONTENT_TYPE, _INDEXING_CONTENT_TYPE = b"\x0f\x10", b"\x5f"
"""The name content-type, of a literal without and with indexing."""

START = _STATUS_200 + _CONTENT_TYPE
"""Begins every gRPC answer but the first of a connection."""
FIRST_START = TABLE_SIZE_ZERO + _STATUS_200 + _CONTENT_TYPE.replace(_LITERAL_CONTENT_TYPE, _INDEXING_CONTENT_TYPE)
"""Begins the first answer. It asks to index a field in a table of no size, which is no error and does nothing (RFC
7541, section 4.4), and is a byte shorter by that: so both have one length, and the place of an answer never depends on
whether it is the first."""


def trailers(code: int, message: str = "", metadata: Metadata = ()) -> bytes:
    """Return the block that ends an answer; values of `-bin` metadata are given as they are before base64."""
    block = encode_field(b"grpc-status", b"%d" % code)
    if message:
        block += encode_field(b"grpc-message", percent_encoded(message))
    for name, value in metadata:
        text = base64.b64encode(value).rstrip(b"=") if name.endswith(b"-bin") else value
        block += encode_field(name, text)
    return block


def error(code: int, message: str, metadata: Metadata = ()) -> bytes:
    """Return the one block of an answer that is an error alone (trailers-only)."""
    return START + trailers(code, message, metadata)


def percent_encoded(message: str) -> bytes:
    """Return a grpc-message: printable ASCII but `%` as it is, everything else as %XX of its UTF-8 bytes.

    A space at either end is encoded too, because a field value may not begin or end with one. A message that is too
    long loses whole characters from its end.
    """
    if _is_plain(message):
        return message.encode()
    begin, end = len(message) - len(message.lstrip(" ")), len(message.rstrip(" "))
    encoded = bytearray()
    for k, character in enumerate(message):
        plain = " " <= character <= "~" and character != "%" and begin <= k < end
        octets = character.encode(errors="replace")
        piece = octets if plain else b"".join(b"%%%02X" % octet for octet in octets)
        if len(encoded) + len(piece) > MESSAGE_BYTES_MAX:
            return bytes(encoded).rstrip(b" ")
        encoded += piece
    return bytes(encoded)


def _is_plain(message: str) -> bool:
    """Say whether a grpc-message is nothing but what needs no encoding, as nearly all are."""
    is_printable = message.isascii() and message.isprintable() and "%" not in message
    return is_printable and message == message.strip(" ") and len(message) <= MESSAGE_BYTES_MAX


def as_array(block: bytes) -> NDArray[np.uint8]:
    """Return a block as kernels take it."""
    return np.frombuffer(block, np.uint8).copy()


TOO_MUCH_UNSENT = error(RESOURCE_EXHAUSTED, "too many answers wait for clients to read them")
"""What an answer becomes when its connection holds too many already."""

FAILURES = {
    FAIL_METHOD: encode_field(b":status", b"405") + encode_field(b"allow", b"POST"),
    FAIL_CONTENT_TYPE: encode_field(b":status", b"415") + encode_field(b"accept", b"application/grpc"),
    FAIL_HEADER_LIST: error(RESOURCE_EXHAUSTED, "the metadata is longer than the server accepts"),
    FAIL_TIMEOUT: error(INTERNAL, "malformed grpc-timeout"),
    FAIL_ENCODING: error(
        UNIMPLEMENTED, "unknown grpc-encoding", [(b"grpc-accept-encoding", b"identity, deflate, gzip")]
    ),
    FAIL_MESSAGE_FLAG: error(INTERNAL, "a message's first byte must be 0 or 1"),
    FAIL_COMPRESSED: error(INTERNAL, "a message is flagged as compressed, and there is no grpc-encoding"),
    FAIL_MESSAGE_LENGTH: error(RESOURCE_EXHAUSTED, "the message is longer than the server accepts"),
    FAIL_CUT_OFF: error(INTERNAL, "the stream ended inside a message"),
    FAIL_NO_MESSAGE: error(INTERNAL, "a unary call without a message"),
    FAIL_SECOND_MESSAGE: error(INTERNAL, "a unary call with more than one message"),
}
"""The whole answer to each EVENT_FAILED, by its detail. What is no gRPC gets a status of HTTP."""

_HTTP1_TEXT = b"This port speaks gRPC over HTTP/2; metrics and health are on the HTTP port.\n"
_HTTP1 = b"".join(
    [
        b"HTTP/1.1 505 HTTP Version Not Supported\r\ncontent-type: text/plain; charset=utf-8\r\n",
        b"content-length: %d\r\nconnection: close\r\n\r\n" % len(_HTTP1_TEXT),
        _HTTP1_TEXT,
    ]
)


def not_http2(begun: bytes) -> bytes:
    """Answer a peer that `begun` to speak something else: HTTP/1 in plain text, anything else (TLS, noise) by nothing.

    One byte must do, because a peer is known not to speak HTTP/2 at the first one that differs; a method is in
    capitals.
    """
    return _HTTP1 if begun[:1].isalpha() and begun[:1].isupper() else b""
