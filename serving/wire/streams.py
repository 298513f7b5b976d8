"""Stream rows and assembly blocks: finding, opening, resetting and releasing them.

A connection's streams hang in BUCKETS short chains by id. A row is released by the decoder as long as no event has
named it; from then on the transport owns it and releases it when its answer is settled, so that a stream that was
reset keeps counting against the connection's limit until its work is really gone.
"""

import numpy as np
from numpy.typing import NDArray

from serving.wire.compiler import inlined, int64, kernel, part
from serving.wire.frames import Wire, count, tell, write_reset
from serving.wire.layout import (
    BLOCK_NONE,
    BUCKETS,
    C_BUCKETS,
    C_BUDGET,
    C_PEER_WINDOW,
    C_STREAM_COUNT,
    C_UPDATES_DUE,
    EVENT_FAILED,
    EVENT_RESET,
    H_BLOCK_NEXT,
    H_BUDGET_MAX,
    H_FREE_BLOCK,
    H_FREE_STREAM,
    H_NOW_NS,
    H_RETIRED_BLOCK,
    H_STREAM_WINDOW,
    S_BLOCK,
    S_CONNECTION,
    S_CONTENT_LENGTH,
    S_GENERATION,
    S_ID,
    S_NEXT,
    S_RECEIVE_WINDOW,
    S_SEND_WINDOW,
    S_SINCE_NS,
    S_STATE,
    STREAM_FAILED,
    STREAM_OPEN,
    STREAM_QUEUED,
    STREAM_RESET,
    STREAM_TOLD,
)

CREDIT_PER_ANSWER = 8
"""Control frames that an answer pays for: window updates of its stream and connection, a ping, and as many again."""
CREDIT_PER_MESSAGE = 2
"""Control frames that DATA handed in pays for, while its stream goes on: a ping, and one more."""
UPDATES_PER_FRAME = 2
"""Window updates that a message, and a frame, pay for: of the stream and of the connection."""
UPDATE_BYTES_SHIFT = 8
"""A peer that takes a frame piece by piece may send one more for every 256 bytes of it."""


@inlined
def bucket_of(stream_id: int) -> int:
    """Return the column of the chain that a stream id hangs in."""
    return C_BUCKETS + ((stream_id >> 1) & (BUCKETS - 1))


@inlined
def find(connections: NDArray[np.int64], streams: NDArray[np.int64], slot: int, stream_id: int) -> int:
    """Return the slot of a connection's stream, -1 when it has no row (any more)."""
    stream = connections[slot, bucket_of(stream_id)]
    while stream >= 0 and streams[stream, S_ID] != stream_id:
        stream = streams[stream, S_NEXT]
    return int64(stream)


@inlined
def open_stream(wire: Wire, slot: int, stream_id: int) -> int:
    """Take a free row for a stream; the caller has seen that there is one."""
    stream = wire.shared[H_FREE_STREAM]
    row = wire.streams[stream]
    wire.shared[H_FREE_STREAM] = row[S_NEXT]
    generation = row[S_GENERATION]
    row[:] = 0
    row[S_GENERATION] = generation
    row[S_CONNECTION] = slot
    row[S_ID] = stream_id
    row[S_STATE] = STREAM_OPEN
    row[S_BLOCK] = BLOCK_NONE
    row[S_CONTENT_LENGTH] = -1
    row[S_SEND_WINDOW] = wire.connections[slot, C_PEER_WINDOW]
    row[S_RECEIVE_WINDOW] = wire.shared[H_STREAM_WINDOW]
    row[S_SINCE_NS] = wire.shared[H_NOW_NS]
    bucket = bucket_of(stream_id)
    row[S_NEXT] = wire.connections[slot, bucket]
    wire.connections[slot, bucket] = stream
    wire.connections[slot, C_STREAM_COUNT] += 1
    return int64(stream)


@part
def take_block(shared: NDArray[np.int64]) -> int:
    """Take a free assembly block; -1 when there is none."""
    block = shared[H_FREE_BLOCK]
    if block >= 0:
        shared[H_FREE_BLOCK] = shared[H_BLOCK_NEXT + block]
    return int64(block)


@inlined
def retire_block(streams: NDArray[np.int64], shared: NDArray[np.int64], stream: int) -> None:
    """Give up the stream's block; what an event says about it stays true until the next decode call."""
    block = streams[stream, S_BLOCK]
    streams[stream, S_BLOCK] = BLOCK_NONE
    if block >= 0:
        shared[H_BLOCK_NEXT + block] = shared[H_RETIRED_BLOCK]
        shared[H_RETIRED_BLOCK] = block


