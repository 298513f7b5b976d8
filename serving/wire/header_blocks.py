"""Header blocks on a connection: HEADERS with its CONTINUATIONs, and what a request or trailers do to a stream.

A block is taken when all of its frames are there, and decoded whatever becomes of its stream, so that the peer's
table and ours stay in step. (RFC 9113, sections 4.3, 5.1, 6.2, 6.10 and 8.)
"""

import numpy as np
from numpy.typing import NDArray

from serving.wire.compiler import inlined, int64, part
from serving.wire.connection import break_off, cut_off, spend
from serving.wire.frames import (
    COMPRESSION_ERROR,
    CONTINUATION,
    END_HEADERS,
    END_STREAM,
    FRAME_HEADER_BYTES,
    FRAME_SIZE_ERROR,
    PADDED,
    PRIORITY_FLAG,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    STREAM_CLOSED,
    Wire,
    count,
    read_number,
    tell_bytes,
    write_reset,
)
from serving.wire.hpack import COMPRESSION_BROKEN, decode_block
from serving.wire.layout import (
    C_LAST_ACCEPTED,
    C_LAST_STREAM,
    C_STREAM_COUNT,
    C_UNSENT,
    CONTENT_TYPE_GRPC,
    ENCODING_IDENTITY,
    ENCODING_UNKNOWN,
    EVENT_OPENED,
    FAIL_CONTENT_TYPE,
    FAIL_ENCODING,
    FAIL_HEADER_LIST,
    FAIL_METHOD,
    FAIL_TIMEOUT,
    FLAG_LIST_TOO_LONG,
    FLAG_MALFORMED,
    FLAG_METHOD,
    FLAG_PATH,
    FLAG_PSEUDO,
    FLAG_SCHEME,
    FRAME_BYTES_MAX,
    H_CONTINUATIONS_MAX,
    H_FREE_STREAM,
    H_HEADER_BLOCK_BYTES_MAX,
    H_HEADERS,
    H_NOW_NS,
    H_STREAMS_MAX,
    H_UNSENT_BYTES_MAX,
    HEAD_CONTENT_LENGTH,
    HEAD_CONTENT_TYPE,
    HEAD_ENCODING,
    HEAD_FLAGS,
    HEAD_METHOD,
    HEAD_PATH,
    HEAD_ROUTE,
    HEAD_TIMEOUT_NS,
    METHOD_POST,
    NO_DEADLINE,
    PATH_MODEL_INFER,
    REFUSED_AFTER_GOAWAY,
    REFUSED_CLOSED_STREAM,
    REFUSED_CONTENT_LENGTH,
    REFUSED_CONTINUATION_FLOOD,
    REFUSED_HEADER_BLOCK_TOO_LONG,
    REFUSED_HEADER_LIST_BEYOND_BOUNDS,
    REFUSED_MALFORMED_REQUEST,
    REFUSED_NO_STREAM_ROWS,
    REFUSED_REQUEST_FLOOD,
    REFUSED_TOO_MANY_STREAMS,
    REFUSED_TOO_MUCH_UNSENT,
    S_BODY,
    S_CONTENT_LENGTH,
    S_DEADLINE_NS,
    S_ENCODING,
    S_ROUTE,
    S_SINCE_NS,
    S_STATE,
    SOURCE_HEADERS,
    STREAM_ENDED,
    STREAM_FAILED,
    STREAM_RESET,
    STREAM_TOLD,
    STREAM_UNARY,
    TIMEOUT_MALFORMED,
    WINDOW_BYTES_MAX,
)
from serving.wire.messages import finish
from serving.wire.octets import copy
from serving.wire.streams import fail_stream, find, open_stream, reset_stream

HUNGRY, CLOSED = 0, -1
"""Instead of a count of bytes: the frame is not complete, or the connection is over."""
_NEEDED_FLAGS = FLAG_METHOD | FLAG_PATH | FLAG_SCHEME


@inlined
def breaks_content_length(wire: Wire, stream: int, ended: bool) -> bool:
    """Say whether the body is longer than its content-length, or has ended shorter."""
    row = wire.streams[stream]
    expected = row[S_CONTENT_LENGTH]
    return expected >= 0 and (row[S_BODY] > expected or (ended and row[S_BODY] < expected))


