"""The calls of a connection: opened with the next stream id, found by it, ended once.

Stream ids count up, and a call lies in the row that its id names modulo the rows of its connection. Where an old call
still holds that row, the id is passed over, which HTTP/2 allows (RFC 9113, section 5.1.1).
"""

import numpy as np
from numpy.typing import NDArray

from serving.wire.client.layout import (
    CALL_COUNTED,
    K_OUT_BYTES,
    K_PARTIAL,
    Q_FLAGS,
    Q_ID,
    Q_INTENDED_NS,
    STREAM_ID_MAX,
    X_CLOSED_LOOP,
    X_DUE_COUNT,
    X_DUE_HEAD,
    X_END_NS,
    X_LIVE,
    X_LIVE_COUNTED,
    Client,
)
from serving.wire.client.tally import count_answer
from serving.wire.compiler import inlined, int64, part
from serving.wire.frames import FRAME_HEADER_BYTES, RST_STREAM, write_frame_header, write_number
from serving.wire.layout import C_LAST_STREAM, C_STREAM_COUNT

RESET_BYTES = FRAME_HEADER_BYTES + 4


@inlined
def row_of(connections: NDArray[np.int64], calls: NDArray[np.int64], slot: int, stream_id: int) -> int:
    """Return the row that a stream id names, whoever holds it."""
    per_connection = calls.shape[0] // connections.shape[0]
    return int64(slot * per_connection + ((stream_id >> 1) & (per_connection - 1)))


@inlined
def find(connections: NDArray[np.int64], calls: NDArray[np.int64], slot: int, stream_id: int) -> int:
    """Return the row of an open call, -1 when the stream is no open call."""
    row = row_of(connections, calls, slot, stream_id)
    return row if calls[row, Q_ID] == stream_id else -1


@inlined
def is_idle(connections: NDArray[np.int64], slot: int, stream_id: int) -> bool:
    """Say whether a stream was never opened; a server that names one breaks the protocol."""
    return stream_id & 1 == 0 or stream_id > connections[slot, C_LAST_STREAM]


@inlined
def next_id(connections: NDArray[np.int64], calls: NDArray[np.int64], slot: int) -> int:
    """Return the next stream id whose row is free; -1 when there is none, or no more ids."""
    stream_id = connections[slot, C_LAST_STREAM]
    for _ in range(calls.shape[0] // connections.shape[0]):
        stream_id = stream_id + 2 if stream_id else 1
        if stream_id > STREAM_ID_MAX:
            return -1
        if calls[row_of(connections, calls, slot, stream_id), Q_ID] == 0:
            return int64(stream_id)
    return -1


@part
def write_reset(connections: NDArray[np.int64], outs: NDArray[np.uint8], slot: int, stream_id: int, code: int) -> None:
    """Append RST_STREAM; the caller has seen to the room."""
    at = connections[slot, K_OUT_BYTES]
    write_frame_header(outs[slot], at, 4, RST_STREAM, 0, stream_id)
    write_number(outs[slot], at + FRAME_HEADER_BYTES, 4, code)
    connections[slot, K_OUT_BYTES] = at + RESET_BYTES


@inlined
def free(
    connections: NDArray[np.int64], calls: NDArray[np.int64], shared: NDArray[np.int64], slot: int, row: int
) -> None:
    """Forget a call, and what was still to be written of it."""
    if connections[slot, K_PARTIAL] == calls[row, Q_ID]:
        connections[slot, K_PARTIAL] = 0
    calls[row, Q_ID] = 0
    connections[slot, C_STREAM_COUNT] -= 1
    shared[X_LIVE] -= 1
    if calls[row, Q_FLAGS] & CALL_COUNTED:
        shared[X_LIVE_COUNTED] -= 1


@inlined
def make_place(shared: NDArray[np.int64], due: NDArray[np.int64], now_ns: int) -> None:
    """Let another call be due, as one of a closed loop has ended."""
    if shared[X_CLOSED_LOOP] and now_ns < shared[X_END_NS] and shared[X_DUE_COUNT] < due.size:
        place = shared[X_DUE_HEAD] + shared[X_DUE_COUNT]
        due[place if place < due.size else place - due.size] = now_ns
        shared[X_DUE_COUNT] += 1


@inlined
def end(client: Client, slot: int, row: int, code: int, now_ns: int) -> None:
    """End a call with a gRPC code: count it, free its row, and make place for the next one in a closed loop.

    An answer before the whole request was sent ends the sending too, by RST_STREAM with NO_ERROR (section 8.1).
    """
    call, shared = client.calls[row], client.shared
    if call[Q_FLAGS] & CALL_COUNTED:
        count_answer(client, code, now_ns - call[Q_INTENDED_NS])
    if client.connections[slot, K_PARTIAL] == call[Q_ID]:
        write_reset(client.connections, client.outs, slot, call[Q_ID], 0)
    free(client.connections, client.calls, shared, slot, row)
    make_place(shared, client.due, now_ns)
