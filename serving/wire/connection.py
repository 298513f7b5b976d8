"""What concerns a connection as a whole: its beginning and end, its budget of control frames, its settings.

Control frames cost us work and bring none, so they are paid for: from an allowance, refilled slowly so that a quiet
client may keep its connection alive for ever, and from a credit for every answer, every message of one that goes on,
and every KiB of DATA received, so that a busy honest client is never cut off. Window updates are paid for by the DATA
that the peer was sent: it may return that as late and in as small pieces as it came. (RFC 9113, sections 3.4, 5.4, 6.5,
6.7, 6.8 and 10.5.)
"""

import numpy as np
from numpy.typing import NDArray

from serving.wire.compiler import inlined, int64, kernel, part
from serving.wire.frames import (
    ACK,
    COMPRESSION_ERROR,
    ENHANCE_YOUR_CALM,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    PROTOCOL_ERROR,
    SETTINGS,
    SETTINGS_ENABLE_PUSH,
    SETTINGS_INITIAL_WINDOW_SIZE,
    SETTINGS_MAX_CONCURRENT_STREAMS,
    SETTINGS_MAX_FRAME_SIZE,
    SETTINGS_MAX_HEADER_LIST_SIZE,
    TOO_MANY_PINGS,
    WINDOW_UPDATE,
    Wire,
    count,
    read_number,
    tell,
    write_control,
    write_frame_header,
    write_goaway,
    write_number,
    write_ping_ack,
    write_window_update,
)
from serving.wire.layout import (
    BUCKETS,
    C_BLOCKED,
    C_BUCKETS,
    C_BUDGET,
    C_BUDGET_NS,
    C_GENERATION,
    C_LAST_ACCEPTED,
    C_LAST_STREAM,
    C_PEER_FRAME_MAX,
    C_PEER_WINDOW,
    C_QUEUE_FIRST,
    C_QUEUE_LAST,
    C_RECEIVE_WINDOW,
    C_SEND_WINDOW,
    C_STATE,
    C_TABLE_LIMIT,
    C_UPDATES_DUE,
    CONNECTION_CLOSED,
    CONNECTION_FREE,
    CONNECTION_OPEN,
    CONNECTION_PREFACE,
    CONNECTION_SETTINGS,
    EVENT_CLOSED,
    EVENT_GOAWAY,
    EVENT_NOT_HTTP2,
    EVENT_PONG,
    EVENT_WRITABLE,
    FRAME_BYTES_MAX,
    H_BUDGET_MAX,
    H_BUDGET_PER_SECOND,
    H_CONNECTION_WINDOW,
    H_LIST_BYTES_MAX,
    H_STREAM_WINDOW,
    H_STREAMS_MAX,
    REFUSED_COMPRESSION_ERROR,
    REFUSED_CONTROL_FLOOD,
    REFUSED_FLOW_CONTROL_ERROR,
    REFUSED_FRAME_SIZE_ERROR,
    REFUSED_NOT_HTTP2,
    REFUSED_PING_FLOOD,
    REFUSED_PROTOCOL_ERROR,
    REFUSED_SETTINGS_FLOOD,
    S_NEXT,
    S_SEND_WINDOW,
    TABLE_BYTES_MAX,
    WINDOW_BYTES_INITIAL,
    WINDOW_BYTES_MAX,
)
from serving.wire.streams import earn, release

