"""The two tables of HPACK: the static one as constants, the dynamic one of each connection as columns and bytes.

A connection's dynamic table is a ring of packed entries in its row and a stretch of the byte pool that is twice as
long as the table may be, so that every name and value lies in one piece: when the end is reached, what is left moves
to the front. An entry keeps what its field means, so that name and value are compared once, when it is inserted, and
an index costs no comparison. (RFC 7541, sections 2.3, 4 and appendix A.)
"""

import numpy as np
from numpy.typing import NDArray

from serving.wire.compiler import inlined, int64, part
from serving.wire.layout import (
    C_TABLE_BYTES,
    C_TABLE_COUNT,
    C_TABLE_ENTRIES,
    C_TABLE_FIRST,
    C_TABLE_LIMIT,
    C_TABLE_TAIL,
    CONTENT_TYPE_OTHER,
    METHOD_POST,
    TABLE_BYTES_MAX,
    TABLE_ENTRIES_MAX,
    TABLE_POOL_BYTES,
)
from serving.wire.octets import copy, equal

(
    KIND_OTHER,
    KIND_METHOD,
    KIND_PATH,
    KIND_SCHEME,
    KIND_AUTHORITY,
    KIND_PSEUDO_UNKNOWN,
    KIND_CONTENT_TYPE,
    KIND_TE,
    KIND_GRPC_TIMEOUT,
    KIND_GRPC_ENCODING,
    KIND_CONTENT_LENGTH,
    KIND_CONNECTION_SPECIFIC,
    KIND_ROUTE,
    KIND_INVALID,
) = range(14)
"""What a header's name means to the server."""
KIND_MASK, SENSE_SHIFT, SENSE_MASK, SENSE_BROKEN = 31, 5, 15, 16
"""A field's meaning is the kind of its name, and above it the sense of its value: a number of a few bits (such as
METHOD_*), and SENSE_BROKEN for one that makes a request malformed."""

ENTRY_OVERHEAD_BYTES = 32

_KNOWN_NAMES: list[tuple[bytes, int]] = [
    (b":method", KIND_METHOD),
    (b":path", KIND_PATH),
    (b":scheme", KIND_SCHEME),
    (b":authority", KIND_AUTHORITY),
    (b"content-type", KIND_CONTENT_TYPE),
    (b"te", KIND_TE),
    (b"grpc-timeout", KIND_GRPC_TIMEOUT),
    (b"grpc-encoding", KIND_GRPC_ENCODING),
    (b"content-length", KIND_CONTENT_LENGTH),
    (b"connection", KIND_CONNECTION_SPECIFIC),
    (b"proxy-connection", KIND_CONNECTION_SPECIFIC),
    (b"keep-alive", KIND_CONNECTION_SPECIFIC),
    (b"transfer-encoding", KIND_CONNECTION_SPECIFIC),
    (b"upgrade", KIND_CONNECTION_SPECIFIC),
    (b"penstock-route", KIND_ROUTE),
]

_STATIC_TEXT = """:authority|:method=GET|:method=POST|:path=/|:path=/index.html|:scheme=http|:scheme=https
:status=200|:status=204|:status=206|:status=304|:status=400|:status=404|:status=500
accept-charset|accept-encoding=gzip, deflate|accept-language|accept-ranges|accept|access-control-allow-origin|age
allow|authorization|cache-control|content-disposition|content-encoding|content-language|content-length
content-location|content-range|content-type|cookie|date|etag|expect|expires|from|host|if-match|if-modified-since
if-none-match|if-range|if-unmodified-since|last-modified|link|location|max-forwards|proxy-authenticate
proxy-authorization|range|referer|refresh|retry-after|server|set-cookie|strict-transport-security|transfer-encoding
user-agent|vary|via|www-authenticate"""

STATIC_FIELDS: list[tuple[bytes, bytes]] = [
    (name.encode(), value.encode())
    for name, _, value in (field.partition("=") for field in _STATIC_TEXT.replace("\n", "|").split("|"))
]
STATIC_COUNT = len(STATIC_FIELDS)


