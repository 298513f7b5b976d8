"""The server's side of HTTP/2: bytes in; events, control frames and header records out.

How it works. `decode` takes whole frames from a connection's bytes and says how many bytes it used; what is left is
the beginning of a frame (or of a header block: HEADERS and its CONTINUATIONs are taken as one), and the caller gives
it again with what comes after it. So no frame is ever half done, and the state between calls is only what RFC 9113
says it is. Each frame type has one function. A breach of the protocol ends the stream (RST_STREAM) or the connection
(GOAWAY) and nobody else's anything.

What an event points at stays true until the next decode call. It knows frames, streams and gRPC's framing; it knows no
socket, no protobuf and no model.
"""

import numpy as np
from numpy.typing import NDArray

from serving.wire.compiler import inlined, int64, kernel, part
from serving.wire.connection import (
    break_off,
    refill,
    return_window,
    spend,
    spend_on_update,
    take_goaway,
    take_ping,
    take_preface,
    take_settings,
)
from serving.wire.frames import (
    ACK,
    CONTINUATION,
    CONTROL_ROOM_BYTES,
    DATA,
    END_STREAM,
    FLOW_CONTROL_ERROR,
    FRAME_HEADER_BYTES,
    FRAME_SIZE_ERROR,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    PRIORITY,
    PROTOCOL_ERROR,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    STREAM_CLOSED,
    WINDOW_UPDATE,
    Wire,
    count,
    read_number,
    tell,
    write_reset,
    write_window_update,
)
from serving.wire.header_blocks import CLOSED, HUNGRY, breaks_content_length, take_header_block
from serving.wire.hpack import OUTPUT_SLACK_BYTES
from serving.wire.layout import (
    C_BLOCKED,
    C_LAST_STREAM,
    C_RECEIVE_WINDOW,
    C_SEND_WINDOW,
    C_STATE,
    CONNECTION_CLOSED,
    CONNECTION_FREE,
    CONNECTION_PREFACE,
    CONNECTION_SETTINGS,
    EVENT_WRITABLE,
    FRAME_BYTES_MAX,
    H_CONTROL,
    H_EVENTS,
    H_HEADERS,
    H_LIST_BYTES_MAX,
    H_NOW_NS,
    H_STREAM_WINDOW,
    PREFIX_BYTES,
    REFUSED_CLOSED_STREAM,
    REFUSED_CONTENT_LENGTH,
    REFUSED_CONTROL_FLOOD,
    REFUSED_EMPTY_DATA_FLOOD,
    REFUSED_FRAME_SIZE_ERROR,
    REFUSED_RESET_FLOOD,
    REFUSED_STREAM_FLOW_CONTROL,
    S_BODY,
    S_ID,
    S_RECEIVE_WINDOW,
    S_SEND_WINDOW,
    S_STATE,
    STATUS_CLOSED,
    STATUS_FULL,
    STATUS_HUNGRY,
    STREAM_ENDED,
    STREAM_FAILED,
    STREAM_PAUSED,
    STREAM_RESET,
    WINDOW_BYTES_MAX,
)
from serving.wire.messages import feed
from serving.wire.streams import earn, find, free_retired_blocks, kill_stream, reset_stream

EVENTS_PER_FRAME_MAX = 8
"""Beside one for every message that a DATA frame completes."""
FREE_WINDOW_UPDATE_BYTES = 1024
"""A window update that gives at least this much is part of useful work; smaller ones are paid for."""


@inlined
def is_idle(wire: Wire, slot: int, stream_id: int) -> bool:
    """Say whether a stream was never opened: its id is above all, or one that only a server could use."""
    return stream_id & 1 == 0 or stream_id > wire.connections[slot, C_LAST_STREAM]


