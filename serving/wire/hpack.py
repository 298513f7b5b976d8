"""Header blocks: decoding a complete one against a connection's table, and the few fields that answers are made of.

A block decodes to records in the header output (name length and value length as 4 bytes each, little-endian, then
both texts), and what the server itself must know is noted in the HEAD_ columns of the shared row, so that a ModelInfer
needs no Python object, and no records behind its path. A list over the limit is decoded to its end without keeping it,
to stay in step with the peer's table. Encoding uses static and literal fields only: our table size is 0 from the first
block on, so encoding has no state. (RFC 7541.)
"""

import numpy as np
from numpy.typing import NDArray

from serving.wire.compiler import inlined, int64, part
from serving.wire.header_values import MODEL_INFER, clear, note, sense_of
from serving.wire.hpack_table import (
    ENTRY_OVERHEAD_BYTES,
    KIND_MASK,
    KIND_PATH,
    SENSE_SHIFT,
    STATIC_COUNT,
    STATIC_ENTRIES,
    STATIC_FIELDS,
    STATIC_TEXT,
    entry_at,
    insert,
    name_kind,
    resize,
    unpack,
)
from serving.wire.huffman import huffman_decode, huffman_encode
from serving.wire.layout import (
    FLAG_LIST_TOO_LONG,
    H_LIST_BYTES_HARD,
    H_LIST_BYTES_MAX,
    HEAD_FLAGS,
    HEAD_LIST_BYTES,
    HEAD_PATH,
    PATH_MODEL_INFER,
    TABLE_BYTES_MAX,
    TABLE_POOL_BYTES,
)
from serving.wire.octets import copy, equal

COMPRESSION_BROKEN = -1
LIST_BEYOND_BOUNDS = -2
RECORD_BYTES = 8
"""The two lengths before the texts of a header record."""
OUTPUT_SLACK_BYTES = TABLE_BYTES_MAX + RECORD_BYTES
"""What the header output needs beside a full list: room for the field that is being decoded."""
_CODED_PATH = np.frombuffer(b"\x04\x9f" + huffman_encode(MODEL_INFER), np.uint8).copy()
"""The path of a ModelInfer as nghttp2 sends it with every request: the static name, a coded value, never indexed. As
every text has one coded form, whoever compares the 31 bytes of the value has compared the text."""
_PATH_NAME_BYTES = len(b":path")
_INTEGER_MAX = 1 << 28
_SIZE_UPDATES_MAX = 2


@inlined
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


@inlined
def counts(name_bytes: int, value_bytes: int, shared: NDArray[np.int64]) -> bool:
    """Count a field; false when the list is too long by now, and the field is to be forgotten."""
    shared[HEAD_LIST_BYTES] += name_bytes + value_bytes + ENTRY_OVERHEAD_BYTES
    if shared[HEAD_LIST_BYTES] <= shared[H_LIST_BYTES_MAX]:
        return True
    shared[HEAD_FLAGS] |= FLAG_LIST_TOO_LONG
    return False


@part
def write_lengths(out: NDArray[np.uint8], at: int, name_bytes: int, value_bytes: int) -> None:
    """Write the two lengths of a record."""
    for k in range(4):
        out[at + k] = name_bytes >> (8 * k) & 255
        out[at + 4 + k] = value_bytes >> (8 * k) & 255


@inlined
def take_entry(
    entry: int, text: NDArray[np.uint8], base: int, keeps: bool, out: NDArray[np.uint8], out_at: int,
    shared: NDArray[np.int64],
) -> int:  # fmt: skip
    """Take the field of a table's entry, whose texts count from text[base]; returns where its record ends."""
    offset, name_bytes, value_bytes, meaning = unpack(entry)
    if not counts(name_bytes, value_bytes, shared):
        return out_at
    at = base + offset
    note(meaning, text, at + name_bytes, value_bytes, shared)
    if not keeps:
        return out_at
    write_lengths(out, out_at, name_bytes, value_bytes)
    copy(text, at, out, out_at + RECORD_BYTES, name_bytes + value_bytes)
    return out_at + RECORD_BYTES + name_bytes + value_bytes


@part
def copy_name(
    index: int, connections: NDArray[np.int64], slot: int, pool: NDArray[np.uint8], out: NDArray[np.uint8], out_at: int
) -> tuple[int, int]:
    """Copy the name that an index stands for; returns (its length, its kind), the length -1 when there is none."""
    if index <= STATIC_COUNT:
        offset, name_bytes, _, meaning = unpack(STATIC_ENTRIES[index - 1])
        copy(STATIC_TEXT, offset, out, out_at, name_bytes)
        return name_bytes, meaning & KIND_MASK
    entry = entry_at(connections, slot, index - STATIC_COUNT)
    if entry < 0:
        return -1, 0
    offset, name_bytes, _, meaning = unpack(entry)
    copy(pool, slot * TABLE_POOL_BYTES + offset, out, out_at, name_bytes)
    return name_bytes, meaning & KIND_MASK


