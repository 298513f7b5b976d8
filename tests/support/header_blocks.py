"""A kernel for tests: the server decodes header blocks only in the midst of frames."""

import numpy as np
from numpy.typing import NDArray

from serving.wire.compiler import kernel
from serving.wire.hpack import OUTPUT_SLACK_BYTES, decode_block
from serving.wire.layout import H_LIST_BYTES_MAX


@kernel("int64(uint8[::1], int64, int64, int64[:, ::1], int64, uint8[::1], uint8[::1], int64[::1], b1)")
def decode_headers(
    source: NDArray[np.uint8],
    at: int,
    end: int,
    connections: NDArray[np.int64],
    slot: int,
    pool: NDArray[np.uint8],
    out: NDArray[np.uint8],
    shared: NDArray[np.int64],
    keeps_all: bool,
) -> int:
    """Decode one header block by itself; see `decode_block`.

    The row in `slot` needs no more of an open connection than its C_TABLE_LIMIT.
    """
    room = shared[H_LIST_BYTES_MAX] + OUTPUT_SLACK_BYTES
    assert 0 <= at <= end <= source.size, "bug: the block lies outside of its buffer"
    assert 0 <= slot < connections.shape[0], "bug: no such connection"
    assert out.size >= room, "bug: the header output has no room for a list"
    return decode_block(source, at, end, connections, slot, pool, out, 0, shared, keeps_all)
