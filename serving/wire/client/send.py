"""What goes to a server: requests that are due, rests of long messages, and resets of calls that nobody waits for.

A message that the windows or the output do not hold is continued by a later call of `send`; a connection writes one
message at a time. Requests go to the connection with the fewest open calls, up to X_TOGETHER of those that are due at
once. A request that no connection can take keeps its intended moment, and with it its latency grows. No socket here.
"""

import numpy as np
from numpy.typing import NDArray

from serving.wire.client.calls import RESET_BYTES, free, make_place, next_id, row_of, write_reset
from serving.wire.client.layout import (
    CALL_COUNTED,
    CONTROL_RESERVE_BYTES,
    K_OLDEST,
    K_OUT_BYTES,
    K_PARTIAL,
    K_PARTIAL_AT,
    K_PARTIAL_MESSAGE,
    K_PARTIAL_WINDOW,
    K_PEER_STREAMS_MAX,
    K_STUCK,
    NOTHING_DUE,
    Q_BODY,
    Q_FLAGS,
    Q_GRPC,
    Q_HTTP,
    Q_ID,
    Q_INTENDED_NS,
    Q_PREFIX,
    Q_SENT_NS,
    RECEIVE_WINDOW_BYTES,
    STREAM_ID_MAX,
    X_CODES,
    X_COUNT_FROM_NS,
    X_DUE_COUNT,
    X_DUE_HEAD,
    X_LIVE,
    X_LIVE_COUNTED,
    X_MESSAGE,
    X_TIMEOUT_NS,
    X_TOGETHER,
    X_TURN,
)
from serving.wire.client.tally import DEADLINE_EXCEEDED, count_sent
from serving.wire.compiler import inlined, int64, kernel, part
from serving.wire.frames import DATA, END_STREAM, FRAME_HEADER_BYTES, write_frame_header, write_number
from serving.wire.layout import (
    C_LAST_STREAM,
    C_PEER_FRAME_MAX,
    C_PEER_WINDOW,
    C_RECEIVE_WINDOW,
    C_SEND_WINDOW,
    C_STATE,
    C_STREAM_COUNT,
    C_TABLE_LIMIT,
    CONNECTION_OPEN,
    CONNECTION_SETTINGS,
    FRAME_BYTES_MAX,
    TABLE_BYTES_MAX,
    WINDOW_BYTES_INITIAL,
)
from serving.wire.octets import copy

CANCEL = 8
_PIECE_BYTES_MIN = 1024
"""A frame of a longer message is not made shorter than this because the output is nearly full."""


@kernel("void(int64[:, ::1], int64[:, ::1], int64[::1], int64)")
def open_connection(
    connections: NDArray[np.int64], calls: NDArray[np.int64], shared: NDArray[np.int64], slot: int
) -> None:
    """Make the row of a connection that begins, whatever was in it; its open calls are forgotten."""
    assert 0 <= slot < connections.shape[0], "bug: no such connection"
    per_connection = calls.shape[0] // connections.shape[0]
    for row in range(slot * per_connection, (slot + 1) * per_connection):
        if calls[row, Q_ID]:
            free(connections, calls, shared, slot, row)
    connections[slot, :] = 0
    row_of_slot = connections[slot]
    row_of_slot[C_STATE] = CONNECTION_SETTINGS
    row_of_slot[C_SEND_WINDOW] = WINDOW_BYTES_INITIAL
    row_of_slot[C_PEER_WINDOW] = WINDOW_BYTES_INITIAL
    row_of_slot[C_PEER_FRAME_MAX] = FRAME_BYTES_MAX
    row_of_slot[C_RECEIVE_WINDOW] = RECEIVE_WINDOW_BYTES
    row_of_slot[C_TABLE_LIMIT] = TABLE_BYTES_MAX
    row_of_slot[K_PEER_STREAMS_MAX] = STREAM_ID_MAX
    row_of_slot[K_OLDEST] = 1


@inlined
def room(connections: NDArray[np.int64], outs: NDArray[np.uint8], slot: int) -> int:
    """Return how many bytes of requests a connection's output still takes."""
    return int64(outs.shape[1] - CONTROL_RESERVE_BYTES - connections[slot, K_OUT_BYTES])


