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
    C_ENCODER_STARTED,  # whether the first header block, with its table size of 0, was written
    C_TABLE_FIRST,  # the oldest entry of the dynamic table
    C_TABLE_COUNT,
    C_TABLE_BYTES,
    C_TABLE_LIMIT,
    C_TABLE_TAIL,  # the end of the table's text in its stretch of the pool
    C_BLOCKED,  # set while output waits for a window
    C_QUEUE_FIRST,  # the streams with unsent DATA, in the order of their turns; -1 when there is none
    C_QUEUE_LAST,
    C_UNSENT,  # bytes of DATA that wait in the queue
    C_UPDATES_DUE,  # window updates that the peer may still send for DATA that it was sent
) = range(22)
C_BUCKETS = 32
C_TABLE_ENTRIES = C_BUCKETS + BUCKETS
CONNECTION_COLUMNS = C_TABLE_ENTRIES + TABLE_ENTRIES_MAX

CONNECTION_FREE, CONNECTION_PREFACE, CONNECTION_SETTINGS, CONNECTION_OPEN, CONNECTION_CLOSED = range(5)

# A stream's row. It is held from its HEADERS until its answer is settled, even when it was reset before that.
(
    S_CONNECTION,
    S_ID,
    S_GENERATION,
    S_NEXT,  # the next slot in its chain, or in the list of free ones; -1 at the end
    S_STATE,  # a set of STREAM_*; 0 is a free row
    S_DEADLINE_NS,
    S_SEND_WINDOW,
    S_RECEIVE_WINDOW,
    S_PREFIX_COUNT,  # how many of the 5 bytes before a message have come
    S_PREFIX,  # these bytes as a number
    S_MESSAGE_GOT,  # how much of the current message has come
    S_BLOCK,  # the assembly block of the current message, or BLOCK_*
    S_MESSAGES,  # complete ones
    S_BODY,  # bytes of DATA without padding
    S_CONTENT_LENGTH,
    S_ENCODING,
    S_COMPRESSED,  # the flag of the last complete message
    S_QUEUE_NEXT,  # the stream whose turn to write comes after this one's
    S_UNSENT,  # bytes of DATA that wait in the queue
    S_SINCE_NS,  # when a ModelInfer was opened, or the unfinished message of another call began; 0 when there is none
    S_ROUTE,  # the key of what its header penstock-route says, 0 when there is none
) = range(21)
STREAM_COLUMNS = 24

(
    STREAM_OPEN,
    STREAM_ENDED,  # the peer has sent END_STREAM
    STREAM_RESET,  # by either side; only its release is left
    STREAM_FAILED,  # an error must be answered; what still comes is dropped
    STREAM_UNARY,  # a ModelInfer: handed out once, complete
    STREAM_TOLD,  # an event has named it, so the transport releases it
    STREAM_QUEUED,  # it has unsent DATA
    STREAM_FINISHED,  # its trailers are known, and follow the last DATA
    STREAM_PAUSED,  # its receive window is not given back
) = (1 << bit for bit in range(9))

BLOCK_NONE, BLOCK_PARTS = -1, -2
"""No block, or none that is large enough or free: the message is handed out in parts."""
PREFIX_BYTES = 5

# An event's row.
(
    E_KIND,
    E_STREAM,
    E_GENERATION,
    E_ID,
    E_SOURCE,  # which bytes E_AT counts in: one of SOURCE_*
    E_AT,
    E_LENGTH,
    E_DETAIL,
    E_DEADLINE_NS,
    E_ENCODING,  # of the message: ENCODING_IDENTITY unless its compressed flag is set
) = range(10)
EVENT_COLUMNS = 10

(
    EVENT_REQUEST,  # a complete ModelInfer message, at its END_STREAM
    EVENT_OPENED,  # another call: its header records
    EVENT_MESSAGE,  # a complete message of another call
    EVENT_PART,  # a piece of a message that fits no block; E_DETAIL is the length of the whole
    EVENT_ENDED,  # the peer has sent all of another call
    EVENT_FAILED,  # must be answered with an error: FAIL_*
    EVENT_RESET,  # the stream is dead: by the peer, or by us for breaking HTTP/2; E_DETAIL is the error code
    EVENT_WRITABLE,  # a window has opened while C_BLOCKED was set; E_STREAM is -1 for the connection's
    EVENT_PONG,  # our PING came back; E_DETAIL is its payload
    EVENT_GOAWAY,  # the peer will open no more streams
    EVENT_CLOSED,  # the connection is over; E_DETAIL is the error code in our GOAWAY
    EVENT_NOT_HTTP2,  # the connection is over, and nothing was written
) = range(12)

