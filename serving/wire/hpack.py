"""Header blocks: decoding a complete one against a connection's table, and the few fields that answers are made of.

A block decodes to records in the header output (name length and value length as 4 bytes each, little-endian, then
both texts), and what the server itself must know is noted in the HEAD_ columns of the shared row, so that a request
on the fast path needs no Python object. A list over the limit is decoded to its end without keeping it, to stay in
step with the peer's table. Encoding uses static and literal fields only: our table size is 0 from the first block on,
so encoding has no state. (RFC 7541.)
"""

import numpy as np
from numpy.typing import NDArray

from serving.wire.compiler import int64, kernel, part
from serving.wire.header_values import clear, note
from serving.wire.hpack_table import (
    ENTRY_OVERHEAD_BYTES,
    STATIC_AT,
    STATIC_COUNT,
    STATIC_FIELDS,
    STATIC_KINDS,
    STATIC_TEXT,
    entry_at,
    insert,
    name_kind,
    resize,
    unpack,
    value_is_valid,
)
from serving.wire.huffman import huffman_decode
from serving.wire.layout import (
    FLAG_LIST_TOO_LONG,
    H_LIST_BYTES_HARD,
    H_LIST_BYTES_MAX,
    HEAD_FLAGS,
    HEAD_LIST_BYTES,
    TABLE_BYTES_MAX,
    TABLE_POOL_BYTES,
)
from serving.wire.octets import copy

COMPRESSION_BROKEN = -1
LIST_BEYOND_BOUNDS = -2
RECORD_BYTES = 8
"""The two lengths before the texts of a header record."""
OUTPUT_SLACK_BYTES = TABLE_BYTES_MAX + RECORD_BYTES
"""What the header output needs beside a full list: room for the field that is being decoded."""
_INTEGER_MAX = 1 << 28
_SIZE_UPDATES_MAX = 2


@part
def integer(source: NDArray[np.uint8], at: int, end: int, prefix_bits: int) -> tuple[int, int]:
    """Read an integer (section 5.1); returns (number, where it ends), the number -1 when cut off or above 2^28."""
    mask = (1 << prefix_bits) - 1
    number = int64(source[at]) & mask
    at += 1
    if number < mask:
        return number, at
    shift = 0
    while at < end and shift <= 28:
        c = int64(source[at])
        at += 1
        number += (c & 127) << shift
        shift += 7
        if c < 128:
            return (number if number <= _INTEGER_MAX else -1), at
    return -1, at


@part
def string(
    source: NDArray[np.uint8], at: int, end: int, out: NDArray[np.uint8], out_at: int, out_end: int
) -> tuple[int, int]:
    """Read a string to out[out_at:out_end]; returns (decoded length, where it ends), the length -1 when malformed.

    What does not fit into the output is counted and not stored.
    """
    if at >= end:
        return -1, at
    compressed = source[at] >= 128
    length, at = integer(source, at, end, 7)
    if not 0 <= length <= end - at:
        return -1, at
    if compressed:
        return huffman_decode(source, at, at + length, out, out_at, out_end), at + length
    copy(source, at, out, out_at, min(length, out_end - out_at))
    return length, at + length


@part
def copy_static(index: int, whole: bool, out: NDArray[np.uint8], out_at: int) -> tuple[int, int, int, bool]:
    """Copy a static field, or its name alone; returns (name length, value length, kind, whether the value is valid)."""
    begin, middle, end = STATIC_AT[2 * index - 2], STATIC_AT[2 * index - 1], STATIC_AT[2 * index]
    copy(STATIC_TEXT, begin, out, out_at, (end if whole else middle) - begin)
    return middle - begin, (end - middle if whole else 0), STATIC_KINDS[index - 1], True


@part
def copy_indexed(
    index: int,
    whole: bool,
    connections: NDArray[np.int64],
    slot: int,
    pool: NDArray[np.uint8],
    out: NDArray[np.uint8],
    out_at: int,
) -> tuple[int, int, int, bool]:
    """Copy what an index stands for, as `copy_static` does; the name's length is -1 when it stands for nothing."""
    if index <= 0:
        return -1, 0, 0, False
    if index <= STATIC_COUNT:
        return copy_static(index, whole, out, out_at)
    entry = entry_at(connections, slot, index - STATIC_COUNT)
    if entry < 0:
        return -1, 0, 0, False
    offset, name_bytes, value_bytes, kind, valid = unpack(entry)
    base = slot * TABLE_POOL_BYTES + offset
    copy(pool, base, out, out_at, name_bytes + value_bytes if whole else name_bytes)
    return name_bytes, (value_bytes if whole else 0), kind, valid


@part
def literal(
    source: NDArray[np.uint8],
    at: int,
    end: int,
    connections: NDArray[np.int64],
    slot: int,
    pool: NDArray[np.uint8],
    out: NDArray[np.uint8],
    out_at: int,
    out_end: int,
) -> tuple[int, int, int, bool, int]:
    """Read a literal field to out[out_at:out_end] and insert it where it says so.

    Returns (name length, value length, kind, whether the value is valid, where the field ends); the name's length is
    -1 when the field is malformed.
    """
    indexed = source[at] & 0x40
    index, at = integer(source, at, end, 6 if indexed else 4)
    if index < 0:
        return -1, 0, 0, False, at
    kind = -1
    if index > 0:
        name_bytes, _, kind, _ = copy_indexed(index, False, connections, slot, pool, out, out_at)
    else:
        name_bytes, at = string(source, at, end, out, out_at, out_end)
    if name_bytes < 0:
        return -1, 0, 0, False, at
    value_bytes, at = string(source, at, end, out, min(out_at + name_bytes, out_end), out_end)
    if value_bytes < 0:
        return -1, 0, 0, False, at
    stored = name_bytes + value_bytes <= out_end - out_at
    valid = False
    if stored:
        kind = kind if kind >= 0 else name_kind(out, out_at, name_bytes)
        valid = value_is_valid(out, out_at + name_bytes, value_bytes)
    if indexed:
        # A field that was not stored is larger than any table, so inserting it reads none of its bytes.
        insert(connections, slot, pool, out, out_at, name_bytes, value_bytes, kind * 2 + int64(valid))
    return name_bytes, value_bytes, kind, valid, at


