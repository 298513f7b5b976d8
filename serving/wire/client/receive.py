"""What comes from a server: bytes in; calls ended and counted, and control frames to send.

`receive` takes whole frames and moves what is left, the beginning of a frame or of a header block, to the front of its
buffer. A breach of the protocol ends it with the number of the breach. It knows no socket.
"""

import numpy as np
from numpy.typing import NDArray

from serving.wire.client.answers import BROKEN, HUNGRY, take_data, take_headers, take_reset
from serving.wire.client.control import (
    CONTROL_ROOM_BYTES,
    GOAWAY_TEXT_BYTES_MAX,
    NONE,
    take_goaway,
    take_ping,
    take_settings,
    take_window_update,
)
from serving.wire.client.layout import (
    BREACH_FRAME_TOO_LONG,
    BREACH_NOT_HTTP2,
    BREACH_ORDER,
    K_OUT_BYTES,
    STATUS_BREACH,
    STATUS_FULL,
    STATUS_GOAWAY,
    STATUS_HUNGRY,
    Client,
)
from serving.wire.compiler import inlined, int64, kernel
from serving.wire.frames import (
    ACK,
    CONTINUATION,
    DATA,
    FRAME_HEADER_BYTES,
    GOAWAY,
    HEADERS,
    PING,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    read_number,
)
from serving.wire.hpack import OUTPUT_SLACK_BYTES
from serving.wire.layout import (
    C_STATE,
    CONNECTION_SETTINGS,
    FRAME_BYTES_MAX,
    H_LIST_BYTES_MAX,
    WINDOW_BYTES_MAX,
)
from serving.wire.octets import copy


@inlined
def take_other(
    client: Client, slot: int, kind: int, at: int, length: int, flags: int, stream_id: int, now_ns: int
) -> int:
    """Take a whole frame that is neither HEADERS nor GOAWAY; returns a breach or NONE."""
    if kind == DATA:
        return take_data(client, slot, at, length, flags, stream_id, now_ns)
    if kind == WINDOW_UPDATE:
        return take_window_update(client, slot, at, length, stream_id)
    if kind == SETTINGS:
        return take_settings(client, slot, at, length, flags, stream_id)
    if kind == PING:
        return take_ping(client, slot, at, length, flags, stream_id)
    if kind == RST_STREAM:
        return take_reset(client, slot, at, length, stream_id, now_ns)
    if kind == CONTINUATION or kind == PUSH_PROMISE:
        return BREACH_ORDER
    return NONE  # PRIORITY is without effect, and an unknown type is ignored (section 5.5)


@inlined
def take_all(client: Client, slot: int, at: int, end_at: int, now_ns: int) -> tuple[int, int, int]:
    """Take frames until the bytes or the room are used up; returns (STATUS_*, where it stopped, its detail)."""
    source = client.source
    while True:
        if end_at - at < FRAME_HEADER_BYTES:
            return STATUS_HUNGRY, at, 0
        if client.connections[slot, K_OUT_BYTES] + CONTROL_ROOM_BYTES > client.outs.shape[1]:
            return STATUS_FULL, at, 0
        length = read_number(source, at, 3)
        kind, flags = int64(source[at + 3]), int64(source[at + 4])
        stream_id = read_number(source, at + 5, 4) & WINDOW_BYTES_MAX
        if client.connections[slot, C_STATE] == CONNECTION_SETTINGS and (kind != SETTINGS or flags & ACK):
            return STATUS_BREACH, at, BREACH_NOT_HTTP2
        if length > FRAME_BYTES_MAX:
            return STATUS_BREACH, at, BREACH_FRAME_TOO_LONG
        if end_at - at - FRAME_HEADER_BYTES < length:
            return STATUS_HUNGRY, at, 0
        used, breach = FRAME_HEADER_BYTES + length, NONE
        if kind == HEADERS:
            used, breach = take_headers(client, slot, at, end_at, length, flags, stream_id, now_ns)
        elif kind == GOAWAY:
            breach, text_bytes = take_goaway(client, slot, at + FRAME_HEADER_BYTES, length, stream_id)
            if breach == NONE:
                return STATUS_GOAWAY, at + used, text_bytes
        else:
            breach = take_other(client, slot, kind, at + FRAME_HEADER_BYTES, length, flags, stream_id, now_ns)
        if breach != NONE or used == BROKEN:
            return STATUS_BREACH, at, breach
        if used == HUNGRY:
            return STATUS_HUNGRY, at, 0
        at += used


@kernel(
    "UniTuple(int64, 4)(uint8[::1], int64[:, ::1], int64[:, ::1], uint8[::1], uint8[::1], uint8[:, ::1], int64[::1],"
    " int64[:, ::1], int64[::1], int64, int64, int64)"
)
def receive(
    source: NDArray[np.uint8],
    connections: NDArray[np.int64],
    calls: NDArray[np.int64],
    pool: NDArray[np.uint8],
    headers: NDArray[np.uint8],
    outs: NDArray[np.uint8],
    shared: NDArray[np.int64],
    counts: NDArray[np.int64],
    due: NDArray[np.int64],
    slot: int,
    end_at: int,
    now_ns: int,
) -> tuple[int, int, int, int]:
    """Take source[:end_at], bytes of the connection in `slot` that came by `now_ns`.

    Returns (STATUS_*, bytes left at the front of source, bytes of output, the detail of the status: a breach, or the
    bytes of a GOAWAY's text in `headers`). STATUS_FULL asks to send the output and to call again.
    """
    assert 0 <= end_at <= source.size, "bug: the bytes lie outside of their buffer"
    assert 0 <= slot < connections.shape[0], "bug: no such connection"
    assert outs.shape[0] == connections.shape[0], "bug: outputs and connections differ in number"
    assert headers.size >= shared[H_LIST_BYTES_MAX] + OUTPUT_SLACK_BYTES, "bug: the header output does not hold a list"
    assert headers.size >= GOAWAY_TEXT_BYTES_MAX, "bug: the header output does not hold a text"
    client = Client(source, connections, calls, pool, headers, outs, shared, counts, due)
    status, at, detail = take_all(client, slot, 0, end_at, now_ns)
    if at > 0:
        copy(source, at, source, 0, end_at - at)
    return status, end_at - at, connections[slot, K_OUT_BYTES], detail
