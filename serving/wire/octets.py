"""Stretches of bytes: copied and compared. Knows nothing of what they mean; its callers have checked their bounds.

Indexes are unsigned, because numba makes every signed one wrap around when it is negative, and a loop with that
question in it is neither unrolled nor vectorised.
"""

import numpy as np
from numpy.typing import NDArray

from serving.wire.compiler import part, unsigned


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
