"""DATA that cannot be written yet: whose turn it is, and how much of it the windows let through.

A connection's streams with unsent DATA stand in a queue. Each turn gives the first of them one frame, cut at the peer's
maximum frame length, at both windows and at TURN_BYTES_MAX, and sends it to the end of the queue; one whose window is
closed keeps its place in the round. The bytes themselves lie with the caller (`outbox`): here they are counted, so that
deciding is compiled and large answers are not copied into yet another array. (RFC 9113, sections 5.2 and 6.9.)
"""

import numpy as np
from numpy.typing import NDArray

from serving.wire.compiler import int64, kernel, part
from serving.wire.frames import DATA, FRAME_HEADER_BYTES, write_frame_header
from serving.wire.layout import (
    C_BLOCKED,
    C_PEER_FRAME_MAX,
    C_QUEUE_FIRST,
    C_QUEUE_LAST,
    C_SEND_WINDOW,
    C_UNSENT,
    P_COUNT,
    P_END,
    P_ID,
    P_STREAM,
    PIECE_DROPPED,
    PIECE_LAST,
    PIECE_LAST_EARLY,
    PIECE_MORE,
    S_CONNECTION,
    S_ID,
    S_QUEUE_NEXT,
    S_SEND_WINDOW,
    S_STATE,
    S_UNSENT,
    STATUS_FULL,
    STATUS_HUNGRY,
    STREAM_ENDED,
    STREAM_FINISHED,
    STREAM_QUEUED,
    STREAM_RESET,
)
from serving.wire.streams import CREDIT_PER_MESSAGE, earn, expect_updates, give_back

TURN_BYTES_MAX = 65_536
"""What a stream gets at most before the next one's turn, however large the frames are that its peer would take."""


@part
def append(connections: NDArray[np.int64], streams: NDArray[np.int64], slot: int, stream: int) -> None:
    """Put a stream at the end of the queue."""
    last = connections[slot, C_QUEUE_LAST]
    if last >= 0:
        streams[last, S_QUEUE_NEXT] = stream
    else:
        connections[slot, C_QUEUE_FIRST] = stream
    connections[slot, C_QUEUE_LAST] = stream
    streams[stream, S_QUEUE_NEXT] = -1


@part
def remove_first(connections: NDArray[np.int64], streams: NDArray[np.int64], slot: int) -> None:
    """Take the first stream out of the queue."""
    following = streams[connections[slot, C_QUEUE_FIRST], S_QUEUE_NEXT]
    connections[slot, C_QUEUE_FIRST] = following
    if following < 0:
        connections[slot, C_QUEUE_LAST] = -1


@kernel("i8(i8[:, ::1], i8[:, ::1], i8[::1], i8, i8)")
def enqueue(
    connections: NDArray[np.int64], streams: NDArray[np.int64], shared: NDArray[np.int64], stream: int, count: int
) -> int:
    """Count `count` bytes of DATA to what a stream has unsent; returns what its connection has.

    Each call counts as a message, which is work done and earns control frames.
    """
    assert 0 <= stream < streams.shape[0], "bug: no such stream"
    assert count > 0, "bug: DATA without a byte"
    row = streams[stream]
    assert row[S_STATE] != 0, "bug: the stream is not open"
    assert not row[S_STATE] & (STREAM_RESET | STREAM_FINISHED), "bug: DATA after the end of the stream"
    slot = row[S_CONNECTION]
    if not row[S_STATE] & STREAM_QUEUED:
        row[S_STATE] |= STREAM_QUEUED
        row[S_UNSENT] = 0
        append(connections, streams, slot, stream)
    row[S_UNSENT] += count
    connections[slot, C_UNSENT] += count
    earn(connections, shared, slot, CREDIT_PER_MESSAGE)
    expect_updates(connections, slot, 0)
    return int64(connections[slot, C_UNSENT])