SOURCE_BUFFER, SOURCE_POOL, SOURCE_HEADERS, SOURCE_PARTS = range(4)
"""The bytes given to decode, the pool, the header output, or the parts that were handed out before."""

(
    FAIL_METHOD,  # HTTP 405
    FAIL_CONTENT_TYPE,  # HTTP 415
    FAIL_HEADER_LIST,  # RESOURCE_EXHAUSTED
    FAIL_TIMEOUT,  # a malformed grpc-timeout
    FAIL_ENCODING,  # UNIMPLEMENTED with grpc-accept-encoding
    FAIL_MESSAGE_FLAG,  # all below INTERNAL, but FAIL_MESSAGE_LENGTH, which is RESOURCE_EXHAUSTED
    FAIL_COMPRESSED,
    FAIL_MESSAGE_LENGTH,
    FAIL_CUT_OFF,
    FAIL_NO_MESSAGE,
    FAIL_SECOND_MESSAGE,
) = range(11)

REFUSALS = (
    "method", "content_type", "header_list_too_long", "timeout", "encoding", "message_flag", "compressed_flag",
    "message_length", "cut_off", "no_message", "second_message",
    "malformed_request", "content_length", "closed_stream", "stream_flow_control", "too_many_streams",
    "too_much_unsent", "no_stream_rows", "after_goaway",
    "ping_flood", "settings_flood", "reset_flood", "empty_data_flood", "request_flood", "control_flood",
    "continuation_flood", "header_block_too_long", "header_list_beyond_bounds",
    "protocol_error", "flow_control_error", "frame_size_error", "compression_error", "not_http2",
)  # fmt: skip
"""What the decoder refuses, by REFUSED_*, as a counter's label names it. The first ones are FAIL_*: they cost a call;
up to `after_goaway` they cost a stream; from the floods on a connection, but for a PRIORITY of a wrong size. A flood is
named by the kind of the frame that the budget had no place for."""
(
    REFUSED_METHOD,
    REFUSED_CONTENT_TYPE,
    REFUSED_HEADER_LIST_TOO_LONG,
    REFUSED_TIMEOUT,
    REFUSED_ENCODING,
    REFUSED_MESSAGE_FLAG,
    REFUSED_COMPRESSED_FLAG,
    REFUSED_MESSAGE_LENGTH,
    REFUSED_CUT_OFF,
    REFUSED_NO_MESSAGE,
    REFUSED_SECOND_MESSAGE,
    REFUSED_MALFORMED_REQUEST,
    REFUSED_CONTENT_LENGTH,
    REFUSED_CLOSED_STREAM,
    REFUSED_STREAM_FLOW_CONTROL,
    REFUSED_TOO_MANY_STREAMS,
    REFUSED_TOO_MUCH_UNSENT,
    REFUSED_NO_STREAM_ROWS,
    REFUSED_AFTER_GOAWAY,
    REFUSED_PING_FLOOD,
    REFUSED_SETTINGS_FLOOD,
    REFUSED_RESET_FLOOD,
    REFUSED_EMPTY_DATA_FLOOD,
    REFUSED_REQUEST_FLOOD,
    REFUSED_CONTROL_FLOOD,
    REFUSED_CONTINUATION_FLOOD,
    REFUSED_HEADER_BLOCK_TOO_LONG,
    REFUSED_HEADER_LIST_BEYOND_BOUNDS,
    REFUSED_PROTOCOL_ERROR,
    REFUSED_FLOW_CONTROL_ERROR,
    REFUSED_FRAME_SIZE_ERROR,
    REFUSED_COMPRESSION_ERROR,
    REFUSED_NOT_HTTP2,
) = range(len(REFUSALS))