@inlined
def write_message(
    connections: NDArray[np.int64], outs: NDArray[np.uint8], messages: NDArray[np.uint8], where: NDArray[np.int64],
    slot: int,
) -> bool:  # fmt: skip
    """Write as much of the connection's message as windows and output take; says whether the output was the limit."""
    row = connections[slot]
    begin, length = where[row[K_PARTIAL_MESSAGE], 0], where[row[K_PARTIAL_MESSAGE], 1]
    while row[K_PARTIAL]:
        rest = length - row[K_PARTIAL_AT]
        allowed = min(rest, row[C_SEND_WINDOW], row[K_PARTIAL_WINDOW], row[C_PEER_FRAME_MAX])
        if allowed <= 0:
            return False
        count = min(allowed, room(connections, outs, slot) - FRAME_HEADER_BYTES)
        if count < min(allowed, _PIECE_BYTES_MIN):
            return True
        at = row[K_OUT_BYTES]
        write_frame_header(outs[slot], at, count, DATA, END_STREAM if count == rest else 0, row[K_PARTIAL])
        copy(messages, begin + row[K_PARTIAL_AT], outs[slot], at + FRAME_HEADER_BYTES, count)
        row[K_OUT_BYTES] = at + FRAME_HEADER_BYTES + count
        row[C_SEND_WINDOW] -= count
        row[K_PARTIAL_WINDOW] -= count
        row[K_PARTIAL_AT] += count
        if count == rest:
            row[K_PARTIAL] = 0
    return False


@inlined
def is_able(connections: NDArray[np.int64], calls: NDArray[np.int64], outs: NDArray[np.uint8], slot: int) -> bool:
    """Say whether a connection takes another request now. One row stays free, so that an id is found at once."""
    row = connections[slot]
    calls_max = calls.shape[0] // connections.shape[0] - 1
    return (
        row[C_STATE] == CONNECTION_OPEN
        and row[K_STUCK] == 0
        and row[K_PARTIAL] == 0
        and row[C_STREAM_COUNT] < min(row[K_PEER_STREAMS_MAX], calls_max)
        and row[C_SEND_WINDOW] > 0
        and row[C_LAST_STREAM] < STREAM_ID_MAX
        and room(connections, outs, slot) >= 2 * _PIECE_BYTES_MIN
    )


@inlined
def choose(
    connections: NDArray[np.int64], calls: NDArray[np.int64], outs: NDArray[np.uint8], shared: NDArray[np.int64]
) -> int:
    """Return the able connection with the fewest open calls, by turns among equals; -1 when none is able."""
    best, fewest = -1, NOTHING_DUE
    slot = shared[X_TURN]
    for _ in range(connections.shape[0]):
        if slot >= connections.shape[0]:
            slot = 0
        if connections[slot, C_STREAM_COUNT] < fewest and is_able(connections, calls, outs, slot):
            best, fewest = slot, connections[slot, C_STREAM_COUNT]
        slot += 1
    shared[X_TURN] = best + 1
    return int64(best)


@inlined
def open_call(
    connections: NDArray[np.int64], calls: NDArray[np.int64], outs: NDArray[np.uint8], shared: NDArray[np.int64],
    head: NDArray[np.uint8], slot: int, intended_ns: int, now_ns: int, messages_count: int,
) -> bool:  # fmt: skip
    """Open a stream and write its HEADERS; the connection's message is the next one. False when ids are used up."""
    stream_id = next_id(connections, calls, slot)
    if stream_id < 0:
        return False
    call = calls[row_of(connections, calls, slot, stream_id)]
    counted = intended_ns >= shared[X_COUNT_FROM_NS]
    call[Q_ID], call[Q_INTENDED_NS], call[Q_SENT_NS] = stream_id, intended_ns, now_ns
    call[Q_FLAGS] = CALL_COUNTED if counted else 0
    call[Q_HTTP], call[Q_GRPC], call[Q_BODY], call[Q_PREFIX] = 0, -1, 0, 0
    row = connections[slot]
    row[C_LAST_STREAM] = stream_id
    row[C_STREAM_COUNT] += 1
    shared[X_LIVE] += 1
    shared[X_LIVE_COUNTED] += 1 if counted else 0
    at = row[K_OUT_BYTES]
    copy(head, 0, outs[slot], at, head.size)
    write_number(outs[slot], at + 5, 4, stream_id)
    row[K_OUT_BYTES] = at + head.size
    row[K_PARTIAL], row[K_PARTIAL_AT], row[K_PARTIAL_WINDOW] = stream_id, 0, row[C_PEER_WINDOW]
    row[K_PARTIAL_MESSAGE] = shared[X_MESSAGE]
    shared[X_MESSAGE] = shared[X_MESSAGE] + 1 if shared[X_MESSAGE] + 1 < messages_count else 0
    return True


@inlined
def next_due_ns(shared: NDArray[np.int64], due: NDArray[np.int64]) -> int:
    """Return the earliest intended moment that was not sent."""
    return int64(due[shared[X_DUE_HEAD]]) if shared[X_DUE_COUNT] > 0 else NOTHING_DUE


