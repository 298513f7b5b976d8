"""gRPC messages out of DATA payloads: a flag, a 4-byte length, the bytes; over any number of frames.

A message that lies whole in the read buffer is handed out where it lies. One that spans frames is put together once,
in a block of the pool; one that is longer than a block, or finds none free, is handed out in parts. A ModelInfer is
handed out once, at END_STREAM, when it is known to be complete and alone.
"""

from serving.wire.compiler import inlined, int64, part
from serving.wire.frames import Wire, tell, tell_bytes
from serving.wire.layout import (
    BLOCK_NONE,
    BLOCK_PARTS,
    ENCODING_IDENTITY,
    EVENT_ENDED,
    EVENT_MESSAGE,
    EVENT_PART,
    EVENT_REQUEST,
    FAIL_COMPRESSED,
    FAIL_CUT_OFF,
    FAIL_MESSAGE_FLAG,
    FAIL_MESSAGE_LENGTH,
    FAIL_NO_MESSAGE,
    FAIL_SECOND_MESSAGE,
    H_BLOCK_BYTES,
    H_BLOCKS_AT,
    H_MESSAGE_BYTES_MAX,
    H_NOW_NS,
    PREFIX_BYTES,
    S_BLOCK,
    S_COMPRESSED,
    S_ENCODING,
    S_MESSAGE_GOT,
    S_MESSAGES,
    S_PREFIX,
    S_PREFIX_COUNT,
    S_SINCE_NS,
    S_STATE,
    SOURCE_BUFFER,
    SOURCE_PARTS,
    SOURCE_POOL,
    STREAM_TOLD,
    STREAM_UNARY,
)
from serving.wire.octets import copy
from serving.wire.streams import fail_stream, retire_block, take_block

LENGTH_MASK = 0xFFFF_FFFF


@inlined
def read_prefix(wire: Wire, stream: int, at: int, end: int) -> int:
    """Take bytes of the prefix from source[at:end]; returns where they end."""
    row = wire.streams[stream]
    while at < end and row[S_PREFIX_COUNT] < PREFIX_BYTES:
        row[S_PREFIX] = row[S_PREFIX] << 8 | int64(wire.source[at])
        row[S_PREFIX_COUNT] += 1
        at += 1
    return at


@inlined
def prefix_failure(wire: Wire, stream: int) -> int:
    """Say what is wrong with a complete prefix: FAIL_*, or -1."""
    row = wire.streams[stream]
    flag = row[S_PREFIX] >> 32
    if flag > 1:
        return FAIL_MESSAGE_FLAG
    if flag == 1 and row[S_ENCODING] == ENCODING_IDENTITY:
        return FAIL_COMPRESSED
    return FAIL_MESSAGE_LENGTH if row[S_PREFIX] & LENGTH_MASK > wire.shared[H_MESSAGE_BYTES_MAX] else -1


@part
def place(wire: Wire, stream: int, length: int) -> None:
    """Decide where a message that is not in one piece goes: a block, or out in parts."""
    block = take_block(wire.shared) if length <= wire.shared[H_BLOCK_BYTES] else -1
    wire.streams[stream, S_BLOCK] = block if block >= 0 else BLOCK_PARTS
    if block < 0:
        wire.streams[stream, S_STATE] |= STREAM_TOLD


@part
def block_at(wire: Wire, stream: int) -> int:
    """Return where the stream's block begins in the pool."""
    return int64(wire.shared[H_BLOCKS_AT] + wire.streams[stream, S_BLOCK] * wire.shared[H_BLOCK_BYTES])


@inlined
def encoding_of(wire: Wire, stream: int) -> int:
    """Return the encoding of the message that is complete: its flag decides whether the stream's applies."""
    row = wire.streams[stream]
    return int64(row[S_ENCODING]) if row[S_COMPRESSED] else ENCODING_IDENTITY


