"""HTTP/2 frames as bytes: their numbers, reading a header, writing the control frames that answer at once.

Knows RFC 9113, sections 4, 6 and 7, and no stream. `Wire` is how kernels hand the arrays of one decode call to their
parts.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from serving.wire.compiler import inlined, int64, part
from serving.wire.layout import (
    E_AT,
    E_DEADLINE_NS,
    E_DETAIL,
    E_ENCODING,
    E_GENERATION,
    E_ID,
    E_KIND,
    E_LENGTH,
    E_SOURCE,
    E_STREAM,
    H_CONTROL,
    H_COUNTS,
    H_EVENTS,
    S_DEADLINE_NS,
    S_GENERATION,
    S_ID,
)

FRAME_HEADER_BYTES = 9
(
    DATA,
    HEADERS,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    PUSH_PROMISE,
    PING,
    GOAWAY,
    WINDOW_UPDATE,
    CONTINUATION,
) = range(10)
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITY_FLAG = 1, 1, 4, 8, 32

SETTINGS_ENABLE_PUSH = 2
SETTINGS_MAX_CONCURRENT_STREAMS = 3
SETTINGS_INITIAL_WINDOW_SIZE = 4
SETTINGS_MAX_FRAME_SIZE = 5
SETTINGS_MAX_HEADER_LIST_SIZE = 6

NO_ERROR = 0
PROTOCOL_ERROR = 1
FLOW_CONTROL_ERROR = 3
STREAM_CLOSED = 5
FRAME_SIZE_ERROR = 6
REFUSED_STREAM = 7
COMPRESSION_ERROR = 9
ENHANCE_YOUR_CALM = 11

CONTROL_ROOM_BYTES = 128
"""What one frame may cause in control output: a GOAWAY with its text, two window updates, a reset."""

TOO_MANY_PINGS = np.frombuffer(b"too_many_pings", np.uint8).copy()
"""The debug text that gRPC clients understand: they ping less often after it."""


class Wire(NamedTuple):
    """The arrays of one decode call: what came, the state, and the outputs."""

    source: NDArray[np.uint8]
    connections: NDArray[np.int64]
    streams: NDArray[np.int64]
    pool: NDArray[np.uint8]
    events: NDArray[np.int64]
    control: NDArray[np.uint8]
    headers: NDArray[np.uint8]
    shared: NDArray[np.int64]


@inlined
def read_number(source: NDArray[np.uint8], at: int, length: int) -> int:
    """Read a big-endian number; the caller has checked that it lies inside."""
    number = 0
    for k in range(length):
        number = number << 8 | int64(source[at + k])
    return number


@part
def write_number(out: NDArray[np.uint8], at: int, length: int, number: int) -> None:
    """Write a big-endian number."""
    for k in range(length):
        out[at + k] = number >> (8 * (length - 1 - k)) & 255


@part
def write_frame_header(out: NDArray[np.uint8], at: int, length: int, kind: int, flags: int, stream_id: int) -> None:
    """Write the 9 bytes before a payload."""
    write_number(out, at, 3, length)
    out[at + 3] = kind
    out[at + 4] = flags
    write_number(out, at + 5, 4, stream_id)


@part
def write_control(wire: Wire, kind: int, flags: int, stream_id: int, payload_bytes: int) -> int:
    """Append a control frame's header; returns where its payload is to be written."""
    at = wire.shared[H_CONTROL]
    write_frame_header(wire.control, at, payload_bytes, kind, flags, stream_id)
    wire.shared[H_CONTROL] = at + FRAME_HEADER_BYTES + payload_bytes
    return int64(at + FRAME_HEADER_BYTES)


@part
def write_reset(wire: Wire, stream_id: int, code: int) -> None:
    """Append RST_STREAM."""
    write_number(wire.control, write_control(wire, RST_STREAM, 0, stream_id, 4), 4, code)


@part
def write_window_update(wire: Wire, stream_id: int, increment: int) -> None:
    """Append WINDOW_UPDATE; stream 0 is the connection."""
    write_number(wire.control, write_control(wire, WINDOW_UPDATE, 0, stream_id, 4), 4, increment)


@part
def write_goaway(wire: Wire, last_id: int, code: int, text: NDArray[np.uint8]) -> None:
    """Append GOAWAY with a debug text."""
    at = write_control(wire, GOAWAY, 0, 0, 8 + text.size)
    write_number(wire.control, at, 4, last_id)
    write_number(wire.control, at + 4, 4, code)
    for k in range(text.size):
        wire.control[at + 8 + k] = text[k]


@part
def write_ping_ack(wire: Wire, at: int) -> None:
    """Append the answer to the PING whose payload lies at source[at]."""
    to = write_control(wire, PING, ACK, 0, 8)
    for k in range(8):
        wire.control[to + k] = wire.source[at + k]


@part
def count(wire: Wire, refused: int) -> None:
    """Count what is refused: one of REFUSED_*."""
    wire.shared[H_COUNTS + refused] += 1


@inlined
def tell(wire: Wire, kind: int, stream: int, detail: int) -> int:
    """Append an event about a stream (-1: about the connection); returns its row, for the columns of its bytes."""
    row = wire.shared[H_EVENTS]
    wire.shared[H_EVENTS] = row + 1
    event = wire.events[row]
    event[:] = 0
    event[E_KIND] = kind
    event[E_STREAM] = stream
    event[E_DETAIL] = detail
    if stream >= 0:
        event[E_GENERATION] = wire.streams[stream, S_GENERATION]
        event[E_ID] = wire.streams[stream, S_ID]
        event[E_DEADLINE_NS] = wire.streams[stream, S_DEADLINE_NS]
    return int64(row)


@inlined
def tell_bytes(
    wire: Wire, kind: int, stream: int, detail: int, source: int, at: int, length: int, encoding: int
) -> None:
    """Append an event that points at bytes."""
    event = wire.events[tell(wire, kind, stream, detail)]
    event[E_SOURCE] = source
    event[E_AT] = at
    event[E_LENGTH] = length
    event[E_ENCODING] = encoding
