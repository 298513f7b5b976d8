"""Frames that concern a connection: SETTINGS, PING, WINDOW_UPDATE, GOAWAY.

Each function takes one whole frame and returns a breach (BREACH_*) or NONE. (RFC 9113, sections 6.5, 6.7 to 6.9.)
"""

from serving.wire.client.calls import is_idle
from serving.wire.client.layout import (
    BREACH_FRAME_SIZE,
    BREACH_ORDER,
    BREACH_SETTING,
    BREACH_WINDOW,
    K_ERROR,
    K_OUT_BYTES,
    K_PARTIAL,
    K_PARTIAL_WINDOW,
    K_PEER_STREAMS_MAX,
    K_RECEIVED,
    RECEIVED_BYTES_BATCH,
    Client,
)
from serving.wire.compiler import inlined, int64, part
from serving.wire.frames import (
    ACK,
    FRAME_HEADER_BYTES,
    PING,
    SETTINGS,
    SETTINGS_ENABLE_PUSH,
    SETTINGS_INITIAL_WINDOW_SIZE,
    SETTINGS_MAX_CONCURRENT_STREAMS,
    SETTINGS_MAX_FRAME_SIZE,
    WINDOW_UPDATE,
    read_number,
    write_frame_header,
    write_number,
)
from serving.wire.layout import (
    C_PEER_FRAME_MAX,
    C_PEER_WINDOW,
    C_RECEIVE_WINDOW,
    C_SEND_WINDOW,
    C_STATE,
    CONNECTION_OPEN,
    FRAME_BYTES_MAX,
    WINDOW_BYTES_MAX,
)
from serving.wire.octets import copy

NONE = -1
"""No breach."""
GOAWAY_TEXT_BYTES_MAX = 200
CONTROL_ROOM_BYTES = 64
"""What one frame may cause in output: an acknowledgement, or a window update and a reset."""
_FRAME_BYTES_LIMIT = (1 << 24) - 1


@inlined
def write_control(client: Client, slot: int, kind: int, flags: int, payload_bytes: int) -> int:
    """Append a control frame's header; returns where its payload is to be written."""
    at = client.connections[slot, K_OUT_BYTES]
    write_frame_header(client.outs[slot], at, payload_bytes, kind, flags, 0)
    client.connections[slot, K_OUT_BYTES] = at + FRAME_HEADER_BYTES + payload_bytes
    return int64(at + FRAME_HEADER_BYTES)


@part
def take_setting(client: Client, slot: int, name: int, value: int) -> int:
    """Follow one setting of the server's."""
    row = client.connections[slot]
    if name == SETTINGS_MAX_CONCURRENT_STREAMS:
        row[K_PEER_STREAMS_MAX] = value
    elif name == SETTINGS_INITIAL_WINDOW_SIZE:
        if value > WINDOW_BYTES_MAX:
            return BREACH_SETTING
        row[K_PARTIAL_WINDOW] += value - row[C_PEER_WINDOW]
        row[C_PEER_WINDOW] = value
        if row[K_PARTIAL] and row[K_PARTIAL_WINDOW] > WINDOW_BYTES_MAX:
            return BREACH_WINDOW
    elif name == SETTINGS_MAX_FRAME_SIZE:
        if not FRAME_BYTES_MAX <= value <= _FRAME_BYTES_LIMIT:
            return BREACH_SETTING
        row[C_PEER_FRAME_MAX] = value
    elif name == SETTINGS_ENABLE_PUSH and value != 0:
        return BREACH_SETTING
    return NONE


@part
def take_settings(client: Client, slot: int, at: int, length: int, flags: int, stream_id: int) -> int:
    """Take SETTINGS and acknowledge them; those that concern a table are moot, as our blocks use none."""
    if stream_id != 0:
        return BREACH_ORDER
    if flags & ACK:
        return NONE if length == 0 else BREACH_FRAME_SIZE
    if length % 6:
        return BREACH_FRAME_SIZE
    for k in range(at, at + length, 6):
        breach = take_setting(client, slot, read_number(client.source, k, 2), read_number(client.source, k + 2, 4))
        if breach != NONE:
            return breach
    client.connections[slot, C_STATE] = CONNECTION_OPEN
    write_control(client, slot, SETTINGS, ACK, 0)
    return NONE


@part
def take_ping(client: Client, slot: int, at: int, length: int, flags: int, stream_id: int) -> int:
    """Take PING and send it back."""
    if stream_id != 0:
        return BREACH_ORDER
    if length != 8:
        return BREACH_FRAME_SIZE
    if not flags & ACK:
        to = write_control(client, slot, PING, ACK, 8)
        copy(client.source, at, client.outs[slot], to, 8)
    return NONE


@part
def take_window_update(client: Client, slot: int, at: int, length: int, stream_id: int) -> int:
    """Take WINDOW_UPDATE. Of the streams, only the one whose message is being written still needs a window."""
    if length != 4:
        return BREACH_FRAME_SIZE
    row = client.connections[slot]
    increment = read_number(client.source, at, 4) & WINDOW_BYTES_MAX
    if stream_id != 0 and is_idle(client.connections, slot, stream_id):
        return BREACH_ORDER
    if increment == 0:
        return BREACH_WINDOW
    if stream_id == 0:
        row[C_SEND_WINDOW] += increment
        return BREACH_WINDOW if row[C_SEND_WINDOW] > WINDOW_BYTES_MAX else NONE
    if stream_id == row[K_PARTIAL]:
        row[K_PARTIAL_WINDOW] += increment
        return BREACH_WINDOW if row[K_PARTIAL_WINDOW] > WINDOW_BYTES_MAX else NONE
    return NONE


@part
def take_goaway(client: Client, slot: int, at: int, length: int, stream_id: int) -> tuple[int, int]:
    """Take GOAWAY: its code goes to K_ERROR, its text to `headers`; returns (a breach, bytes of text)."""
    if stream_id != 0:
        return BREACH_ORDER, 0
    if length < 8:
        return BREACH_FRAME_SIZE, 0
    client.connections[slot, K_ERROR] = read_number(client.source, at + 4, 4)
    text_bytes = min(length - 8, GOAWAY_TEXT_BYTES_MAX)
    copy(client.source, at + 8, client.headers, 0, text_bytes)
    return NONE, text_bytes


@inlined
def give_back(client: Client, slot: int) -> None:
    """Give the connection's receive window back when enough of it is used."""
    row = client.connections[slot]
    if row[K_RECEIVED] >= RECEIVED_BYTES_BATCH:
        write_number(client.outs[slot], write_control(client, slot, WINDOW_UPDATE, 0, 4), 4, row[K_RECEIVED])
        row[C_RECEIVE_WINDOW] += row[K_RECEIVED]
        row[K_RECEIVED] = 0