@part
def leave(
    connections: NDArray[np.int64], streams: NDArray[np.int64], shared: NDArray[np.int64], slot: int, stream: int,
    piece: NDArray[np.int64],
) -> None:  # fmt: skip
    """Take the first stream, which has nothing to send any more, out of the queue, and release it if that was all."""
    row = streams[stream]
    remove_first(connections, streams, slot)
    row[S_STATE] &= ~STREAM_QUEUED
    if row[S_STATE] & STREAM_RESET:
        piece[P_END] = PIECE_DROPPED
    elif row[S_STATE] & STREAM_FINISHED:
        piece[P_END] = PIECE_LAST if row[S_STATE] & STREAM_ENDED else PIECE_LAST_EARLY
    if row[S_STATE] & STREAM_FINISHED:
        give_back(connections, streams, shared, stream)


@part
def take_turn(
    connections: NDArray[np.int64], streams: NDArray[np.int64], shared: NDArray[np.int64], slot: int, stream: int,
    bytes_max: int, piece: NDArray[np.int64],
) -> bool:  # fmt: skip
    """Let the first stream of the queue write a frame; False when a window is closed, and nothing was done."""
    row, connection = streams[stream], connections[slot]
    piece[P_STREAM], piece[P_ID], piece[P_COUNT], piece[P_END] = stream, row[S_ID], 0, PIECE_MORE
    if row[S_STATE] & STREAM_RESET:
        connection[C_UNSENT] -= row[S_UNSENT]
        row[S_UNSENT] = 0
        leave(connections, streams, shared, slot, stream, piece)
        return True
    window = min(connection[C_SEND_WINDOW], row[S_SEND_WINDOW])
    count = min(row[S_UNSENT], window, connection[C_PEER_FRAME_MAX], bytes_max)
    if count <= 0:
        return False
    connection[C_SEND_WINDOW] -= count
    row[S_SEND_WINDOW] -= count
    connection[C_UNSENT] -= count
    row[S_UNSENT] -= count
    piece[P_COUNT] = count
    expect_updates(connections, slot, count)
    if row[S_UNSENT]:
        remove_first(connections, streams, slot)
        append(connections, streams, slot, stream)
    else:
        leave(connections, streams, shared, slot, stream, piece)
    return True


@kernel("UniTuple(i8, 2)(i8[:, ::1], i8[:, ::1], i8[::1], i8[:, ::1], u1[::1], i8, i8)")
def cut(
    connections: NDArray[np.int64],
    streams: NDArray[np.int64],
    shared: NDArray[np.int64],
    pieces: NDArray[np.int64],
    heads: NDArray[np.uint8],
    slot: int,
    bytes_max: int,
) -> tuple[int, int]:
    """Give out what may be written now, at most `bytes_max` bytes of DATA, as rows of `pieces` (P_*) in that order.

    The head of piece k's DATA frame is written to `heads`, at k times its length. Returns (rows, STATUS_*):
    STATUS_FULL when there may be more at once, STATUS_HUNGRY when only an open window can bring more.
    """
    assert 0 <= slot < connections.shape[0], "bug: no such connection"
    assert heads.size >= pieces.shape[0] * FRAME_HEADER_BYTES, "bug: no room for the heads of frames"
    count, stuck, status = 0, -1, STATUS_HUNGRY
    while True:
        stream = connections[slot, C_QUEUE_FIRST]
        if stream < 0 or stream == stuck:  # nothing is left, or a whole round has moved nothing
            break
        if count == pieces.shape[0] or bytes_max <= 0:
            status = STATUS_FULL
            break
        piece = pieces[count]
        if not take_turn(connections, streams, shared, slot, stream, min(bytes_max, TURN_BYTES_MAX), piece):
            stuck = stream if stuck < 0 else stuck
            remove_first(connections, streams, slot)
            append(connections, streams, slot, stream)
            continue
        stuck = -1
        bytes_max -= piece[P_COUNT]
        write_frame_header(heads, count * FRAME_HEADER_BYTES, piece[P_COUNT], DATA, 0, piece[P_ID])
        count += 1
    connections[slot, C_BLOCKED] = int64(connections[slot, C_QUEUE_FIRST] >= 0)
    return count, status
