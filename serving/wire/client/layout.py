"""The state that the client's kernels share: columns of a connection, of a call, of the shared row.

A connection's row has the width and the columns of the server's, so that header decoding works on it; columns of its
own lie where the server keeps chains of streams. The shared row likewise begins with the server's columns. `State`
makes the arrays and owns them; it belongs to one thread and never grows.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from serving.wire.hpack import OUTPUT_SLACK_BYTES
from serving.wire.layout import (
    C_BUCKETS,
    C_TABLE_ENTRIES,
    CONNECTION_COLUMNS,
    H_BLOCK_NEXT,
    H_CONTINUATIONS_MAX,
    H_HEADER_BLOCK_BYTES_MAX,
    H_LIST_BYTES_HARD,
    H_LIST_BYTES_MAX,
    TABLE_POOL_BYTES,
)

HEADER_LIST_BYTES_MAX = 65_536
HEADER_BLOCK_BYTES_MAX = 65_536
CONTINUATIONS_MAX = 16
RECEIVE_WINDOW_BYTES = 1 << 30
"""What a server may send on a connection, and on each stream, before we give a window back."""
RECEIVED_BYTES_BATCH = 8 << 20
"""How much of the connection's window is used up before it is given back, in one frame."""
OUT_BYTES = 256 << 10
"""Output of one connection; a longer message continues when this was sent."""
CONTROL_RESERVE_BYTES = 8192
"""What requests leave free of it, for frames that answer at once."""
SOURCE_BYTES = 512 << 10
"""Input of one connection: more than the longest header block with all of its frames."""
CALLS_MAX = 4096
"""Open calls of one connection, whatever the server allows; a power of two, because ids find their row by a mask."""
STREAM_ID_MAX = 2**31 - 1

# A connection's own columns.
(
    K_PEER_STREAMS_MAX,
    K_OUT_BYTES,  # how much lies in its row of `outs`
    K_STUCK,  # its socket takes no more for now
    K_OLDEST,  # no open call has a lower stream id
    K_PARTIAL,  # the stream whose message is not written to its end; 0 when there is none
    K_PARTIAL_MESSAGE,
    K_PARTIAL_AT,  # how much of that message is written
    K_PARTIAL_WINDOW,  # what that stream's window still takes
    K_RECEIVED,  # DATA since the connection's window was last given back
    K_ERROR,  # the code of the GOAWAY that has come
) = range(C_BUCKETS, C_BUCKETS + 10)
assert K_ERROR < C_TABLE_ENTRIES, "bug: a connection's own columns reach into its header table"

# A call's row. Stream `id` of connection `slot` has the row slot * calls_max + (id >> 1) % calls_max.
(
    Q_ID,  # 0 is a free row
    Q_INTENDED_NS,
    Q_SENT_NS,
    Q_FLAGS,  # a set of CALL_*
    Q_HTTP,  # the :status, 0 while there is none
    Q_GRPC,  # the grpc-status, -1 while there is none
    Q_BODY,  # bytes of DATA without padding
    Q_PREFIX,  # the 5 bytes before the answer's message as a number, as far as they have come
) = range(8)
CALL_COLUMNS = 8
CALL_COUNTED, CALL_HEADED = 1, 2
"""Its intended moment counts; the final header block of its answer has come."""

# The shared row, behind the server's columns.
(
    X_CLOSED_LOOP,  # an answer makes place for a call
    X_DUE_HEAD,  # the place of the earliest intended moment in `due`
    X_DUE_COUNT,
    X_COUNT_FROM_NS,  # calls intended before this are not counted
    X_END_NS,  # no place of a closed loop is filled from here on
    X_SLO_NS,
    X_TIMEOUT_NS,
    X_MESSAGE,  # whose turn it is
    X_TURN,  # the connection to look at first
    X_TOGETHER,  # calls that may go to one connection when they are due at once
    X_LIVE,  # open calls of all connections
    X_LIVE_COUNTED,
    X_SENT,
    X_IN_SLO,
    X_LATENCY_TOTAL_NS,
    X_LATENCY_MAX_NS,
    X_LAG_TOTAL_NS,
    X_LAG_MAX_NS,
) = range(H_BLOCK_NEXT, H_BLOCK_NEXT + 18)
X_CODES = X_LAG_MAX_NS + 1
"""From here on, answers by gRPC code."""
CODES = 17
SHARED_COLUMNS = X_CODES + CODES
X_COUNTERS = (X_SENT, SHARED_COLUMNS)
"""The columns that grow during a slice and begin at 0 in every interval."""

