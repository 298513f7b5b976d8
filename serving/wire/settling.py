"""The common case of an answer: small, of a stream that waits for it, and within all windows.

`response.encode` has written the answers of a batch one behind the other, with gaps around each; `settle_answers`
writes the frames into the gaps, so that a connection's answers become one stretch of bytes to write, and nothing is
copied. `refuse_requests` answers many requests by the same error. Both compare generations, drop the answers of streams
that are gone, and release the rows. What does not fit is left to the queue (`unsent`).
"""

import numpy as np
from numpy.typing import NDArray

from serving.wire.answer_blocks import FIRST_START, OK, START, as_array, trailers
from serving.wire.compiler import inlined, kernel, part
from serving.wire.frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    FRAME_HEADER_BYTES,
    HEADERS,
    NO_ERROR,
    RST_STREAM,
    write_frame_header,
    write_number,
)
from serving.wire.hpack import TABLE_SIZE_ZERO
from serving.wire.layout import (
    C_ENCODER_STARTED,
    C_PEER_FRAME_MAX,
    C_SEND_WINDOW,
    C_STATE,
    CONNECTION_CLOSED,
    FRAME_BYTES_MAX,
    S_GENERATION,
    S_ID,
    S_SEND_WINDOW,
    S_STATE,
    STREAM_ENDED,
    STREAM_QUEUED,
    STREAM_RESET,
)
from serving.wire.octets import copy
from serving.wire.records import R_CONNECTION, R_STREAM, R_STREAM_GENERATION
from serving.wire.response import A_AT, A_LENGTH
from serving.wire.streams import expect_updates, give_back

_FIRST_START, _START, _TRAILERS = as_array(FIRST_START), as_array(START), as_array(trailers(OK))
assert _FIRST_START.size == _START.size, "bug: the place of an answer depends on whether it is the first"

START_BYTES = FRAME_HEADER_BYTES + _START.size
BEFORE_BYTES = START_BYTES + FRAME_HEADER_BYTES
AFTER_BYTES = FRAME_HEADER_BYTES + _TRAILERS.size
"""The gaps that `response.encode` leaves around each answer: HEADERS and the head of DATA; trailers."""
RESET_BYTES = FRAME_HEADER_BYTES + 4
REFUSAL_BYTES = FRAME_HEADER_BYTES + len(TABLE_SIZE_ZERO) + RESET_BYTES
"""What a refusal takes beside its block, at most."""
_TABLE_SIZE_ZERO = TABLE_SIZE_ZERO[0]


@inlined
def awaits(
    connections: NDArray[np.int64], streams: NDArray[np.int64], shared: NDArray[np.int64], slot: int, stream: int,
    generation: int,
) -> bool:  # fmt: skip
    """Say whether a stream still waits for its answer; the row of one that was reset in the meantime is released."""
    state = streams[stream, S_STATE]
    if streams[stream, S_GENERATION] != generation or state == 0:
        return False
    if state & STREAM_RESET or connections[slot, C_STATE] == CONNECTION_CLOSED:
        if not state & STREAM_QUEUED:
            give_back(connections, streams, shared, stream)
        return False
    return True


@inlined
def fits(connections: NDArray[np.int64], streams: NDArray[np.int64], slot: int, stream: int, length: int) -> bool:
    """Say whether an answer can go out as a whole, in one frame, and be the last of its stream."""
    connection, row = connections[slot], streams[stream]
    window = min(connection[C_SEND_WINDOW], row[S_SEND_WINDOW])
    unfinished = row[S_STATE] & STREAM_QUEUED or not row[S_STATE] & STREAM_ENDED
    return not unfinished and length <= min(window, connection[C_PEER_FRAME_MAX])


@inlined
def write_frames(out: NDArray[np.uint8], at: int, length: int, stream_id: int, is_first: bool) -> int:
    """Write the frames of an answer around its bytes, which lie at out[at + BEFORE_BYTES]; returns where they end."""
    write_frame_header(out, at, _START.size, HEADERS, END_HEADERS, stream_id)
    copy(_FIRST_START if is_first else _START, 0, out, at + FRAME_HEADER_BYTES, _START.size)
    write_frame_header(out, at + START_BYTES, length, DATA, 0, stream_id)
    at += BEFORE_BYTES + length
    write_frame_header(out, at, _TRAILERS.size, HEADERS, END_HEADERS | END_STREAM, stream_id)
    copy(_TRAILERS, 0, out, at + FRAME_HEADER_BYTES, _TRAILERS.size)
    return at + AFTER_BYTES