@inlined
def take_data(wire: Wire, slot: int, at: int, length: int, flags: int, stream_id: int) -> bool:
    """Take DATA. Its whole payload, padding included, counts for both windows, whatever becomes of the stream."""
    if is_idle(wire, slot, stream_id):
        return break_off(wire, slot, PROTOCOL_ERROR)
    wire.connections[slot, C_RECEIVE_WINDOW] -= length
    if wire.connections[slot, C_RECEIVE_WINDOW] < 0:
        return break_off(wire, slot, FLOW_CONTROL_ERROR)
    begin, end = at, at + length
    if flags & PADDED:
        begin += 1
        if length == 0 or wire.source[at] >= length:
            return break_off(wire, slot, PROTOCOL_ERROR)
        end -= int64(wire.source[at])
    ended = flags & END_STREAM != 0
    if begin == end and not ended and not spend(wire, slot, REFUSED_EMPTY_DATA_FLOOD):
        return False
    earn(wire.connections, wire.shared, slot, length >> 10)
    return_window(wire, slot)
    stream = find(wire.connections, wire.streams, slot, stream_id)
    if stream < 0 or wire.streams[stream, S_STATE] & STREAM_RESET:
        return True
    if wire.streams[stream, S_STATE] & STREAM_ENDED:
        reset_stream(wire, stream, STREAM_CLOSED, REFUSED_CLOSED_STREAM)
        return spend(wire, slot, REFUSED_CONTROL_FLOOD)
    wire.streams[stream, S_RECEIVE_WINDOW] -= length
    if wire.streams[stream, S_RECEIVE_WINDOW] < 0:
        reset_stream(wire, stream, FLOW_CONTROL_ERROR, REFUSED_STREAM_FLOW_CONTROL)
        return spend(wire, slot, REFUSED_CONTROL_FLOOD)
    return take_body(wire, slot, stream, begin, end, ended)


@inlined
def take_body(wire: Wire, slot: int, stream: int, at: int, end: int, ended: bool) -> bool:
    """Take what DATA carries, against the content-length, and give the stream's window back while more may come.

    A stream that is paused keeps what it has used of its window, so that its peer stops by itself.
    """
    row = wire.streams[stream]
    row[S_BODY] += end - at
    if breaks_content_length(wire, stream, ended):
        reset_stream(wire, stream, PROTOCOL_ERROR, REFUSED_CONTENT_LENGTH)
        return spend(wire, slot, REFUSED_CONTROL_FLOOD)
    if ended:
        row[S_STATE] |= STREAM_ENDED
    elif row[S_RECEIVE_WINDOW] <= wire.shared[H_STREAM_WINDOW] // 2 and not row[S_STATE] & STREAM_PAUSED:
        write_window_update(wire, row[S_ID], wire.shared[H_STREAM_WINDOW] - row[S_RECEIVE_WINDOW])
        row[S_RECEIVE_WINDOW] = wire.shared[H_STREAM_WINDOW]
    if not row[S_STATE] & STREAM_FAILED:
        feed(wire, stream, at, end, ended)
    return True


@part
def take_reset(wire: Wire, slot: int, at: int, length: int, stream_id: int) -> bool:
    """Take RST_STREAM: work that has begun keeps its row until the transport releases it."""
    if length != 4:
        return break_off(wire, slot, FRAME_SIZE_ERROR)
    if is_idle(wire, slot, stream_id):
        return break_off(wire, slot, PROTOCOL_ERROR)
    stream = find(wire.connections, wire.streams, slot, stream_id)
    if stream >= 0 and not wire.streams[stream, S_STATE] & STREAM_RESET:
        kill_stream(wire, stream, read_number(wire.source, at, 4))
    return spend(wire, slot, REFUSED_RESET_FLOOD)