@part
def block_end(wire: Wire, slot: int, at: int, end: int, stream_id: int, block_bytes: int) -> int:
    """Find the end of the CONTINUATIONs that begin at source[at]; HUNGRY or CLOSED when there is none (yet).

    Bounds are judged by each frame's header, before its payload is waited for.
    """
    for _ in range(wire.shared[H_CONTINUATIONS_MAX]):
        if end - at < FRAME_HEADER_BYTES:
            return HUNGRY
        length = read_number(wire.source, at, 3)
        if wire.source[at + 3] != CONTINUATION or read_number(wire.source, at + 5, 4) & WINDOW_BYTES_MAX != stream_id:
            break_off(wire, slot, PROTOCOL_ERROR)
            return CLOSED
        if length > FRAME_BYTES_MAX:
            break_off(wire, slot, FRAME_SIZE_ERROR)
            return CLOSED
        block_bytes += length
        if block_bytes > wire.shared[H_HEADER_BLOCK_BYTES_MAX]:
            cut_off(wire, slot, REFUSED_HEADER_BLOCK_TOO_LONG)
            return CLOSED
        flags = wire.source[at + 4]
        if end - at - FRAME_HEADER_BYTES < length:
            return HUNGRY
        at += FRAME_HEADER_BYTES + length
        if flags & END_HEADERS:
            return at
    cut_off(wire, slot, REFUSED_CONTINUATION_FLOOD)
    return CLOSED


@part
def join(wire: Wire, to: int, at: int, end: int) -> int:
    """Move the payloads of the CONTINUATIONs in source[at:end] to source[to]; returns where the block ends.

    It moves within the bytes that are being used up, to the front only, so nothing else is touched.
    """
    while at < end:
        length = read_number(wire.source, at, 3)
        at += FRAME_HEADER_BYTES
        copy(wire.source, at, wire.source, to, length)
        to += length
        at += length
    return to


@inlined
def take_header_block(wire: Wire, slot: int, at: int, end: int, length: int, flags: int, stream_id: int) -> int:
    """Take HEADERS at source[at] and its CONTINUATIONs; returns the bytes used, HUNGRY or CLOSED."""
    begin = at + FRAME_HEADER_BYTES
    after = begin + length
    fragment_end = after
    if flags & PADDED and length > 0:
        fragment_end -= int64(wire.source[begin])
        begin += 1
    if flags & PRIORITY_FLAG:
        begin += 5
    # Too short for its padding length or its priority fields, or nothing but padding, and more of it.
    if begin > fragment_end or (flags & PADDED and length == 0) or stream_id & 1 == 0:
        break_off(wire, slot, PROTOCOL_ERROR)
        return CLOSED
    if not flags & END_HEADERS:
        unit_end = block_end(wire, slot, after, end, stream_id, fragment_end - begin)
        if unit_end <= 0:
            return unit_end
        fragment_end = join(wire, fragment_end, after, unit_end)
        after = unit_end
    records_at = wire.shared[H_HEADERS]
    records_end = decode_block(
        wire.source,
        begin,
        fragment_end,
        wire.connections,
        slot,
        wire.pool,
        wire.headers,
        records_at,
        wire.shared,
        False,
    )
    if records_end == COMPRESSION_BROKEN:
        break_off(wire, slot, COMPRESSION_ERROR)
        return CLOSED
    if records_end < 0:
        cut_off(wire, slot, REFUSED_HEADER_LIST_BEYOND_BOUNDS)
        return CLOSED
    ended = flags & END_STREAM != 0
    stream = find(wire.connections, wire.streams, slot, stream_id)
    if stream >= 0:
        open_still = take_trailers(wire, slot, stream, ended)
    elif stream_id <= wire.connections[slot, C_LAST_STREAM]:
        # A stream that is over: its block was decoded to keep the table in step.
        open_still = spend(wire, slot, REFUSED_REQUEST_FLOOD)
    else:
        open_still = take_request(wire, slot, stream_id, ended, records_end)
    return after - at if open_still else CLOSED


@part
def take_trailers(wire: Wire, slot: int, stream: int, ended: bool) -> bool:
    """Take a second header block of a stream: it ends the stream and has no pseudo-header."""
    row = wire.streams[stream]
    if row[S_STATE] & STREAM_RESET:
        return spend(wire, slot, REFUSED_REQUEST_FLOOD)
    if row[S_STATE] & STREAM_ENDED:
        reset_stream(wire, stream, STREAM_CLOSED, REFUSED_CLOSED_STREAM)
        return spend(wire, slot, REFUSED_REQUEST_FLOOD)
    broken = wire.shared[HEAD_FLAGS] & (FLAG_MALFORMED | FLAG_PSEUDO) != 0
    if not ended or broken or breaks_content_length(wire, stream, True):
        refused = REFUSED_MALFORMED_REQUEST if not ended or broken else REFUSED_CONTENT_LENGTH
        reset_stream(wire, stream, PROTOCOL_ERROR, refused)
        return spend(wire, slot, REFUSED_REQUEST_FLOOD)
    row[S_STATE] |= STREAM_ENDED
    if not row[S_STATE] & STREAM_FAILED:
        finish(wire, stream, -1)
    return True


