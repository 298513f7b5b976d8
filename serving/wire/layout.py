"""The state that kernels share: what each column of a connection, a stream, an event and the shared row means.

All connections of an I/O thread live in one int64 matrix, all their streams in another, their bytes (header tables,
assembly blocks) in one pool; a slot is an index into them. `State` makes them and is the only class here: it owns the
arrays, belongs to one I/O thread, and never grows. A slot is used again, so whoever keeps one keeps its generation
beside it and compares before it writes an answer.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

TABLE_BYTES_MAX = 4096
"""The header table size of RFC 7541 that every peer may use from the start; no setting of ours changes it."""
TABLE_ENTRIES_MAX = TABLE_BYTES_MAX // 32
TABLE_POOL_BYTES = 2 * TABLE_BYTES_MAX
FRAME_BYTES_MAX = 16_384
"""The largest frame payload that a peer may send; our settings leave the initial value of RFC 9113."""
WINDOW_BYTES_MAX = 2**31 - 1
WINDOW_BYTES_INITIAL = 65_535
BUCKETS = 64
"""Stream slots of a connection hang in so many chains, by (id >> 1) modulo this."""
NO_DEADLINE = 2**62
"""A deadline in ns that never comes."""

# A connection's row.
(
    C_STATE,  # one of CONNECTION_*
    C_GENERATION,
    C_LAST_STREAM,  # the highest stream id that the peer has used
    C_STREAM_COUNT,  # rows held, answered or not
    C_RECEIVE_WINDOW,  # how much DATA the peer may still send
    C_SEND_WINDOW,
    C_PEER_WINDOW,  # the peer's initial window for new streams
    C_PEER_FRAME_MAX,
    C_BUDGET,  # control frames that the peer may still send
    C_BUDGET_NS,  # when the budget was last refilled
    C_LAST_ACCEPTED,  # streams above this id are refused: the last id of our GOAWAY
    C_GOAWAY_RECEIVED,
    C_SETTINGS_ACKED,
    C_ENCODER_STARTED,  # whether the first header block, with its table size of 0, was written
    C_TABLE_FIRST,  # the oldest entry of the dynamic table
    C_TABLE_COUNT,
    C_TABLE_BYTES,
    C_TABLE_LIMIT,
    C_TABLE_TAIL,  # the end of the table's text in its stretch of the pool
    C_ERROR,  # the HTTP/2 error code that ended the connection
) = range(20)
C_BUCKETS = 32
C_TABLE_ENTRIES = C_BUCKETS + BUCKETS
CONNECTION_COLUMNS = C_TABLE_ENTRIES + TABLE_ENTRIES_MAX

CONNECTION_FREE, CONNECTION_PREFACE, CONNECTION_SETTINGS, CONNECTION_OPEN, CONNECTION_CLOSED = range(5)

# The shared row: free lists, limits, what the last header block said, counters.
(
    H_FREE_STREAM,
    H_FREE_BLOCK,
    H_RETIRED_BLOCK,  # blocks whose message was handed out; they are free from the next decode call on
    H_BLOCKS_AT,  # where the assembly blocks begin in the pool
    H_BLOCK_BYTES,
    H_STREAMS_MAX,  # per connection
    H_LIST_BYTES_MAX,
    H_LIST_BYTES_HARD,
    H_HEADER_BLOCK_BYTES_MAX,
    H_CONTINUATIONS_MAX,
    H_MESSAGE_BYTES_MAX,
    H_STREAM_WINDOW,
    H_CONNECTION_WINDOW,
    H_BUDGET_MAX,
    H_BUDGET_PER_SECOND,
    H_LAST_STREAM_SLOT,
    HEAD_FLAGS,  # what the last header block said: a set of FLAG_*
    HEAD_METHOD,
    HEAD_PATH,
    HEAD_CONTENT_TYPE,
    HEAD_ENCODING,
    HEAD_ACCEPT,  # a set of 1 << ENCODING_*
    HEAD_TIMEOUT_NS,
    HEAD_CONTENT_LENGTH,
    HEAD_LIST_BYTES,
) = range(25)
H_BLOCK_NEXT = 64
"""From here on, one word per assembly block: the next one in its list."""

(
    FLAG_METHOD,
    FLAG_PATH,
    FLAG_SCHEME,
    FLAG_AUTHORITY,
    FLAG_REGULAR,  # a field that is no pseudo-header was seen
    FLAG_MALFORMED,
    FLAG_LIST_TOO_LONG,
    FLAG_PSEUDO,
) = (1 << bit for bit in range(8))

METHOD_OTHER, METHOD_POST = range(2)
PATH_OTHER, PATH_MODEL_INFER = range(2)
CONTENT_TYPE_MISSING, CONTENT_TYPE_GRPC, CONTENT_TYPE_OTHER = range(3)
ENCODING_IDENTITY, ENCODING_GZIP, ENCODING_DEFLATE, ENCODING_UNKNOWN = range(4)
TIMEOUT_NONE = -1
TIMEOUT_MALFORMED = -2


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Every bound of the decoder. Bytes, rows and counts; the defaults are those of the command line."""

    connections: int = 1024
    streams: int = 16_384
    streams_per_connection: int = 256
    header_list_bytes: int = 16_384
    header_list_bytes_hard: int = 262_144
    header_block_bytes: int = 65_536
    continuations: int = 16
    message_bytes: int = 64 << 20
    block_bytes: int = 65_536
    blocks: int = 256
    stream_window_bytes: int = 1 << 20
    connection_window_bytes: int = 16 << 20
    control_frames: int = 1000
    control_frames_per_second: int = 10
    events: int = 1024


@dataclass(slots=True)
class State:
    """The arrays of one I/O thread."""

    limits: Limits = field(default_factory=Limits)
    connections: NDArray[np.int64] = field(init=False)
    pool: NDArray[np.uint8] = field(init=False)
    shared: NDArray[np.int64] = field(init=False)
    headers: NDArray[np.uint8] = field(init=False)

    def __post_init__(self) -> None:
        limits = self.limits
        self.connections = np.zeros((limits.connections, CONNECTION_COLUMNS), np.int64)
        self.connections[:, C_TABLE_LIMIT] = TABLE_BYTES_MAX
        blocks_at = limits.connections * TABLE_POOL_BYTES
        self.pool = np.zeros(blocks_at + limits.blocks * limits.block_bytes, np.uint8)
        self.headers = np.zeros(4 * (limits.header_list_bytes + 2 * TABLE_BYTES_MAX), np.uint8)
        self.shared = np.zeros(H_BLOCK_NEXT + limits.blocks, np.int64)
        for column, limit in (
            (H_BLOCKS_AT, blocks_at),
            (H_BLOCK_BYTES, limits.block_bytes),
            (H_STREAMS_MAX, limits.streams_per_connection),
            (H_LIST_BYTES_MAX, limits.header_list_bytes),
            (H_LIST_BYTES_HARD, limits.header_list_bytes_hard),
            (H_HEADER_BLOCK_BYTES_MAX, limits.header_block_bytes),
            (H_CONTINUATIONS_MAX, limits.continuations),
            (H_MESSAGE_BYTES_MAX, limits.message_bytes),
            (H_STREAM_WINDOW, limits.stream_window_bytes),
            (H_CONNECTION_WINDOW, limits.connection_window_bytes),
            (H_BUDGET_MAX, limits.control_frames),
            (H_BUDGET_PER_SECOND, limits.control_frames_per_second),
        ):
            self.shared[column] = limit
