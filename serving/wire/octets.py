"""Stretches of bytes: copied, compared, hashed. Knows nothing of what they mean; its callers have checked the bounds.

Indexes are unsigned, because numba makes every signed one wrap around when it is negative, and a loop with that
question in it is neither unrolled nor vectorised.
"""

import numpy as np
from numpy.typing import NDArray

from serving.wire.compiler import int64, part, unsigned

HASH_START, HASH_PRIME = 0xCBF29CE484222325, 0x100000001B3


@part
def copy(source: NDArray[np.uint8], at: int, out: NDArray[np.uint8], to: int, count: int) -> None:
    """Copy source[at:at + count] to out[to:]; within one array only towards the front."""
    for k in range(count):
        out[unsigned(to + k)] = source[unsigned(at + k)]


@part
def equal(a: NDArray[np.uint8], at: int, b: NDArray[np.uint8], b_at: int, length: int) -> bool:
    """Compare two stretches of the same length."""
    for k in range(length):  # noqa: SIM110 (numba compiles no generator expression)
        if a[unsigned(at + k)] != b[unsigned(b_at + k)]:
            return False
    return True


@part
def hash_of(text: NDArray[np.uint8], at: int, end: int) -> int:
    """Hash a stretch (FNV-1a), into the numbers that are not negative."""
    state = unsigned(HASH_START)
    for k in range(at, end):
        state = (state ^ text[unsigned(k)]) * unsigned(HASH_PRIME)
    return int64(state >> unsigned(1))


@part
def key_of(text: NDArray[np.uint8], at: int, end: int) -> int:
    """Return the key by which a request is routed that says text[at:end]; never 0, which stands for no key."""
    return hash_of(text, at, end) | 1
