"""The wire format of protobuf, as pieces of kernels: varints, fields with a length, and UTF-8.

Source: the protobuf encoding specification. Every reader takes (buffer, at, end), touches nothing outside [at, end),
and answers with -1 as the next position when it refuses. It knows no message; unknown fields are not skipped here,
because a kernel that meets one declines the whole message.
"""

import numpy as np
from numpy.typing import NDArray

from serving.wire.compiler import int64, part, unsigned
from serving.wire.octets import copy

VARINT_BYTES_MAX = 10
LENGTH_BYTES_MAX = 5
"""Protobuf's own parser refuses a length of more bytes, even one padded with zeros."""
MESSAGE_BYTES_MAX = 2**31 - 1
"""Protobuf neither reads nor writes a longer message."""

WIRE_VARINT, WIRE_LENGTH = 0, 2


def key(number: int, wire: int) -> int:
    """Return the key of a field below 16, which is one byte long."""
    assert 0 < number < 16, "bug: a key of more than one byte"
    return number << 3 | wire


def encoded_varint(value: int) -> bytes:
    """Write a varint, for what is encoded before any kernel runs."""
    pieces = bytearray()
    while value >= 0x80:
        pieces.append(value & 0x7F | 0x80)
        value >>= 7
    pieces.append(value)
    return bytes(pieces)


def encoded_text(number: int, text: bytes) -> bytes:
    """Write a string field; an empty one is left out, as protobuf does with fields at their default."""
    return bytes([key(number, WIRE_LENGTH)]) + encoded_varint(len(text)) + text if text else b""


@part
def varint(buffer: NDArray[np.uint8], at: int, end: int) -> tuple[int, int]:
    """Read a varint as the 64 bits of an int64; returns (value, next).

    It is built in uint64, so ten bytes of -1 are -1. What is longer, or has more than 64 bits, is refused.
    """
    if at < end and buffer[at] < 0x80:
        return int64(buffer[at]), at + 1
    value = unsigned(0)
    for k in range(min(VARINT_BYTES_MAX, end - at)):
        byte = buffer[at + k]
        value |= unsigned(byte & 0x7F) << unsigned(7 * k)
        if byte < 0x80:
            fits = k < VARINT_BYTES_MAX - 1 or byte <= 1
            return int64(value), at + k + 1 if fits else -1
    return int64(0), -1


@part
def delimited(buffer: NDArray[np.uint8], at: int, end: int) -> tuple[int, int]:
    """Read a length and check that so many bytes are there; returns where they begin and where they end."""
    length, begin = varint(buffer, at, end)
    if begin < 0 or begin - at > LENGTH_BYTES_MAX or not 0 <= length <= end - begin:
        return 0, -1
    return begin, begin + length


@part
def is_text(buffer: NDArray[np.uint8], at: int, end: int) -> bool:
    """Say whether buffer[at:end] is valid UTF-8: no overlong forms, no surrogates, nothing above U+10FFFF."""
    while at < end:
        lead = buffer[at]
        at += 1
        if lead < 0x80:
            continue
        if lead < 0xC2 or lead > 0xF4:
            return False
        rest = 1 if lead < 0xE0 else 2 if lead < 0xF0 else 3
        if rest > end - at:
            return False
        # Only the second byte of four leads is narrower than 0x80 to 0xBF; RFC 3629, section 4.
        low = 0xA0 if lead == 0xE0 else 0x90 if lead == 0xF0 else 0x80
        high = 0x9F if lead == 0xED else 0x8F if lead == 0xF4 else 0xBF
        if not low <= buffer[at] <= high:
            return False
        for k in range(1, rest):
            if buffer[at + k] & 0xC0 != 0x80:
                return False
        at += rest
    return True


@part
def varint_bytes(value: int) -> int:
    """Return how long the varint of a number that is not negative will be."""
    count = 1
    while value >= 0x80:
        value >>= 7
        count += 1
    return count


@part
def put_varint(out: NDArray[np.uint8], at: int, value: int) -> int:
    """Write the varint of a number that is not negative; returns the next position."""
    while value >= 0x80:
        out[at] = value & 0x7F | 0x80
        value >>= 7
        at += 1
    out[at] = value
    return at + 1


@part
def put_bytes(out: NDArray[np.uint8], at: int, source: NDArray[np.uint8], begin: int, length: int) -> int:
    """Copy `length` bytes; returns the next position. The caller has checked both stretches."""
    copy(source, begin, out, at, length)
    return at + length
