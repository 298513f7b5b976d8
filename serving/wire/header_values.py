"""What the values of the headers mean that the server looks at, without a Python object. Pure; knows no table.

`note` writes into the HEAD_ columns of the shared row; a rule of RFC 9113, section 8.2 and 8.3, that is broken sets
FLAG_MALFORMED there.
"""

import numpy as np
from numpy.typing import NDArray

from serving.wire.compiler import inlined, int64, part, unsigned
from serving.wire.hpack_table import (
    KIND_AUTHORITY,
    KIND_CONNECTION_SPECIFIC,
    KIND_CONTENT_LENGTH,
    KIND_CONTENT_TYPE,
    KIND_GRPC_ENCODING,
    KIND_GRPC_TIMEOUT,
    KIND_INVALID,
    KIND_MASK,
    KIND_METHOD,
    KIND_PATH,
    KIND_PSEUDO_UNKNOWN,
    KIND_ROUTE,
    KIND_SCHEME,
    KIND_TE,
    SENSE_BROKEN,
    SENSE_MASK,
    SENSE_SHIFT,
    value_is_valid,
)
from serving.wire.layout import (
    CONTENT_TYPE_GRPC,
    CONTENT_TYPE_MISSING,
    CONTENT_TYPE_OTHER,
    ENCODING_DEFLATE,
    ENCODING_GZIP,
    ENCODING_IDENTITY,
    ENCODING_UNKNOWN,
    FLAG_AUTHORITY,
    FLAG_MALFORMED,
    FLAG_METHOD,
    FLAG_PATH,
    FLAG_PSEUDO,
    FLAG_REGULAR,
    FLAG_SCHEME,
    HEAD_CONTENT_LENGTH,
    HEAD_CONTENT_TYPE,
    HEAD_ENCODING,
    HEAD_FLAGS,
    HEAD_LIST_BYTES,
    HEAD_METHOD,
    HEAD_PATH,
    HEAD_ROUTE,
    HEAD_TIMEOUT_NS,
    METHOD_OTHER,
    METHOD_POST,
    NO_DEADLINE,
    PATH_MODEL_INFER,
    PATH_OTHER,
    TIMEOUT_MALFORMED,
    TIMEOUT_NONE,
)
from serving.wire.octets import equal, key_of