@part
def add(wire: Wire, stream: int, at: int, count: int, length: int) -> None:
    """Add source[at:at + count] to the message that is being put together."""
    row = wire.streams[stream]
    if row[S_BLOCK] == BLOCK_PARTS:
        tell_bytes(wire, EVENT_PART, stream, length, SOURCE_BUFFER, at, count, ENCODING_IDENTITY)
    else:
        to = block_at(wire, stream) + row[S_MESSAGE_GOT]
        copy(wire.source, at, wire.pool, to, count)
    row[S_MESSAGE_GOT] += count


@inlined
def hand_out(wire: Wire, kind: int, stream: int, direct_at: int, length: int) -> None:
    """Tell of a complete message: at source[direct_at], or, when that is negative, where it was put together."""
    encoding = encoding_of(wire, stream)
    block = wire.streams[stream, S_BLOCK]
    wire.streams[stream, S_STATE] |= STREAM_TOLD
    if direct_at >= 0:
        tell_bytes(wire, kind, stream, 0, SOURCE_BUFFER, direct_at, length, encoding)
    elif block == BLOCK_PARTS:
        tell_bytes(wire, kind, stream, 0, SOURCE_PARTS, 0, length, encoding)
    else:
        tell_bytes(wire, kind, stream, 0, SOURCE_POOL, block_at(wire, stream), length, encoding)
    retire_block(wire.streams, wire.shared, stream)


@inlined
def feed(wire: Wire, stream: int, at: int, end: int, ended: bool) -> None:
    """Take the DATA in source[at:end], the last of the stream when `ended`."""
    row = wire.streams[stream]
    unary = row[S_STATE] & STREAM_UNARY
    direct_at = -1
    while at < end:
        if unary and row[S_MESSAGES]:
            fail_stream(wire, stream, FAIL_SECOND_MESSAGE)
            return
        if row[S_PREFIX_COUNT] < PREFIX_BYTES:
            if row[S_PREFIX_COUNT] == 0 and not unary:
                row[S_SINCE_NS] = wire.shared[H_NOW_NS]
            at = read_prefix(wire, stream, at, end)
            if row[S_PREFIX_COUNT] < PREFIX_BYTES:
                break
            reason = prefix_failure(wire, stream)
            if reason >= 0:
                fail_stream(wire, stream, reason)
                return
        length = row[S_PREFIX] & LENGTH_MASK
        count = min(length - row[S_MESSAGE_GOT], end - at)
        if row[S_BLOCK] == BLOCK_NONE and count == length and (ended or not unary):
            direct_at = at
        else:
            if row[S_BLOCK] == BLOCK_NONE:
                place(wire, stream, length)
            add(wire, stream, at, count, length)
        at += count
        if direct_at < 0 and row[S_MESSAGE_GOT] < length:
            break
        row[S_MESSAGES] += 1
        row[S_COMPRESSED] = row[S_PREFIX] >> 32
        if not unary:
            hand_out(wire, EVENT_MESSAGE, stream, direct_at, length)
            direct_at = -1
            row[S_PREFIX] = 0
            row[S_SINCE_NS] = 0
        row[S_PREFIX_COUNT] = 0
        row[S_MESSAGE_GOT] = 0
    if ended:
        finish(wire, stream, direct_at)


@inlined
def finish(wire: Wire, stream: int, direct_at: int) -> None:
    """Take END_STREAM."""
    row = wire.streams[stream]
    if row[S_PREFIX_COUNT]:
        fail_stream(wire, stream, FAIL_CUT_OFF)
    elif not row[S_STATE] & STREAM_UNARY:
        tell(wire, EVENT_ENDED, stream, 0)
    elif row[S_MESSAGES] == 0:
        fail_stream(wire, stream, FAIL_NO_MESSAGE)
    else:
        hand_out(wire, EVENT_REQUEST, stream, direct_at, row[S_PREFIX] & LENGTH_MASK)
