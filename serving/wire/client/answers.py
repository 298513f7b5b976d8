"""Answers: header blocks with the status of a call, DATA with its message, resets.

A block is decoded whatever becomes of its stream, so that the server's table and ours stay in step. How a call ends
without a grpc-status follows gRPC's own tables (HTTP status codes, and error codes of RST_STREAM, to status codes in
"gRPC over HTTP2"), so that every client counts the same. (RFC 9113, sections 4.3, 6.1, 6.2, 6.4, 6.10 and 8.)
"""

import numpy as np
from numpy.typing import NDArray

from serving.wire.client.calls import end, find, is_idle
from serving.wire.client.control import NONE, give_back
from serving.wire.client.layout import (
    BREACH_COMPRESSION,
    BREACH_FLOW_CONTROL,
    BREACH_FRAME_SIZE,
    BREACH_FRAME_TOO_LONG,
    BREACH_HEADER_BLOCK,
    BREACH_ORDER,
    CALL_HEADED,
    CODES,
    K_RECEIVED,
    Q_BODY,
    Q_FLAGS,
    Q_GRPC,
    Q_HTTP,
    Q_PREFIX,
    RECEIVE_WINDOW_BYTES,
    Client,
)
from serving.wire.client.tally import (
    CANCELLED,
    INTERNAL,
    OK,
    PERMISSION_DENIED,
    RESOURCE_EXHAUSTED,
    UNAUTHENTICATED,
    UNAVAILABLE,
    UNIMPLEMENTED,
    UNKNOWN,
)
from serving.wire.compiler import inlined, int64, part
from serving.wire.frames import (
    CONTINUATION,
    END_HEADERS,
    END_STREAM,
    FRAME_HEADER_BYTES,
    PADDED,
    PRIORITY_FLAG,
    read_number,
)
from serving.wire.header_values import digits
from serving.wire.hpack import COMPRESSION_BROKEN, RECORD_BYTES, decode_block
from serving.wire.layout import (
    C_RECEIVE_WINDOW,
    FLAG_LIST_TOO_LONG,
    FRAME_BYTES_MAX,
    H_CONTINUATIONS_MAX,
    H_HEADER_BLOCK_BYTES_MAX,
    HEAD_FLAGS,
    PREFIX_BYTES,
    WINDOW_BYTES_MAX,
)
from serving.wire.octets import copy, equal

HUNGRY, BROKEN = 0, -1
"""Instead of a count of bytes: the block is not complete; the second value names the breach."""
_STATUS = np.frombuffer(b":status", np.uint8).copy()
_GRPC_STATUS = np.frombuffer(b"grpc-status", np.uint8).copy()


@part
def code_of_http(status: int) -> int:
    """Return the code of an answer without a grpc-status."""
    if status == 400:
        return INTERNAL
    if status == 401:
        return UNAUTHENTICATED
    if status == 403:
        return PERMISSION_DENIED
    if status == 404:
        return UNIMPLEMENTED
    if status == 429 or status == 502 or status == 503 or status == 504:
        return UNAVAILABLE
    return UNKNOWN


@part
def code_of_reset(code: int) -> int:
    """Return the code of a call that ended by RST_STREAM."""
    if code == 7:  # REFUSED_STREAM
        return UNAVAILABLE
    if code == 8:  # CANCEL
        return CANCELLED
    if code == 11:  # ENHANCE_YOUR_CALM
        return RESOURCE_EXHAUSTED
    if code == 12:  # INADEQUATE_SECURITY
        return PERMISSION_DENIED
    return INTERNAL


@inlined
def code_of_end(call: NDArray[np.int64]) -> int:
    """Return the code of a call whose stream has ended; OK needs one whole message."""
    code = call[Q_GRPC]
    if code < 0:
        return code_of_http(call[Q_HTTP])
    if code == OK and not is_whole(call):
        return INTERNAL
    return int64(code)


@inlined
def is_whole(call: NDArray[np.int64]) -> bool:
    """Say whether the body is one message: a flag of a known value, its length, and as many bytes."""
    has_prefix = call[Q_BODY] >= PREFIX_BYTES and call[Q_PREFIX] >> 33 == 0
    return has_prefix and int64(call[Q_BODY]) == PREFIX_BYTES + (int64(call[Q_PREFIX]) & 0xFFFFFFFF)


@part
def block_end(client: Client, at: int, end_at: int, stream_id: int, block_bytes: int) -> tuple[int, int]:
    """Find the end of the CONTINUATIONs that begin at source[at]; see `take_headers` for what it returns.

    Bounds are judged by each frame's header, before its payload is waited for.
    """
    for _ in range(client.shared[H_CONTINUATIONS_MAX]):
        if end_at - at < FRAME_HEADER_BYTES:
            return HUNGRY, NONE
        length = read_number(client.source, at, 3)
        owner = read_number(client.source, at + 5, 4) & WINDOW_BYTES_MAX
        if client.source[at + 3] != CONTINUATION or owner != stream_id:
            return BROKEN, BREACH_ORDER
        if length > FRAME_BYTES_MAX:
            return BROKEN, BREACH_FRAME_TOO_LONG
        block_bytes += length
        if block_bytes > client.shared[H_HEADER_BLOCK_BYTES_MAX]:
            return BROKEN, BREACH_HEADER_BLOCK
        flags = client.source[at + 4]
        if end_at - at - FRAME_HEADER_BYTES < length:
            return HUNGRY, NONE
        at += FRAME_HEADER_BYTES + length
        if flags & END_HEADERS:
            return at, NONE
    return BROKEN, BREACH_HEADER_BLOCK