@kernel("UniTuple(i8, 3)(i8[:, ::1], i8[::1], i8[:, ::1], i8[:, ::1], i8[:, ::1], i8[::1], u1[::1], i8, i8, i8)")
def settle_answers(
    requests: NDArray[np.int64],
    chosen: NDArray[np.int64],
    answers: NDArray[np.int64],
    connections: NDArray[np.int64],
    streams: NDArray[np.int64],
    shared: NDArray[np.int64],
    out: NDArray[np.uint8],
    slot: int,
    first: int,
    last: int,
) -> tuple[int, int, int]:
    """Settle answers[first:last], all for the connection in `slot`, and written to `out` with the gaps of this module.

    Returns (where it stopped, begin, end): out[begin:end] is to be written, and when it stopped before `last`, that
    answer's stream waits and it does not fit: it belongs into the connection's queue, and settling goes on behind it.
    Answers move to the front over those that were dropped.
    """
    assert 0 <= first <= last <= min(chosen.size, answers.shape[0]), "bug: no such answers"
    assert 0 <= slot < connections.shape[0], "bug: no such connection"
    begin = answers[first, A_AT] - BEFORE_BYTES if first < last else 0
    assert 0 <= begin <= out.size, "bug: no gap before the answer"
    end = begin
    for k in range(first, last):
        request, at, length = requests[chosen[k]], answers[k, A_AT], answers[k, A_LENGTH]
        stream = request[R_STREAM]
        assert request[R_CONNECTION] == slot, "bug: an answer of another connection"
        assert 0 <= stream < streams.shape[0], "bug: no such stream"
        assert end + BEFORE_BYTES <= at <= out.size - AFTER_BYTES, "bug: no gap around the answer"
        assert 0 <= length <= out.size - AFTER_BYTES - at, "bug: no gap behind the answer"
        if not awaits(connections, streams, shared, slot, stream, request[R_STREAM_GENERATION]):
            continue
        if not fits(connections, streams, slot, stream, length):
            return k, begin, end
        if at != end + BEFORE_BYTES:
            copy(out, at, out, end + BEFORE_BYTES, length)
        is_first = connections[slot, C_ENCODER_STARTED] == 0
        connections[slot, C_ENCODER_STARTED] = 1
        connections[slot, C_SEND_WINDOW] -= length
        expect_updates(connections, slot, length)
        end = write_frames(out, end, length, streams[stream, S_ID], is_first)
        give_back(connections, streams, shared, stream)
    return last, begin, end


G_SLOT, G_FIRST, G_LAST, G_STOPPED, G_BEGIN, G_END = range(6)
"""A segment: answers [first, last) of one connection, or of none where the slot is -1; and what became of them."""
SEGMENT_COLUMNS = 6


@kernel("void(i8[:, ::1], i8[::1], i8[:, ::1], i8[:, ::1], i8[:, ::1], i8[::1], u1[::1], i8[:, ::1], i8)")
def settle_segments(
    requests: NDArray[np.int64],
    chosen: NDArray[np.int64],
    answers: NDArray[np.int64],
    connections: NDArray[np.int64],
    streams: NDArray[np.int64],
    shared: NDArray[np.int64],
    out: NDArray[np.uint8],
    segments: NDArray[np.int64],
    count: int,
) -> None:
    """Settle the answers of the first `count` segments of a batch, each as `settle_answers` does.

    Fills in G_STOPPED, G_BEGIN and G_END. What is to be written on a connection has the order of its segments, and all
    of it comes before the answers at which some have stopped.
    """
    assert 0 <= count <= segments.shape[0], "bug: no such segments"
    for k in range(count):
        segment = segments[k]
        if segment[G_SLOT] < 0:
            segment[G_STOPPED], segment[G_BEGIN], segment[G_END] = segment[G_LAST], 0, 0
            continue
        segment[G_STOPPED], segment[G_BEGIN], segment[G_END] = settle_answers(
            requests, chosen, answers, connections, streams, shared, out, segment[G_SLOT], segment[G_FIRST],
            segment[G_LAST],
        )  # fmt: skip


@part
def write_refusal(
    connections: NDArray[np.int64], streams: NDArray[np.int64], slot: int, stream: int, block: NDArray[np.uint8],
    out: NDArray[np.uint8], at: int,
) -> int:  # fmt: skip
    """Write an answer that is one header block, and RST_STREAM when the peer has not ended; returns where it ends."""
    stream_id = streams[stream, S_ID]
    extra = 1 - connections[slot, C_ENCODER_STARTED]
    connections[slot, C_ENCODER_STARTED] = 1
    write_frame_header(out, at, block.size + extra, HEADERS, END_HEADERS | END_STREAM, stream_id)
    at += FRAME_HEADER_BYTES
    if extra:
        out[at] = _TABLE_SIZE_ZERO
    copy(block, 0, out, at + extra, block.size)
    at += extra + block.size
    if not streams[stream, S_STATE] & STREAM_ENDED:
        write_frame_header(out, at, 4, RST_STREAM, 0, stream_id)
        write_number(out, at + FRAME_HEADER_BYTES, 4, NO_ERROR)
        at += RESET_BYTES
    return at


@kernel("i8(i8[:, ::1], i8[::1], u1[::1], i8[:, ::1], i8[:, ::1], i8[::1], u1[::1], i8, i8, i8, i8)")
def refuse_requests(
    requests: NDArray[np.int64],
    chosen: NDArray[np.int64],
    block: NDArray[np.uint8],
    connections: NDArray[np.int64],
    streams: NDArray[np.int64],
    shared: NDArray[np.int64],
    out: NDArray[np.uint8],
    at: int,
    slot: int,
    first: int,
    last: int,
) -> int:
    """Answer the requests chosen[first:last], all of the connection in `slot`, by one block; returns where that ends.

    A stream whose answer waits in the queue is left to it: its HEADERS are written, and its row is the queue's.
    `out` needs REFUSAL_BYTES and the block's length from `at` on for each. No window limits a header block.
    """
    assert 0 <= first <= last <= chosen.size, "bug: no such requests"
    assert 0 <= slot < connections.shape[0], "bug: no such connection"
    assert block.size < FRAME_BYTES_MAX, "bug: a block of more than one frame"
    assert 0 <= at <= out.size, "bug: no such place"
    assert (last - first) * (block.size + REFUSAL_BYTES) <= out.size - at, "bug: no room for the refusals"
    for k in range(first, last):
        request = requests[chosen[k]]
        stream = request[R_STREAM]
        assert request[R_CONNECTION] == slot, "bug: a request of another connection"
        assert 0 <= stream < streams.shape[0], "bug: no such stream"
        is_awaited = awaits(connections, streams, shared, slot, stream, request[R_STREAM_GENERATION])
        if is_awaited and not streams[stream, S_STATE] & STREAM_QUEUED:
            at = write_refusal(connections, streams, slot, stream, block, out, at)
            give_back(connections, streams, shared, stream)
    return at