# A piece of output, as the queue of unsent DATA gives it out.
P_STREAM, P_ID, P_COUNT, P_END = range(4)
PIECE_COLUMNS = 4
PIECE_MORE, PIECE_LAST, PIECE_LAST_EARLY, PIECE_DROPPED = range(4)
"""More follows, at some time; trailers follow; trailers and RST_STREAM, for the peer has not ended; all is dropped."""

STATUS_HUNGRY, STATUS_FULL, STATUS_CLOSED = range(3)
"""Whole frames are used up; the outputs must be emptied first; nothing of this connection will be read again."""

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
    H_UNSENT_BYTES_MAX,
    H_BUDGET_MAX,
    H_BUDGET_PER_SECOND,
    H_EVENTS,  # rows, and bytes, that the current decode call has put out so far
    H_CONTROL,
    H_HEADERS,
    HEAD_FLAGS,  # what the last header block said: a set of FLAG_*
    HEAD_METHOD,
    HEAD_PATH,
    HEAD_CONTENT_TYPE,
    HEAD_ENCODING,
    HEAD_TIMEOUT_NS,
    HEAD_CONTENT_LENGTH,
    HEAD_LIST_BYTES,
    HEAD_ROUTE,
    H_NOW_NS,  # of the current decode call
) = range(29)
H_COUNTS = 64
"""From here on, one word per REFUSED_*: how often that has happened. They only ever grow."""
H_BLOCK_NEXT = 128
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
    """Every bound of a connection. Bytes, rows and counts; the defaults are those of the command line."""

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
    unsent_bytes: int = 16 << 20
    unsent_bytes_in_all: int = 256 << 20
    control_frames: int = 1000
    control_frames_per_second: int = 10
    events: int = 4096
    control_bytes: int = 65_536
    pieces: int = 256


@dataclass(slots=True)
class State:
    """The arrays of one I/O thread.

    The rows of connections, and their stretches of the pool, take no memory before `open_connection` writes to them.
    """

    limits: Limits = field(default_factory=Limits)
    connections: NDArray[np.int64] = field(init=False)
    pool: NDArray[np.uint8] = field(init=False)
    streams: NDArray[np.int64] = field(init=False)
    shared: NDArray[np.int64] = field(init=False)
    events: NDArray[np.int64] = field(init=False)
    control: NDArray[np.uint8] = field(init=False)
    headers: NDArray[np.uint8] = field(init=False)
    pieces: NDArray[np.int64] = field(init=False)
    heads: NDArray[np.uint8] = field(init=False)

    def __post_init__(self) -> None:
        limits = self.limits
        self.connections = np.zeros((limits.connections, CONNECTION_COLUMNS), np.int64)
        blocks_at = limits.connections * TABLE_POOL_BYTES
        self.pool = np.zeros(blocks_at + limits.blocks * limits.block_bytes, np.uint8)
        self.streams = np.zeros((limits.streams, STREAM_COLUMNS), np.int64)
        self.streams[:, S_NEXT] = np.arange(1, limits.streams + 1)
        self.streams[-1:, S_NEXT] = -1
        self.events = np.zeros((limits.events, EVENT_COLUMNS), np.int64)
        self.control = np.zeros(limits.control_bytes, np.uint8)
        self.headers = np.zeros(4 * (limits.header_list_bytes + 2 * TABLE_BYTES_MAX), np.uint8)
        self.pieces = np.zeros((limits.pieces, PIECE_COLUMNS), np.int64)
        self.heads = np.zeros(9 * limits.pieces, np.uint8)  # a frame header for each piece
        self.shared = np.zeros(H_BLOCK_NEXT + limits.blocks, np.int64)
        self.shared[H_BLOCK_NEXT:] = np.arange(1, limits.blocks + 1)
        self.shared[H_BLOCK_NEXT:][-1:] = -1
        for column, limit in (
            (H_FREE_STREAM, 0),
            (H_FREE_BLOCK, 0 if limits.blocks else -1),
            (H_RETIRED_BLOCK, -1),
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
            (H_UNSENT_BYTES_MAX, limits.unsent_bytes),
            (H_BUDGET_MAX, limits.control_frames),
            (H_BUDGET_PER_SECOND, limits.control_frames_per_second),
        ):
            self.shared[column] = limit

    @property
    def unsent_bytes(self) -> int:
        """DATA that waits for windows, of all connections."""
        return int(self.connections[:, C_UNSENT].sum())