@inlined
def take_request(wire: Wire, slot: int, stream_id: int, ended: bool, records_end: int) -> bool:
    """Take the header block that opens a stream."""
    connection = wire.connections[slot]
    connection[C_LAST_STREAM] = stream_id
    if stream_id > connection[C_LAST_ACCEPTED]:
        count(wire, REFUSED_AFTER_GOAWAY)  # the peer has not seen our GOAWAY yet; it will try elsewhere
        return True
    flags = wire.shared[HEAD_FLAGS]
    # Of a list that is too long, the end is not known, so only what was seen is judged.
    if flags & FLAG_MALFORMED or (flags & _NEEDED_FLAGS != _NEEDED_FLAGS and not flags & FLAG_LIST_TOO_LONG):
        count(wire, REFUSED_MALFORMED_REQUEST)
        write_reset(wire, stream_id, PROTOCOL_ERROR)
        return spend(wire, slot, REFUSED_REQUEST_FLOOD)
    refused = overload(wire, slot)
    if refused >= 0:
        count(wire, refused)
        write_reset(wire, stream_id, REFUSED_STREAM)
        return spend(wire, slot, REFUSED_REQUEST_FLOOD)
    stream = open_stream(wire, slot, stream_id)
    note_head(wire, stream, ended)
    if breaks_content_length(wire, stream, ended):
        reset_stream(wire, stream, PROTOCOL_ERROR, REFUSED_CONTENT_LENGTH)
        return spend(wire, slot, REFUSED_REQUEST_FLOOD)
    start(wire, stream, records_end)
    if ended and not wire.streams[stream, S_STATE] & STREAM_FAILED:
        finish(wire, stream, -1)
    return True


@inlined
def overload(wire: Wire, slot: int) -> int:
    """Say what leaves no place for one more stream: REFUSED_*, or -1."""
    if wire.connections[slot, C_STREAM_COUNT] >= wire.shared[H_STREAMS_MAX]:
        return REFUSED_TOO_MANY_STREAMS
    # A peer that does not take its answers gets no more of them.
    if wire.connections[slot, C_UNSENT] > wire.shared[H_UNSENT_BYTES_MAX]:
        return REFUSED_TOO_MUCH_UNSENT
    return REFUSED_NO_STREAM_ROWS if wire.shared[H_FREE_STREAM] < 0 else -1


@inlined
def note_head(wire: Wire, stream: int, ended: bool) -> None:
    """Keep in the stream's row what its header block said."""
    row = wire.streams[stream]
    now_ns, timeout_ns = wire.shared[H_NOW_NS], wire.shared[HEAD_TIMEOUT_NS]
    row[S_DEADLINE_NS] = NO_DEADLINE
    if 0 <= timeout_ns < NO_DEADLINE - now_ns:
        row[S_DEADLINE_NS] = now_ns + timeout_ns
    row[S_ENCODING] = wire.shared[HEAD_ENCODING]
    row[S_CONTENT_LENGTH] = wire.shared[HEAD_CONTENT_LENGTH]
    row[S_ROUTE] = wire.shared[HEAD_ROUTE]
    if ended:
        row[S_STATE] |= STREAM_ENDED


@inlined
def start(wire: Wire, stream: int, records_end: int) -> None:
    """Hand a new stream out: as a failed one, as another call, or, for ModelInfer, not before it is complete."""
    reason = head_failure(wire.shared)
    if reason >= 0:
        fail_stream(wire, stream, reason)
    elif wire.shared[HEAD_PATH] == PATH_MODEL_INFER:
        wire.streams[stream, S_STATE] |= STREAM_UNARY
    else:
        wire.streams[stream, S_STATE] |= STREAM_TOLD
        wire.streams[stream, S_SINCE_NS] = 0
        at = wire.shared[H_HEADERS]
        tell_bytes(wire, EVENT_OPENED, stream, 0, SOURCE_HEADERS, at, records_end - at, ENCODING_IDENTITY)
        wire.shared[H_HEADERS] = records_end


@inlined
def head_failure(shared: NDArray[np.int64]) -> int:
    """Say why a well-formed request is no gRPC call that can be served: FAIL_*, or -1."""
    if shared[HEAD_FLAGS] & FLAG_LIST_TOO_LONG:
        return FAIL_HEADER_LIST
    if shared[HEAD_METHOD] != METHOD_POST:
        return FAIL_METHOD
    if shared[HEAD_CONTENT_TYPE] != CONTENT_TYPE_GRPC:
        return FAIL_CONTENT_TYPE
    if shared[HEAD_TIMEOUT_NS] == TIMEOUT_MALFORMED:
        return FAIL_TIMEOUT
    return FAIL_ENCODING if shared[HEAD_ENCODING] == ENCODING_UNKNOWN else -1
