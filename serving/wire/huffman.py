"""Huffman decoding of header strings (RFC 7541, section 5.2 and appendix B). Pure; knows one code and no header.

The code is canonical: sorted by length, then by symbol, codes count upwards. So the lengths alone define it, and a
code longer than the first lookup is found by comparing with the first code of each length.
"""

import numpy as np
from numpy.typing import NDArray

from serving.wire.compiler import int64, part

EOS = 256
LOOKUP_BITS = 8
CODE_BITS_MAX = 30

# The symbols of each code length, in the order of appendix B. All of 0 to 256 appear once.
_SYMBOLS: dict[int, list[int]] = {
    5: list(b"012aceiost"),
    6: list(b" %-./3456789=A_bdfghlmnpru"),
    7: list(b":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz"),
    8: list(b"&*,;XZ"),
    10: list(b'!"()?'),
    11: list(b"'+|"),
    12: list(b"#>"),
    13: [0, *b"$@[]~"],
    14: list(b"^}"),
    15: list(b"<`{"),
    19: [92, 195, 208],
    20: [128, 130, 131, 162, 184, 194, 224, 226],
    21: [153, 161, 167, 172, 176, 177, 179, 209, 216, 217, 227, 229, 230],
    22: list(bytes.fromhex("8184858688929a9ca0a3a4a9aaadb2b5b9babbbdbec4c6e4e8e9")),
    23: list(bytes.fromhex("0187898a8b8c8d8f93959697989b9d9ea5a6a8aeafb4b6b7bcbfc5e7ef")),
    24: [9, 142, 144, 145, 148, 159, 171, 206, 215, 225, 236, 237],
    25: [199, 207, 234, 235],
    26: [192, 193, 200, 201, 202, 205, 210, 213, 218, 219, 238, 240, 242, 243, 255],
    27: [203, 204, 211, 212, 214, 221, 222, 223, 241, 244, 245, 246, 247, 248, 250, 251, 252, 253, 254],
    28: [2, 3, 4, 5, 6, 7, 8, 11, 12, 14, 15, 16, 17, 18, 19, 20, 21, *range(23, 32), 127, 220, 249],
    30: [10, 13, 22, EOS],
}


def _tables() -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Build the lookup of short codes (symbol * 16 + length) and, per length, first code, count, place in symbols."""
    lookup = np.zeros(1 << LOOKUP_BITS, np.int64)
    first = np.zeros(CODE_BITS_MAX + 1, np.int64)
    count = np.zeros(CODE_BITS_MAX + 1, np.int64)
    symbols: list[int] = []
    place = np.zeros(CODE_BITS_MAX + 1, np.int64)
    code = 0
    for bits in range(1, CODE_BITS_MAX + 1):
        code <<= 1
        first[bits], place[bits], count[bits] = code, len(symbols), len(_SYMBOLS.get(bits, ()))
        for symbol in _SYMBOLS.get(bits, ()):
            if bits <= LOOKUP_BITS:
                spare = LOOKUP_BITS - bits
                lookup[code << spare : (code + 1) << spare] = symbol * 16 + bits
            code += 1
        symbols += _SYMBOLS.get(bits, [])
    return lookup, first, place, np.array([*count.tolist(), *symbols], np.int64)


def huffman_encode(text: bytes) -> bytes:
    """Encode a constant. Every text has one coded form, so a kernel may compare this instead of decoding."""
    coded, bits, code = 0, 0, 0
    codes: dict[int, tuple[int, int]] = {}
    for length in range(1, CODE_BITS_MAX + 1):
        code <<= 1
        for symbol in _SYMBOLS.get(length, ()):
            codes[symbol] = code, length
            code += 1
    for byte in text:
        coded, bits = coded << codes[byte][1] | codes[byte][0], bits + codes[byte][1]
    padding = -bits % 8
    return (coded << padding | (1 << padding) - 1).to_bytes((bits + padding) // 8, "big")


_LOOKUP, _FIRST, _PLACE, _COUNT_AND_SYMBOLS = _tables()
_COUNT = _COUNT_AND_SYMBOLS[: CODE_BITS_MAX + 1].copy()
_SYMBOL = _COUNT_AND_SYMBOLS[CODE_BITS_MAX + 1 :].copy()


@part
def long_code(window: int) -> tuple[int, int]:
    """Find a code longer than the lookup in the top bits of 32; returns (symbol, bits), (-1, 0) when there is none."""
    for bits in range(LOOKUP_BITS + 1, CODE_BITS_MAX + 1):
        offset = (window >> (32 - bits)) - _FIRST[bits]
        if 0 <= offset < _COUNT[bits]:
            return _SYMBOL[_PLACE[bits] + offset], bits
    return -1, 0


@part
def huffman_decode(
    source: NDArray[np.uint8], at: int, end: int, out: NDArray[np.uint8], out_at: int, out_end: int
) -> int:
    """Decode source[at:end] to out[out_at:out_end]; returns the decoded length, -1 for a malformed string.

    What does not fit is counted but not stored, so that a caller learns the length of a string it will not keep.
    Padding must be less than 8 bits, all ones; the end-of-string symbol inside a string is malformed.
    """
    held = 0  # the next bits of the string, at most 62 of them
    held_bits = 0
    length = 0
    while True:
        while held_bits <= 48 and at < end:
            held = (held << 8) | int64(source[at])
            held_bits += 8
            at += 1
        if held_bits == 0:
            return length
        # Ones stand in for the bits after the end, as the padding is ones: a code that needs them is not complete.
        window = held >> (held_bits - 32) if held_bits >= 32 else ((held + 1) << (32 - held_bits)) - 1
        entry = _LOOKUP[window >> (32 - LOOKUP_BITS)]
        symbol, bits = entry >> 4, entry & 15
        if bits == 0:
            symbol, bits = long_code(window)
        if bits == 0 or bits > held_bits:
            return length if held_bits < 8 and held == (1 << held_bits) - 1 else -1
        if symbol == EOS:
            return -1
        if out_at + length < out_end:
            out[out_at + length] = symbol
        length += 1
        held_bits -= bits
        held &= (1 << held_bits) - 1