def _joined(pieces: list[bytes]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the pieces one after the other, and where each begins, the end of the last included."""
    text = np.frombuffer(b"".join(pieces), np.uint8).copy()
    return text, np.cumsum([0, *map(len, pieces)]).astype(np.int64)


_NAMES, _NAMES_AT = _joined([name for name, _ in _KNOWN_NAMES])
_NAME_KINDS = np.array([kind for _, kind in _KNOWN_NAMES], np.int64)
STATIC_TEXT, STATIC_AT = _joined([piece for field in STATIC_FIELDS for piece in field])
"""Name and value of static field i lie at STATIC_AT[2 i - 2], [2 i - 1] and end at [2 i]."""
_STATIC_SENSES = {(b":method", b"POST"): METHOD_POST, (b"content-type", b""): CONTENT_TYPE_OTHER}


def _static_entry(index: int, name: bytes, value: bytes) -> int:
    """Return what `pack` would, for a field that begins at STATIC_AT[2 * index]."""
    kind = dict(_KNOWN_NAMES).get(name, KIND_OTHER if name[:1] != b":" else KIND_PSEUDO_UNKNOWN)
    meaning = kind | _STATIC_SENSES.get((name, value), 0) << SENSE_SHIFT
    return int(STATIC_AT[2 * index]) | len(name) << 13 | len(value) << 26 | meaning << 39


STATIC_ENTRIES = np.array([_static_entry(k, *field) for k, field in enumerate(STATIC_FIELDS)], np.int64)


@part
def name_kind(text: NDArray[np.uint8], at: int, length: int) -> int:
    """Say what a name means; uppercase letters, control characters, spaces and an inner colon make it invalid."""
    for k in range(_NAME_KINDS.size):
        begin = _NAMES_AT[k]
        if _NAMES_AT[k + 1] - begin == length and equal(text, at, _NAMES, begin, length):
            return int64(_NAME_KINDS[k])
    if length == 0:
        return KIND_INVALID
    for k in range(length):
        c = text[at + k]
        if c <= 0x20 or c >= 0x7F or 0x41 <= c <= 0x5A or (c == 0x3A and k > 0):
            return KIND_INVALID
    return KIND_PSEUDO_UNKNOWN if text[at] == 0x3A else KIND_OTHER


@part
def value_is_valid(text: NDArray[np.uint8], at: int, length: int) -> bool:
    """Say whether a value is free of NUL, CR, LF and of white space at its ends (RFC 9113, section 8.2.1)."""
    if length == 0:
        return True
    for k in range(length):
        c = text[at + k]
        if c == 0 or c == 10 or c == 13:
            return False
    first, last = text[at], text[at + length - 1]
    return not (first == 32 or first == 9 or last == 32 or last == 9)


@part
def pack(offset: int, name_bytes: int, value_bytes: int, meaning: int) -> int:
    """Put an entry into one word."""
    return offset | name_bytes << 13 | value_bytes << 26 | meaning << 39


@inlined
def unpack(entry: int) -> tuple[int, int, int, int]:
    """Take (offset, name_bytes, value_bytes, meaning) out of an entry's word."""
    return entry & 8191, entry >> 13 & 8191, entry >> 26 & 8191, entry >> 39


@inlined
def entry_at(connections: NDArray[np.int64], slot: int, index: int) -> int:
    """Return the dynamic entry of a 1-based index, the newest being 1; -1 when there is none."""
    count = connections[slot, C_TABLE_COUNT]
    if not 0 < index <= count:
        return -1
    place = (connections[slot, C_TABLE_FIRST] + count - index) & (TABLE_ENTRIES_MAX - 1)
    return int64(connections[slot, C_TABLE_ENTRIES + place])


@part
def evict(connections: NDArray[np.int64], slot: int, bytes_max: int) -> None:
    """Drop the oldest entries until the table holds at most `bytes_max`."""
    row = connections[slot]
    while row[C_TABLE_BYTES] > bytes_max:
        _, name_bytes, value_bytes, _ = unpack(row[C_TABLE_ENTRIES + row[C_TABLE_FIRST]])
        row[C_TABLE_BYTES] -= name_bytes + value_bytes + ENTRY_OVERHEAD_BYTES
        row[C_TABLE_FIRST] = (row[C_TABLE_FIRST] + 1) & (TABLE_ENTRIES_MAX - 1)
        row[C_TABLE_COUNT] -= 1
    if row[C_TABLE_COUNT] == 0:
        row[C_TABLE_TAIL] = 0


@part
def move_to_front(connections: NDArray[np.int64], slot: int, pool: NDArray[np.uint8]) -> None:
    """Move what the live entries hold to the front of the connection's stretch; it may overlap its new place."""
    row = connections[slot]
    base = slot * TABLE_POOL_BYTES
    begin = row[C_TABLE_ENTRIES + row[C_TABLE_FIRST]] & 8191
    copy(pool, base + begin, pool, base, row[C_TABLE_TAIL] - begin)
    for k in range(row[C_TABLE_COUNT]):
        row[C_TABLE_ENTRIES + ((row[C_TABLE_FIRST] + k) & (TABLE_ENTRIES_MAX - 1))] -= begin
    row[C_TABLE_TAIL] -= begin


@part
def insert(
    connections: NDArray[np.int64],
    slot: int,
    pool: NDArray[np.uint8],
    text: NDArray[np.uint8],
    at: int,
    name_bytes: int,
    value_bytes: int,
    meaning: int,
) -> None:
    """Insert the field whose name and value lie in one piece at text[at].

    A field that is larger than the table empties it, and is no error.
    """
    row = connections[slot]
    field_bytes = name_bytes + value_bytes + ENTRY_OVERHEAD_BYTES
    if field_bytes > row[C_TABLE_LIMIT]:
        evict(connections, slot, 0)
        return
    evict(connections, slot, row[C_TABLE_LIMIT] - field_bytes)
    if row[C_TABLE_TAIL] + name_bytes + value_bytes > TABLE_POOL_BYTES:
        move_to_front(connections, slot, pool)
    offset = row[C_TABLE_TAIL]
    base = slot * TABLE_POOL_BYTES + offset
    copy(text, at, pool, base, name_bytes + value_bytes)
    place = (row[C_TABLE_FIRST] + row[C_TABLE_COUNT]) & (TABLE_ENTRIES_MAX - 1)
    row[C_TABLE_ENTRIES + place] = pack(offset, name_bytes, value_bytes, meaning)
    row[C_TABLE_COUNT] += 1
    row[C_TABLE_BYTES] += field_bytes
    row[C_TABLE_TAIL] += name_bytes + value_bytes


@part
def resize(connections: NDArray[np.int64], slot: int, bytes_max: int) -> bool:
    """Follow a table size update; false when it is above what the settings allow."""
    if bytes_max > TABLE_BYTES_MAX:
        return False
    connections[slot, C_TABLE_LIMIT] = bytes_max
    evict(connections, slot, bytes_max)
    return True