@part
def join(client: Client, to: int, at: int, end_at: int) -> int:
    """Move the payloads of the CONTINUATIONs in source[at:end_at] to source[to]; returns where the block ends."""
    while at < end_at:
        length = read_number(client.source, at, 3)
        at += FRAME_HEADER_BYTES
        copy(client.source, at, client.source, to, length)
        to += length
        at += length
    return to


@inlined
def read_records(client: Client, records_end: int) -> tuple[int, int]:
    """Read the :status (0 when there is none) and the grpc-status (-1) out of a block's records."""
    http, grpc, at = 0, -1, 0
    out = client.headers
    while at < records_end:
        name_bytes = value_bytes = 0
        for k in range(4):
            name_bytes |= int64(out[at + k]) << (8 * k)
            value_bytes |= int64(out[at + 4 + k]) << (8 * k)
        name_at = at + RECORD_BYTES
        value_at = name_at + name_bytes
        at = value_at + value_bytes
        if name_bytes == _STATUS.size and equal(out, name_at, _STATUS, 0, name_bytes):
            http = max(digits(out, value_at, value_bytes, 3), 0)
        elif name_bytes == _GRPC_STATUS.size and equal(out, name_at, _GRPC_STATUS, 0, name_bytes):
            grpc = digits(out, value_at, value_bytes, 9)
            grpc = grpc if 0 <= grpc < CODES else UNKNOWN
    return http, grpc


@inlined
def take_block(client: Client, slot: int, stream_id: int, records_end: int, ended: bool, now_ns: int) -> int:
    """Take what a decoded block says of its call; returns a breach or NONE."""
    row = find(client.connections, client.calls, slot, stream_id)
    if row < 0:
        return NONE
    call = client.calls[row]
    http, grpc = read_records(client, records_end)
    if client.shared[HEAD_FLAGS] & FLAG_LIST_TOO_LONG:
        grpc = RESOURCE_EXHAUSTED
    elif not call[Q_FLAGS] & CALL_HEADED:
        if http < 100 or (http < 200 and ended):
            return BREACH_ORDER
        if http < 200:
            return NONE  # an interim answer
        call[Q_HTTP] = http
        call[Q_FLAGS] |= CALL_HEADED
    elif not ended:
        return BREACH_ORDER  # trailers end a stream
    if ended or client.shared[HEAD_FLAGS] & FLAG_LIST_TOO_LONG:
        call[Q_GRPC] = grpc
        end(client, slot, row, code_of_end(call), now_ns)
    return NONE


@inlined
def take_headers(
    client: Client, slot: int, at: int, end_at: int, length: int, flags: int, stream_id: int, now_ns: int
) -> tuple[int, int]:
    """Take HEADERS at source[at] and its CONTINUATIONs; returns (bytes used, HUNGRY or BROKEN; a breach or NONE)."""
    begin = at + FRAME_HEADER_BYTES
    after = begin + length
    fragment_end = after
    if flags & PADDED and length > 0:
        fragment_end -= int64(client.source[begin])
        begin += 1
    if flags & PRIORITY_FLAG:
        begin += 5
    if begin > fragment_end or (flags & PADDED and length == 0) or is_idle(client.connections, slot, stream_id):
        return BROKEN, BREACH_ORDER
    if not flags & END_HEADERS:
        unit_end, breach = block_end(client, after, end_at, stream_id, fragment_end - begin)
        if unit_end <= 0:
            return unit_end, breach
        fragment_end = join(client, fragment_end, after, unit_end)
        after = unit_end
    records_end = decode_block(
        client.source, begin, fragment_end, client.connections, slot, client.pool, client.headers, 0, client.shared,
        True,
    )  # fmt: skip
    if records_end < 0:
        return BROKEN, BREACH_COMPRESSION if records_end == COMPRESSION_BROKEN else BREACH_HEADER_BLOCK
    return after - at, take_block(client, slot, stream_id, records_end, flags & END_STREAM != 0, now_ns)


@inlined
def take_data(client: Client, slot: int, at: int, length: int, flags: int, stream_id: int, now_ns: int) -> int:
    """Take DATA: of the message, its 5 first bytes are kept and the rest is counted; returns a breach or NONE."""
    if is_idle(client.connections, slot, stream_id):
        return BREACH_ORDER
    connection = client.connections[slot]
    connection[C_RECEIVE_WINDOW] -= length
    connection[K_RECEIVED] += length
    if connection[C_RECEIVE_WINDOW] < 0:
        return BREACH_FLOW_CONTROL
    give_back(client, slot)
    end_at = at + length
    if flags & PADDED:
        if length == 0 or client.source[at] >= length:
            return BREACH_ORDER
        end_at -= int64(client.source[at])
        at += 1
    row = find(client.connections, client.calls, slot, stream_id)
    if row < 0:
        return NONE
    call = client.calls[row]
    if not call[Q_FLAGS] & CALL_HEADED:
        return BREACH_ORDER
    while at < end_at and call[Q_BODY] < PREFIX_BYTES:
        call[Q_PREFIX] = call[Q_PREFIX] << 8 | int64(client.source[at])
        call[Q_BODY] += 1
        at += 1
    call[Q_BODY] += end_at - at
    if call[Q_BODY] > RECEIVE_WINDOW_BYTES:
        return BREACH_FLOW_CONTROL
    if flags & END_STREAM:
        end(client, slot, row, code_of_end(call), now_ns)
    return NONE


@part
def take_reset(client: Client, slot: int, at: int, length: int, stream_id: int, now_ns: int) -> int:
    """Take RST_STREAM; returns a breach or NONE."""
    if length != 4:
        return BREACH_FRAME_SIZE
    if is_idle(client.connections, slot, stream_id):
        return BREACH_ORDER
    row = find(client.connections, client.calls, slot, stream_id)
    if row >= 0:
        end(client, slot, row, code_of_reset(read_number(client.source, at, 4)), now_ns)
    return NONE