@part
def take_literal(
    source: NDArray[np.uint8],
    at: int,
    end: int,
    connections: NDArray[np.int64],
    slot: int,
    pool: NDArray[np.uint8],
    keeps: bool,
    out: NDArray[np.uint8],
    out_at: int,
    out_end: int,
    shared: NDArray[np.int64],
) -> tuple[int, int]:
    """Take a literal field, and insert it where it says so; its record needs out[out_at:out_end].

    Returns (where the field ends, where its record ends), the first -1 when the field is malformed.
    """
    texts = out_at + RECORD_BYTES
    inserts = source[at] & 0x40
    index, at = integer(source, at, end, 6 if inserts else 4)
    kind = -1
    if index > 0:
        name_bytes, kind = copy_name(index, connections, slot, pool, out, texts)
    elif index == 0:
        name_bytes, at = string(source, at, end, out, texts, out_end)
    else:
        name_bytes = -1
    if name_bytes < 0:
        return -1, out_at
    value_at = min(texts + name_bytes, out_end)
    value_bytes, at = string(source, at, end, out, value_at, out_end)
    if value_bytes < 0:
        return -1, out_at
    meaning = 0
    if name_bytes + value_bytes <= out_end - texts:
        kind = kind if kind >= 0 else name_kind(out, texts, name_bytes)
        meaning = kind | sense_of(kind, out, value_at, value_bytes) << SENSE_SHIFT
    if inserts:
        # A field that has no room here is larger than any table, so inserting it reads none of its bytes.
        insert(connections, slot, pool, out, texts, name_bytes, value_bytes, meaning)
    if counts(name_bytes, value_bytes, shared):
        note(meaning, out, value_at, value_bytes, shared)
        if keeps:
            write_lengths(out, out_at, name_bytes, value_bytes)
            out_at = value_at + value_bytes
    return at, out_at


@inlined
def take_indexed(
    index: int, connections: NDArray[np.int64], slot: int, pool: NDArray[np.uint8], keeps: bool,
    out: NDArray[np.uint8], out_at: int, shared: NDArray[np.int64],
) -> int:  # fmt: skip
    """Take the field that an index stands for; returns where its record ends, COMPRESSION_BROKEN when there is none."""
    if 0 < index <= STATIC_COUNT:
        return take_entry(STATIC_ENTRIES[index - 1], STATIC_TEXT, 0, keeps, out, out_at, shared)
    entry = entry_at(connections, slot, index - STATIC_COUNT)
    if index <= 0 or entry < 0:
        return COMPRESSION_BROKEN
    return take_entry(entry, pool, slot * TABLE_POOL_BYTES, keeps, out, out_at, shared)


@inlined
def is_coded_path(source: NDArray[np.uint8], at: int, end: int) -> bool:
    """Say whether _CODED_PATH lies at source[at]."""
    return end - at >= _CODED_PATH.size and equal(source, at, _CODED_PATH, 0, _CODED_PATH.size)


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
    keeps_all: bool,
) -> int:
    """Decode source[at:end]; the records go to `out` from `out_at` on, what they mean to the HEAD_ columns.

    Records of a ModelInfer end at its path, because nobody reads them, unless the caller `keeps_all`. Returns where the
    records end, COMPRESSION_BROKEN, or LIST_BEYOND_BOUNDS. `out` must have room for the list limit and
    OUTPUT_SLACK_BYTES.
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
        keeps = keeps_all or shared[HEAD_PATH] != PATH_MODEL_INFER
        if first & 0x80:
            index, at = integer(source, at, end, 7)
            out_at = take_indexed(index, connections, slot, pool, keeps, out, out_at, shared)
        elif not keeps_all and is_coded_path(source, at, end):
            at += _CODED_PATH.size
            if counts(_PATH_NAME_BYTES, len(MODEL_INFER), shared):
                note(KIND_PATH | PATH_MODEL_INFER << SENSE_SHIFT, source, at, 0, shared)
        else:
            at, out_at = take_literal(source, at, end, connections, slot, pool, keeps, out, out_at, out_end, shared)
        if at < 0 or out_at < 0:
            return COMPRESSION_BROKEN
        if shared[HEAD_LIST_BYTES] > shared[H_LIST_BYTES_HARD]:
            return LIST_BEYOND_BOUNDS
    return out_at


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