@part
def take_window_update(wire: Wire, slot: int, at: int, length: int, stream_id: int) -> bool:
    """Take WINDOW_UPDATE of a stream or, with id 0, of the connection."""
    if length != 4:
        return break_off(wire, slot, FRAME_SIZE_ERROR)
    increment = read_number(wire.source, at, 4) & WINDOW_BYTES_MAX
    if stream_id == 0:
        window = wire.connections[slot, C_SEND_WINDOW] + increment
        if increment == 0 or window > WINDOW_BYTES_MAX:
            return break_off(wire, slot, FLOW_CONTROL_ERROR if increment else PROTOCOL_ERROR)
        wire.connections[slot, C_SEND_WINDOW] = window
        if wire.connections[slot, C_BLOCKED]:
            tell(wire, EVENT_WRITABLE, -1, 0)
        return increment >= FREE_WINDOW_UPDATE_BYTES or spend_on_update(wire, slot)
    if is_idle(wire, slot, stream_id):
        return break_off(wire, slot, PROTOCOL_ERROR)
    stream = find(wire.connections, wire.streams, slot, stream_id)
    if stream < 0 or wire.streams[stream, S_STATE] & STREAM_RESET:
        return spend_on_update(wire, slot)
    window = wire.streams[stream, S_SEND_WINDOW] + increment
    if increment == 0 or window > WINDOW_BYTES_MAX:
        code = FLOW_CONTROL_ERROR if increment else PROTOCOL_ERROR
        reset_stream(wire, stream, code, REFUSED_STREAM_FLOW_CONTROL)
        return spend(wire, slot, REFUSED_CONTROL_FLOOD)
    wire.streams[stream, S_SEND_WINDOW] = window
    if wire.connections[slot, C_BLOCKED]:
        tell(wire, EVENT_WRITABLE, stream, 0)
    return increment >= FREE_WINDOW_UPDATE_BYTES or spend_on_update(wire, slot)


@part
def take_priority(wire: Wire, slot: int, length: int, stream_id: int) -> bool:
    """Take PRIORITY, which RFC 9113 deprecates: it is checked and has no effect."""
    if stream_id == 0:
        return break_off(wire, slot, PROTOCOL_ERROR)
    if length != 5:
        stream = find(wire.connections, wire.streams, slot, stream_id)
        if stream >= 0 and not wire.streams[stream, S_STATE] & STREAM_RESET:
            reset_stream(wire, stream, FRAME_SIZE_ERROR, REFUSED_FRAME_SIZE_ERROR)
        else:
            count(wire, REFUSED_FRAME_SIZE_ERROR)
            write_reset(wire, stream_id, FRAME_SIZE_ERROR)
    return spend(wire, slot, REFUSED_CONTROL_FLOOD)


@inlined
def take_other(wire: Wire, slot: int, kind: int, at: int, length: int, flags: int, stream_id: int) -> bool:
    """Take a whole frame that is no HEADERS."""
    if kind == DATA:
        return take_data(wire, slot, at, length, flags, stream_id)
    if kind == WINDOW_UPDATE:
        return take_window_update(wire, slot, at, length, stream_id)
    if kind == SETTINGS:
        return take_settings(wire, slot, at, length, flags, stream_id)
    if kind == PING:
        return take_ping(wire, slot, at, length, flags, stream_id)
    if kind == RST_STREAM:
        return take_reset(wire, slot, at, length, stream_id)
    if kind == GOAWAY:
        return take_goaway(wire, slot, at, length, stream_id)
    if kind == PRIORITY:
        return take_priority(wire, slot, length, stream_id)
    if kind == CONTINUATION or kind == PUSH_PROMISE:
        return break_off(wire, slot, PROTOCOL_ERROR)
    return spend(wire, slot, REFUSED_CONTROL_FLOOD)  # an unknown type is ignored (section 5.5)