def _constant(text: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(text, np.uint8).copy()


_POST = _constant(b"POST")
MODEL_INFER = b"/inference.GRPCInferenceService/ModelInfer"
_MODEL_INFER = _constant(MODEL_INFER)
_GRPC = _constant(b"application/grpc")
_PROTO = _constant(b"+proto")
_TRAILERS = _constant(b"trailers")
_IDENTITY, _GZIP, _DEFLATE = _constant(b"identity"), _constant(b"gzip"), _constant(b"deflate")
_CONTENT_LENGTH_DIGITS_MAX = 18
_TIMEOUT_DIGITS_MAX = 8


@part
def clear(shared: NDArray[np.int64]) -> None:
    """Forget the last header block."""
    shared[HEAD_FLAGS] = 0
    shared[HEAD_METHOD] = METHOD_OTHER
    shared[HEAD_PATH] = PATH_OTHER
    shared[HEAD_CONTENT_TYPE] = CONTENT_TYPE_MISSING
    shared[HEAD_ENCODING] = ENCODING_IDENTITY
    shared[HEAD_TIMEOUT_NS] = TIMEOUT_NONE
    shared[HEAD_CONTENT_LENGTH] = -1
    shared[HEAD_LIST_BYTES] = 0
    shared[HEAD_ROUTE] = 0


@part
def is_text(text: NDArray[np.uint8], at: int, length: int, expected: NDArray[np.uint8]) -> bool:
    """Compare a value with a constant."""
    return length == expected.size and equal(text, at, expected, 0, length)


@part
def content_type(text: NDArray[np.uint8], at: int, length: int) -> int:
    """Recognise application/grpc, alone, with +proto, and with parameters after a semicolon."""
    if length < _GRPC.size or not equal(text, at, _GRPC, 0, _GRPC.size):
        return CONTENT_TYPE_OTHER
    at, length = at + _GRPC.size, length - _GRPC.size
    if length >= _PROTO.size and equal(text, at, _PROTO, 0, _PROTO.size):
        at, length = at + _PROTO.size, length - _PROTO.size
    return CONTENT_TYPE_GRPC if length == 0 or text[at] == 0x3B else CONTENT_TYPE_OTHER


@part
def encoding(text: NDArray[np.uint8], at: int, length: int) -> int:
    """Recognise the name of a message encoding."""
    if is_text(text, at, length, _IDENTITY):
        return ENCODING_IDENTITY
    if is_text(text, at, length, _GZIP):
        return ENCODING_GZIP
    return ENCODING_DEFLATE if is_text(text, at, length, _DEFLATE) else ENCODING_UNKNOWN


@part
def digits(text: NDArray[np.uint8], at: int, length: int, digits_max: int) -> int:
    """Read a decimal number of at most `digits_max` digits, at least one; -1 for anything else."""
    if not 0 < length <= digits_max:
        return -1
    number = 0
    for k in range(length):
        c = int64(text[at + k])
        if not 48 <= c <= 57:
            return -1
        number = number * 10 + (c - 48)
    return number


@part
def timeout_ns(text: NDArray[np.uint8], at: int, length: int) -> int:
    """Read a grpc-timeout; what is longer than the clock can tell saturates at NO_DEADLINE."""
    number = digits(text, at, length - 1, _TIMEOUT_DIGITS_MAX)
    if number < 0:
        return TIMEOUT_MALFORMED
    unit = text[at + length - 1]
    scale = 0
    if unit == 0x48:  # H
        scale = 3_600_000_000_000
    elif unit == 0x4D:  # M
        scale = 60_000_000_000
    elif unit == 0x53:  # S
        scale = 1_000_000_000
    elif unit == 0x6D:  # m
        scale = 1_000_000
    elif unit == 0x75:  # u
        scale = 1_000
    elif unit == 0x6E:  # n
        scale = 1
    else:
        return TIMEOUT_MALFORMED
    return NO_DEADLINE if number > NO_DEADLINE // scale else number * scale


@part
def sense_of(kind: int, text: NDArray[np.uint8], at: int, length: int) -> int:
    """Say what a value means under a name of this kind, as an entry keeps it; numbers are read at each use."""
    sense = 0
    if kind == KIND_METHOD:
        sense = METHOD_POST if is_text(text, at, length, _POST) else METHOD_OTHER
    elif kind == KIND_PATH:
        sense = PATH_MODEL_INFER if is_text(text, at, length, _MODEL_INFER) else PATH_OTHER
        if length == 0:
            sense |= SENSE_BROKEN
    elif kind == KIND_CONTENT_TYPE:
        sense = content_type(text, at, length)
    elif kind == KIND_TE:
        sense = 0 if is_text(text, at, length, _TRAILERS) else SENSE_BROKEN
    elif kind == KIND_GRPC_ENCODING:
        sense = encoding(text, at, length)
    return sense if value_is_valid(text, at, length) else sense | SENSE_BROKEN


def _per_kind(default: int, numbers: dict[int, int]) -> NDArray[np.int64]:
    return np.array([numbers.get(kind, default) for kind in range(KIND_INVALID + 1)], np.int64)


_SETS = _per_kind(
    FLAG_REGULAR,
    {
        KIND_METHOD: FLAG_PSEUDO | FLAG_METHOD,
        KIND_PATH: FLAG_PSEUDO | FLAG_PATH,
        KIND_SCHEME: FLAG_PSEUDO | FLAG_SCHEME,
        KIND_AUTHORITY: FLAG_PSEUDO | FLAG_AUTHORITY,
        KIND_PSEUDO_UNKNOWN: FLAG_PSEUDO | FLAG_MALFORMED,
        KIND_CONNECTION_SPECIFIC: FLAG_REGULAR | FLAG_MALFORMED,
        KIND_INVALID: FLAG_REGULAR | FLAG_MALFORMED,
    },
)
"""What a field of each kind sets in HEAD_FLAGS."""
_FORBIDS = _per_kind(
    0,
    {
        KIND_METHOD: FLAG_METHOD | FLAG_REGULAR,
        KIND_PATH: FLAG_PATH | FLAG_REGULAR,
        KIND_SCHEME: FLAG_SCHEME | FLAG_REGULAR,
        KIND_AUTHORITY: FLAG_AUTHORITY | FLAG_REGULAR,
    },
)
"""What must not be set before it: a pseudo-header comes once, before every other field."""
_COLUMNS = _per_kind(
    0,
    {
        KIND_METHOD: HEAD_METHOD,
        KIND_PATH: HEAD_PATH,
        KIND_CONTENT_TYPE: HEAD_CONTENT_TYPE,
        KIND_GRPC_ENCODING: HEAD_ENCODING,
    },
)
"""Where the sense of its value goes; 0 for nowhere."""


@inlined
def note(meaning: int, text: NDArray[np.uint8], at: int, length: int, shared: NDArray[np.int64]) -> None:
    """Note a field of a header list, whose value lies at text[at:at + length]."""
    kind, sense = unsigned(meaning & KIND_MASK), meaning >> SENSE_SHIFT
    flags = shared[HEAD_FLAGS]
    broken = flags & _FORBIDS[kind] or sense & SENSE_BROKEN
    shared[HEAD_FLAGS] = flags | _SETS[kind] | (FLAG_MALFORMED if broken else 0)
    column = _COLUMNS[kind]
    if column:
        shared[column] = sense & SENSE_MASK
    elif kind == KIND_GRPC_TIMEOUT:
        shared[HEAD_TIMEOUT_NS] = timeout_ns(text, at, length)
    elif kind == KIND_CONTENT_LENGTH:
        note_content_length(text, at, length, shared)
    elif kind == KIND_ROUTE:
        shared[HEAD_ROUTE] = key_of(text, at, at + length)


@part
def note_content_length(text: NDArray[np.uint8], at: int, length: int, shared: NDArray[np.int64]) -> None:
    """Note a content-length; one that is no number, or differs from another one, is malformed."""
    number = digits(text, at, length, _CONTENT_LENGTH_DIGITS_MAX)
    if number < 0 or (shared[HEAD_CONTENT_LENGTH] != -1 and shared[HEAD_CONTENT_LENGTH] != number):
        shared[HEAD_FLAGS] |= FLAG_MALFORMED
    shared[HEAD_CONTENT_LENGTH] = number