@part
def write_lengths(out: NDArray[np.uint8], at: int, name_bytes: int, value_bytes: int) -> None:
    """Write the two lengths of a record."""
    for k in range(4):
        out[at + k] = name_bytes >> (8 * k) & 255
        out[at + 4 + k] = value_bytes >> (8 * k) & 255


@part
def keep(
    name_bytes: int,
    value_bytes: int,
    kind: int,
    valid: bool,
    out: NDArray[np.uint8],
    out_at: int,
    shared: NDArray[np.int64],
) -> int:
    """Count a field whose texts lie at out[out_at + RECORD_BYTES]; keep and note it while the list is short enough."""
    shared[HEAD_LIST_BYTES] += name_bytes + value_bytes + ENTRY_OVERHEAD_BYTES
    if shared[HEAD_LIST_BYTES] > shared[H_LIST_BYTES_MAX]:
        shared[HEAD_FLAGS] |= FLAG_LIST_TOO_LONG
        return out_at
    write_lengths(out, out_at, name_bytes, value_bytes)
    texts = out_at + RECORD_BYTES
    note(kind, valid, out, texts + name_bytes, value_bytes, shared)
    return texts + name_bytes + value_bytes


@part
def decode_block(
    source: NDArray[np.uint8],
    at: int,
    end: int,
    connections: NDArray[np.int64],
    slot: int,
    pool: NDArray[np.uint8],
    out: NDArray[np.uint8],
    out_at: int,
    shared: NDArray[np.int64],
) -> int:
    """Decode the header block source[at:end] to records at out[out_at]; returns where they end, or what broke.

    The caller leaves room for a full list and OUTPUT_SLACK_BYTES at out[out_at]. COMPRESSION_BROKEN and
    LIST_BEYOND_BOUNDS end the connection.
    """
    clear(shared)
    out_end = out_at + shared[H_LIST_BYTES_MAX] + OUTPUT_SLACK_BYTES
    updates = 0
    fields = 0
    while at < end:
        first = source[at]
        if first & 0xE0 == 0x20:
            number, at = integer(source, at, end, 5)
            updates += 1
            # Updates come before the first field (section 4.2), at most two of them.
            if fields > 0 or updates > _SIZE_UPDATES_MAX or number < 0 or not resize(connections, slot, number):
                return COMPRESSION_BROKEN
            continue
        fields += 1
        if first & 0x80:
            index, at = integer(source, at, end, 7)
            name_bytes, value_bytes, kind, valid = copy_indexed(
                index, True, connections, slot, pool, out, out_at + RECORD_BYTES
            )
        else:
            name_bytes, value_bytes, kind, valid, at = literal(
                source, at, end, connections, slot, pool, out, out_at + RECORD_BYTES, out_end
            )
        if name_bytes < 0:
            return COMPRESSION_BROKEN
        out_at = keep(name_bytes, value_bytes, kind, valid, out, out_at, shared)
        if shared[HEAD_LIST_BYTES] > shared[H_LIST_BYTES_HARD]:
            return LIST_BEYOND_BOUNDS
    return out_at


@kernel("int64(uint8[::1], int64, int64, int64[:, ::1], int64, uint8[::1], uint8[::1], int64[::1])")
def decode_headers(
    source: NDArray[np.uint8],
    at: int,
    end: int,
    connections: NDArray[np.int64],
    slot: int,
    pool: NDArray[np.uint8],
    out: NDArray[np.uint8],
    shared: NDArray[np.int64],
) -> int:
    """Decode one header block by itself, as a client of this server or a test wants it; see `decode_block`."""
    room = shared[H_LIST_BYTES_MAX] + OUTPUT_SLACK_BYTES
    assert 0 <= at <= end <= source.size, "bug: the block lies outside of its buffer"
    assert 0 <= slot < connections.shape[0], "bug: no such connection"
    assert out.size >= room, "bug: the header output has no room for a list"
    return decode_block(source, at, end, connections, slot, pool, out, 0, shared)


def encode_field(name: bytes, value: bytes) -> bytes:
    """Encode one field as a static one, or as a literal that is not indexed."""
    if (name, value) in STATIC_FIELDS:
        return bytes([0x80 | STATIC_FIELDS.index((name, value)) + 1])
    names = [static_name for static_name, _ in STATIC_FIELDS]
    if name in names:
        return _encode_integer(names.index(name) + 1, 4) + _encode_string(value)
    return b"\x00" + _encode_string(name) + _encode_string(value)


def _encode_integer(number: int, prefix_bits: int) -> bytes:
    mask = (1 << prefix_bits) - 1
    if number < mask:
        return bytes([number])
    encoded = bytearray([mask])
    number -= mask
    while number >= 128:
        encoded.append(number & 127 | 128)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def _encode_string(text: bytes) -> bytes:
    return _encode_integer(len(text), 7) + text


TABLE_SIZE_ZERO = b"\x20"
"""Begins the first header block of every connection: our encoder uses no table, under every limit a peer may set."""