@kernel(
    "UniTuple(int64, 5)(int64[:, ::1], int64[:, ::1], uint8[:, ::1], int64[::1], int64[:, ::1], int64[::1],"
    " uint8[::1], int64[:, ::1], uint8[::1], int64[:, ::1], int64)"
)
def send(
    connections: NDArray[np.int64],
    calls: NDArray[np.int64],
    outs: NDArray[np.uint8],
    shared: NDArray[np.int64],
    counts: NDArray[np.int64],
    due: NDArray[np.int64],
    messages: NDArray[np.uint8],
    where: NDArray[np.int64],
    head: NDArray[np.uint8],
    ready: NDArray[np.int64],
    now_ns: int,
) -> tuple[int, int, int, int, int]:
    """Write what can be sent at `now_ns`: rests of messages, then the requests that are due.

    `where` holds (offset, length) of each message with its gRPC prefix in `messages`. `due` is a ring of intended
    moments from X_DUE_HEAD on. `ready` gets (slot, bytes) of every connection with output whose socket is not stuck.

    Returns (connections in `ready`; the next intended moment, NOTHING_DUE for none; open calls; whether the next due
    request waits for a connection; whether the output kept a message from going on).
    """
    assert ready.shape[0] >= connections.shape[0], "bug: no room to name every connection"
    assert head.size <= _PIECE_BYTES_MIN, "bug: the header block is too long for its place"
    goes_on = False
    for slot in range(connections.shape[0]):
        if connections[slot, K_PARTIAL] and not connections[slot, K_STUCK]:
            goes_on |= write_message(connections, outs, messages, where, slot)
    waits = False
    while not waits and next_due_ns(shared, due) <= now_ns:
        slot = choose(connections, calls, outs, shared)
        waits = slot < 0
        for _ in range(shared[X_TOGETHER]):
            intended_ns = next_due_ns(shared, due)
            if intended_ns > now_ns or slot < 0 or not is_able(connections, calls, outs, slot):
                break
            if not open_call(connections, calls, outs, shared, head, slot, intended_ns, now_ns, where.shape[0]):
                waits = True
                break
            shared[X_DUE_HEAD] = shared[X_DUE_HEAD] + 1 if shared[X_DUE_HEAD] + 1 < due.size else 0
            shared[X_DUE_COUNT] -= 1
            if intended_ns >= shared[X_COUNT_FROM_NS]:
                count_sent(shared, counts, now_ns - intended_ns)
            goes_on |= write_message(connections, outs, messages, where, slot)
    found = 0
    for slot in range(connections.shape[0]):
        if connections[slot, K_OUT_BYTES] > 0 and not connections[slot, K_STUCK]:
            ready[found, 0], ready[found, 1] = slot, connections[slot, K_OUT_BYTES]
            found += 1
    return found, next_due_ns(shared, due), shared[X_LIVE], 1 if waits else 0, 1 if goes_on else 0


@part
def drop(
    connections: NDArray[np.int64], calls: NDArray[np.int64], outs: NDArray[np.uint8], shared: NDArray[np.int64],
    slot: int, sent_by_ns: int, code: int,
) -> bool:  # fmt: skip
    """Reset a connection's calls that were sent by a moment, oldest first, counting `code`; false when it lacks room.

    Ids are given in the order of sending, so the search ends at the first younger call.
    """
    row = connections[slot]
    while row[C_STATE] == CONNECTION_OPEN and row[K_OLDEST] <= row[C_LAST_STREAM]:
        at = row_of(connections, calls, slot, row[K_OLDEST])
        if calls[at, Q_ID] == row[K_OLDEST]:
            if calls[at, Q_SENT_NS] > sent_by_ns:
                return True
            if row[K_OUT_BYTES] + RESET_BYTES > outs.shape[1]:
                return False
            write_reset(connections, outs, slot, calls[at, Q_ID], CANCEL)
            if code and calls[at, Q_FLAGS] & CALL_COUNTED:
                shared[X_CODES + code] += 1
            free(connections, calls, shared, slot, at)
        row[K_OLDEST] += 2
    return True


@kernel("b1(int64[:, ::1], int64[:, ::1], uint8[:, ::1], int64[::1], int64[::1], int64)")
def expire(
    connections: NDArray[np.int64],
    calls: NDArray[np.int64],
    outs: NDArray[np.uint8],
    shared: NDArray[np.int64],
    due: NDArray[np.int64],
    now_ns: int,
) -> bool:
    """End the calls whose deadline has passed as DEADLINE_EXCEEDED; in a closed loop each makes place for another.

    False when an output has no room for a reset: send it and call again.
    """
    live = shared[X_LIVE]
    done = True
    for slot in range(connections.shape[0]):
        deadline = now_ns - shared[X_TIMEOUT_NS]
        done &= drop(connections, calls, outs, shared, slot, deadline, DEADLINE_EXCEEDED)
    for _ in range(live - shared[X_LIVE]):
        make_place(shared, due, now_ns)
    return done


@kernel("b1(int64[:, ::1], int64[:, ::1], uint8[:, ::1], int64[::1])")
def cancel(
    connections: NDArray[np.int64], calls: NDArray[np.int64], outs: NDArray[np.uint8], shared: NDArray[np.int64]
) -> bool:
    """Reset every open call, counting none. False when an output has no room for a reset: send it and call again."""
    done = True
    for slot in range(connections.shape[0]):
        done &= drop(connections, calls, outs, shared, slot, NOTHING_DUE, 0)
    return done