@inlined
def has_room(wire: Wire, kind: int, length: int) -> bool:
    """Say whether the outputs hold all that a frame may put out.

    A length above the bound ends the connection, so it asks for no more room than the longest legal frame does:
    otherwise a peer could claim a length that no output ever has room for.
    """
    events = EVENTS_PER_FRAME_MAX + (min(length, FRAME_BYTES_MAX) // PREFIX_BYTES if kind == DATA else 0)
    headers = wire.shared[H_LIST_BYTES_MAX] + OUTPUT_SLACK_BYTES if kind == HEADERS else 0
    return not (
        wire.shared[H_EVENTS] + events > wire.events.shape[0]
        or wire.shared[H_CONTROL] + CONTROL_ROOM_BYTES > wire.control.size
        or wire.shared[H_HEADERS] + headers > wire.headers.size
    )


@inlined
def take_frame(wire: Wire, slot: int, at: int, end: int) -> int:
    """Take one frame at source[at]; returns the bytes used, HUNGRY or CLOSED."""
    length = read_number(wire.source, at, 3)
    kind, flags = int64(wire.source[at + 3]), int64(wire.source[at + 4])
    stream_id = read_number(wire.source, at + 5, 4) & WINDOW_BYTES_MAX
    if length > FRAME_BYTES_MAX:
        break_off(wire, slot, FRAME_SIZE_ERROR)
        return CLOSED
    if wire.connections[slot, C_STATE] == CONNECTION_SETTINGS and (kind != SETTINGS or flags & ACK):
        break_off(wire, slot, PROTOCOL_ERROR)
        return CLOSED
    if end - at - FRAME_HEADER_BYTES < length:
        return HUNGRY
    if kind == HEADERS:
        return take_header_block(wire, slot, at, end, length, flags, stream_id)
    if take_other(wire, slot, kind, at + FRAME_HEADER_BYTES, length, flags, stream_id):
        return FRAME_HEADER_BYTES + length
    return CLOSED


@inlined
def take_all(wire: Wire, slot: int, at: int, end: int) -> tuple[int, int]:
    """Take frames until the bytes or the outputs are used up; returns (STATUS_*, where it stopped)."""
    while True:
        state = wire.connections[slot, C_STATE]
        if state == CONNECTION_CLOSED:
            return STATUS_CLOSED, end
        if state == CONNECTION_PREFACE:
            used = take_preface(wire, slot, at, end)
        elif end - at < FRAME_HEADER_BYTES:
            used = HUNGRY
        elif not has_room(wire, int64(wire.source[at + 3]), read_number(wire.source, at, 3)):
            return STATUS_FULL, at
        else:
            used = take_frame(wire, slot, at, end)
        if used == HUNGRY:
            return STATUS_HUNGRY, at
        at += max(used, 0)


@kernel(
    "UniTuple(int64, 5)(uint8[::1], int64[:, ::1], int64[:, ::1], uint8[::1], int64[:, ::1], uint8[::1], uint8[::1],"
    " int64[::1], int64, int64, int64, int64)"
)
def decode(
    source: NDArray[np.uint8],
    connections: NDArray[np.int64],
    streams: NDArray[np.int64],
    pool: NDArray[np.uint8],
    events: NDArray[np.int64],
    control: NDArray[np.uint8],
    headers: NDArray[np.uint8],
    shared: NDArray[np.int64],
    slot: int,
    at: int,
    end: int,
    now_ns: int,
) -> tuple[int, int, int, int, int]:
    """Decode source[at:end], bytes of the connection in `slot` that came by `now_ns`.

    Returns (STATUS_*, where it stopped in source, rows of events, bytes of control output, bytes of header records).
    The bytes of a header block that spans frames are moved together in place; all others stay as they are.
    """
    assert 0 <= at <= end <= source.size, "bug: the bytes lie outside of their buffer"
    assert 0 <= slot < connections.shape[0], "bug: no such connection"
    assert connections[slot, C_STATE] != CONNECTION_FREE, "bug: the connection is not open"
    shared[H_EVENTS] = 0
    shared[H_CONTROL] = 0
    shared[H_HEADERS] = 0
    shared[H_NOW_NS] = now_ns
    wire = Wire(source, connections, streams, pool, events, control, headers, shared)
    assert has_room(wire, DATA, FRAME_BYTES_MAX), "bug: the outputs do not hold what one frame may put out"
    assert has_room(wire, HEADERS, 0), "bug: the header output does not hold a list"
    free_retired_blocks(shared)
    refill(wire, slot, now_ns)
    status, stopped = take_all(wire, slot, at, end)
    return status, stopped, shared[H_EVENTS], shared[H_CONTROL], shared[H_HEADERS]