PREFACE = np.frombuffer(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", np.uint8).copy()
_NO_TEXT = np.zeros(0, np.uint8)
_SECOND_NS = 1_000_000_000
_REFILL_SECONDS_MAX = 3600
"""More quiet time than this counts as this, so that no product overflows."""
_OUR_SETTINGS_BYTES = 18
OPENING_BYTES_MAX = 64


@part
def write_setting(out: NDArray[np.uint8], at: int, name: int, value: int) -> None:
    """Write one setting."""
    write_number(out, at, 2, name)
    write_number(out, at + 2, 4, value)


@kernel("int64(int64[:, ::1], int64[::1], uint8[::1], int64, int64)")
def open_connection(
    connections: NDArray[np.int64], shared: NDArray[np.int64], control: NDArray[np.uint8], slot: int, now_ns: int
) -> int:
    """Make the row of a new connection and write our settings to `control`; returns how many bytes they are.

    The header table of RFC 7541 is the default one and the largest frame too, so neither is mentioned.
    """
    assert 0 <= slot < connections.shape[0], "bug: no such connection"
    assert control.size >= OPENING_BYTES_MAX, "bug: no room for the first settings"
    row = connections[slot]
    assert row[C_STATE] == CONNECTION_FREE, "bug: the connection's slot is in use"
    generation = row[C_GENERATION]
    row[:] = 0
    row[C_BUCKETS : C_BUCKETS + BUCKETS] = -1
    row[C_QUEUE_FIRST] = row[C_QUEUE_LAST] = -1
    row[C_GENERATION] = generation
    row[C_STATE] = CONNECTION_PREFACE
    row[C_RECEIVE_WINDOW] = shared[H_CONNECTION_WINDOW]
    row[C_SEND_WINDOW] = row[C_PEER_WINDOW] = WINDOW_BYTES_INITIAL
    row[C_PEER_FRAME_MAX] = FRAME_BYTES_MAX
    row[C_BUDGET] = shared[H_BUDGET_MAX]
    row[C_BUDGET_NS] = now_ns
    row[C_LAST_ACCEPTED] = WINDOW_BYTES_MAX
    row[C_TABLE_LIMIT] = TABLE_BYTES_MAX
    write_frame_header(control, 0, _OUR_SETTINGS_BYTES, SETTINGS, 0, 0)
    write_setting(control, 9, SETTINGS_MAX_CONCURRENT_STREAMS, shared[H_STREAMS_MAX])
    write_setting(control, 15, SETTINGS_INITIAL_WINDOW_SIZE, shared[H_STREAM_WINDOW])
    write_setting(control, 21, SETTINGS_MAX_HEADER_LIST_SIZE, shared[H_LIST_BYTES_MAX])
    write_frame_header(control, 27, 4, WINDOW_UPDATE, 0, 0)
    write_number(control, 36, 4, shared[H_CONNECTION_WINDOW] - WINDOW_BYTES_INITIAL)
    return 40


@kernel("int64(int64[:, ::1], int64[:, ::1], int64[::1], int64)")
def close_connection(
    connections: NDArray[np.int64], streams: NDArray[np.int64], shared: NDArray[np.int64], slot: int
) -> int:
    """Release a connection's row and all its streams, under new generations; returns how many streams it had."""
    assert 0 <= slot < connections.shape[0], "bug: no such connection"
    assert connections[slot, C_STATE] != CONNECTION_FREE, "bug: the connection is closed already"
    released = 0
    for bucket in range(C_BUCKETS, C_BUCKETS + BUCKETS):
        while connections[slot, bucket] >= 0:
            release(connections, streams, shared, connections[slot, bucket])
            released += 1
    connections[slot, C_STATE] = CONNECTION_FREE
    connections[slot, C_GENERATION] += 1
    return released


@part
def break_off(wire: Wire, slot: int, code: int) -> bool:
    """End a connection that broke a rule of HTTP/2, by GOAWAY; returns False: it is not open any more."""
    refused = REFUSED_PROTOCOL_ERROR
    if code == FLOW_CONTROL_ERROR:
        refused = REFUSED_FLOW_CONTROL_ERROR
    elif code == FRAME_SIZE_ERROR:
        refused = REFUSED_FRAME_SIZE_ERROR
    elif code == COMPRESSION_ERROR:
        refused = REFUSED_COMPRESSION_ERROR
    count(wire, refused)
    return say_goodbye(wire, slot, code, _NO_TEXT)


@part
def cut_off(wire: Wire, slot: int, refused: int) -> bool:
    """End a connection that costs too much; returns False."""
    count(wire, refused)
    return say_goodbye(wire, slot, ENHANCE_YOUR_CALM, TOO_MANY_PINGS if refused == REFUSED_PING_FLOOD else _NO_TEXT)


@part
def say_goodbye(wire: Wire, slot: int, code: int, text: NDArray[np.uint8]) -> bool:
    """End a connection by GOAWAY with a debug text; returns False."""
    row = wire.connections[slot]
    write_goaway(wire, row[C_LAST_STREAM], code, text)
    row[C_STATE] = CONNECTION_CLOSED
    tell(wire, EVENT_CLOSED, -1, code)
    return False


@inlined
def refill(wire: Wire, slot: int, now_ns: int) -> None:
    """Refill the budget for the time since the last refill."""
    row = wire.connections[slot]
    quiet_ns = min(now_ns - row[C_BUDGET_NS], _REFILL_SECONDS_MAX * _SECOND_NS)
    frames = quiet_ns * wire.shared[H_BUDGET_PER_SECOND] // _SECOND_NS
    if frames > 0:
        earn(wire.connections, wire.shared, slot, frames)
        row[C_BUDGET_NS] = now_ns


@part
def spend(wire: Wire, slot: int, flood: int) -> bool:
    """Pay for a control frame; false when the budget is used up and the connection is over, by a flood of them."""
    wire.connections[slot, C_BUDGET] -= 1
    return wire.connections[slot, C_BUDGET] >= 0 or cut_off(wire, slot, flood)


@part
def spend_on_update(wire: Wire, slot: int) -> bool:
    """Pay for a window update: out of what the peer was sent, or else like any control frame."""
    if wire.connections[slot, C_UPDATES_DUE] > 0:
        wire.connections[slot, C_UPDATES_DUE] -= 1
        return True
    return spend(wire, slot, REFUSED_CONTROL_FLOOD)


@part
def take_preface(wire: Wire, slot: int, at: int, end: int) -> int:
    """Take the client preface; returns its length, 0 while it is not complete, -1 when it is something else."""
    for k in range(min(PREFACE.size, end - at)):
        if wire.source[at + k] != PREFACE[k]:
            wire.connections[slot, C_STATE] = CONNECTION_CLOSED
            count(wire, REFUSED_NOT_HTTP2)
            tell(wire, EVENT_NOT_HTTP2, -1, 0)
            return -1
    if end - at < PREFACE.size:
        return 0
    wire.connections[slot, C_STATE] = CONNECTION_SETTINGS
    return PREFACE.size


@part
def take_settings(wire: Wire, slot: int, at: int, length: int, flags: int, stream_id: int) -> bool:
    """Take SETTINGS: apply and acknowledge them. All take_ functions return whether the connection is still open."""
    if stream_id != 0:
        return break_off(wire, slot, PROTOCOL_ERROR)
    if flags & ACK:
        return spend(wire, slot, REFUSED_SETTINGS_FLOOD) if length == 0 else break_off(wire, slot, FRAME_SIZE_ERROR)
    if length % 6:
        return break_off(wire, slot, FRAME_SIZE_ERROR)
    window = wire.connections[slot, C_PEER_WINDOW]
    for k in range(at, at + length, 6):
        name, value = read_number(wire.source, k, 2), read_number(wire.source, k + 2, 4)
        if name == SETTINGS_ENABLE_PUSH and value > 1:
            return break_off(wire, slot, PROTOCOL_ERROR)
        if name == SETTINGS_INITIAL_WINDOW_SIZE:
            if value > WINDOW_BYTES_MAX:
                return break_off(wire, slot, FLOW_CONTROL_ERROR)
            window = value
        if name == SETTINGS_MAX_FRAME_SIZE:
            if not FRAME_BYTES_MAX <= value < 1 << 24:
                return break_off(wire, slot, PROTOCOL_ERROR)
            wire.connections[slot, C_PEER_FRAME_MAX] = value
    if not set_peer_window(wire, slot, window):
        return break_off(wire, slot, FLOW_CONTROL_ERROR)
    write_control(wire, SETTINGS, ACK, 0, 0)
    wire.connections[slot, C_STATE] = CONNECTION_OPEN
    return spend(wire, slot, REFUSED_SETTINGS_FLOOD)


@part
def set_peer_window(wire: Wire, slot: int, window: int) -> bool:
    """Apply a new initial window to all streams, once per frame; false when one of them overflows."""
    delta = window - wire.connections[slot, C_PEER_WINDOW]
    wire.connections[slot, C_PEER_WINDOW] = window
    if delta == 0:
        return True
    for bucket in range(C_BUCKETS, C_BUCKETS + BUCKETS):
        stream = wire.connections[slot, bucket]
        while stream >= 0:
            wire.streams[stream, S_SEND_WINDOW] += delta
            if wire.streams[stream, S_SEND_WINDOW] > WINDOW_BYTES_MAX:
                return False
            stream = wire.streams[stream, S_NEXT]
    if delta > 0 and wire.connections[slot, C_BLOCKED]:
        tell(wire, EVENT_WRITABLE, -1, 0)
    return True


@part
def take_ping(wire: Wire, slot: int, at: int, length: int, flags: int, stream_id: int) -> bool:
    """Take PING: answer it, or tell that ours came back."""
    if stream_id != 0 or length != 8:
        return break_off(wire, slot, PROTOCOL_ERROR if stream_id else FRAME_SIZE_ERROR)
    if flags & ACK:
        tell(wire, EVENT_PONG, -1, read_number(wire.source, at, 8))
        return spend(wire, slot, REFUSED_PING_FLOOD)
    if not spend(wire, slot, REFUSED_PING_FLOOD):
        return False
    write_ping_ack(wire, at)
    return True


@part
def take_goaway(wire: Wire, slot: int, at: int, length: int, stream_id: int) -> bool:
    """Take GOAWAY: the peer finishes what is in flight and opens nothing more."""
    if stream_id != 0 or length < 8:
        return break_off(wire, slot, PROTOCOL_ERROR if stream_id else FRAME_SIZE_ERROR)
    tell(wire, EVENT_GOAWAY, -1, read_number(wire.source, at + 4, 4))
    return spend(wire, slot, REFUSED_CONTROL_FLOOD)


@inlined
def return_window(wire: Wire, slot: int) -> None:
    """Give the connection's receive window back once half of it is used: all DATA counts, wanted or not."""
    window, full = wire.connections[slot, C_RECEIVE_WINDOW], wire.shared[H_CONNECTION_WINDOW]
    if window <= full // 2:
        write_window_update(wire, 0, int64(full - window))
        wire.connections[slot, C_RECEIVE_WINDOW] = full