SUB_BITS = 10
TIME_NS_MAX = (1 << 40) - 1
BUCKETS = (40 - SUB_BITS + 1) << SUB_BITS
"""Log-linear buckets of times: the rule is that of the bench's histogram."""
LATENCIES, LAGS = range(2)
"""The rows of `counts`."""

NOTHING_DUE = 2**62
"""A moment in ns that never comes."""

STATUS_HUNGRY, STATUS_FULL, STATUS_GOAWAY, STATUS_BREACH = range(4)
"""Whole frames are used up; the output must be sent first; the server ends the connection; it broke the protocol."""

BREACHES = (
    "does not answer in HTTP/2",
    "sent a frame longer than was allowed",
    "sent a frame of a wrong length",
    "broke the order or the form of HTTP/2 frames",
    "sent header fields that cannot be decoded",
    "sent a header block beyond all bounds",
    "sent a setting with a forbidden value",
    "gave a window beyond 2^31 - 1 bytes, or one of nothing",
    "sent more than the windows allow",
)
(
    BREACH_NOT_HTTP2,
    BREACH_FRAME_TOO_LONG,
    BREACH_FRAME_SIZE,
    BREACH_ORDER,
    BREACH_COMPRESSION,
    BREACH_HEADER_BLOCK,
    BREACH_SETTING,
    BREACH_WINDOW,
    BREACH_FLOW_CONTROL,
) = range(len(BREACHES))


class Client(NamedTuple):
    """The arrays of one receive call."""

    source: NDArray[np.uint8]
    connections: NDArray[np.int64]
    calls: NDArray[np.int64]
    pool: NDArray[np.uint8]
    headers: NDArray[np.uint8]
    outs: NDArray[np.uint8]
    shared: NDArray[np.int64]
    counts: NDArray[np.int64]
    due: NDArray[np.int64]


@dataclass(slots=True)
class State:
    """The arrays of some connections to one server.

    `calls_max` bounds the open calls of a connection, `out_bytes` its unsent output. `due` and the messages come with
    a slice: they are arguments of the kernels.
    """

    connections_count: int
    calls_max: int = CALLS_MAX
    out_bytes: int = OUT_BYTES
    connections: NDArray[np.int64] = field(init=False)
    calls: NDArray[np.int64] = field(init=False)
    pool: NDArray[np.uint8] = field(init=False)
    headers: NDArray[np.uint8] = field(init=False)
    outs: NDArray[np.uint8] = field(init=False)
    shared: NDArray[np.int64] = field(init=False)
    counts: NDArray[np.int64] = field(init=False)
    ready: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        count = self.connections_count
        assert self.calls_max & (self.calls_max - 1) == 0, "bug: the rows of calls are no power of two"
        assert self.out_bytes > 2 * CONTROL_RESERVE_BYTES, "bug: the output has no room for a request"
        self.connections = np.zeros((count, CONNECTION_COLUMNS), np.int64)
        self.calls = np.zeros((count * self.calls_max, CALL_COLUMNS), np.int64)
        self.pool = np.zeros(count * TABLE_POOL_BYTES, np.uint8)
        self.headers = np.zeros(HEADER_LIST_BYTES_MAX + OUTPUT_SLACK_BYTES, np.uint8)
        self.outs = np.zeros((count, self.out_bytes), np.uint8)
        self.shared = np.zeros(SHARED_COLUMNS, np.int64)
        self.counts = np.zeros((2, BUCKETS), np.int64)
        self.ready = np.zeros((count, 2), np.int64)
        self.shared[H_LIST_BYTES_MAX] = HEADER_LIST_BYTES_MAX
        self.shared[H_LIST_BYTES_HARD] = 4 * HEADER_LIST_BYTES_MAX
        self.shared[H_HEADER_BLOCK_BYTES_MAX] = HEADER_BLOCK_BYTES_MAX
        self.shared[H_CONTINUATIONS_MAX] = CONTINUATIONS_MAX
        self.shared[X_TOGETHER] = 1