@part
def free_retired_blocks(shared: NDArray[np.int64]) -> None:
    """Free the blocks that the events of the previous decode call pointed at."""
    while shared[H_RETIRED_BLOCK] >= 0:
        block = shared[H_RETIRED_BLOCK]
        shared[H_RETIRED_BLOCK] = shared[H_BLOCK_NEXT + block]
        shared[H_BLOCK_NEXT + block] = shared[H_FREE_BLOCK]
        shared[H_FREE_BLOCK] = block


@part
def release(connections: NDArray[np.int64], streams: NDArray[np.int64], shared: NDArray[np.int64], stream: int) -> None:
    """Take a row out of its chain and make it free, under a new generation."""
    row = streams[stream]
    slot = row[S_CONNECTION]
    bucket = bucket_of(row[S_ID])
    retire_block(streams, shared, stream)
    if connections[slot, bucket] == stream:
        connections[slot, bucket] = row[S_NEXT]
    else:
        before = connections[slot, bucket]
        while streams[before, S_NEXT] != stream:
            before = streams[before, S_NEXT]
        streams[before, S_NEXT] = row[S_NEXT]
    connections[slot, C_STREAM_COUNT] -= 1
    row[S_STATE] = 0
    row[S_GENERATION] += 1
    row[S_NEXT] = shared[H_FREE_STREAM]
    shared[H_FREE_STREAM] = stream


@part
def kill_stream(wire: Wire, stream: int, code: int) -> None:
    """Mark a stream dead, whoever did it, and tell the transport if it knows the stream."""
    state = wire.streams[stream, S_STATE]
    if state & STREAM_TOLD:
        wire.streams[stream, S_STATE] = state | STREAM_RESET
        retire_block(wire.streams, wire.shared, stream)
        tell(wire, EVENT_RESET, stream, code)
    else:
        release(wire.connections, wire.streams, wire.shared, stream)


@part
def reset_stream(wire: Wire, stream: int, code: int, refused: int) -> None:
    """Answer a breach of HTTP/2, counted as REFUSED_*, by RST_STREAM."""
    count(wire, refused)
    write_reset(wire, wire.streams[stream, S_ID], code)
    kill_stream(wire, stream, code)


@part
def fail_stream(wire: Wire, stream: int, reason: int) -> None:
    """Hand a stream out to be answered with an error, FAIL_*; what still comes on it is dropped."""
    count(wire, reason)
    wire.streams[stream, S_STATE] |= STREAM_FAILED | STREAM_TOLD
    retire_block(wire.streams, wire.shared, stream)
    tell(wire, EVENT_FAILED, stream, reason)


@inlined
def earn(connections: NDArray[np.int64], shared: NDArray[np.int64], slot: int, frames: int) -> None:
    """Credit a connection for useful work, up to its allowance."""
    connections[slot, C_BUDGET] = min(shared[H_BUDGET_MAX], connections[slot, C_BUDGET] + frames)


@inlined
def expect_updates(connections: NDArray[np.int64], slot: int, count: int) -> None:
    """Let a peer answer a message, or a frame of `count` bytes, by window updates, whenever it likes."""
    connections[slot, C_UPDATES_DUE] += UPDATES_PER_FRAME + (count >> UPDATE_BYTES_SHIFT)


@part
def give_back(
    connections: NDArray[np.int64], streams: NDArray[np.int64], shared: NDArray[np.int64], stream: int
) -> None:
    """Release the row of a stream that is settled; one that was not reset got an answer, which earns control frames."""
    if not streams[stream, S_STATE] & STREAM_RESET:
        earn(connections, shared, streams[stream, S_CONNECTION], CREDIT_PER_ANSWER)
    release(connections, streams, shared, stream)


@kernel("int64(int64[:, ::1], int64[:, ::1], int64[::1], int64, int64)")
def release_stream(
    connections: NDArray[np.int64],
    streams: NDArray[np.int64],
    shared: NDArray[np.int64],
    stream: int,
    generation: int,
) -> int:
    """Release a row that an event named, once its answer is settled or dropped; an answer earns control frames.

    Returns 1, or 0 when the row has another generation: its connection was closed, and the answer is for nobody.
    """
    assert 0 <= stream < streams.shape[0], "bug: no such stream"
    if streams[stream, S_GENERATION] != generation or streams[stream, S_STATE] == 0:
        return 0
    assert not streams[stream, S_STATE] & STREAM_QUEUED, "bug: the queue of unsent DATA releases this stream"
    give_back(connections, streams, shared, stream)
    return 1
