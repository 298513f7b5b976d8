"""What a connection has to write: bytes that are ready, and the answers whose DATA waits for a window.

HEADERS and trailers need no window, so only DATA is ever queued, and trailers behind it. Everything that is written on
a connection goes through its outbox in one order, because header blocks depend on which of them is the first. It knows
frames, streams and the queue (`unsent`); it knows no socket and no reason for an answer.
"""

from collections import deque
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from serving.wire.answer_blocks import FIRST_START, OK, START, TOO_MUCH_UNSENT, trailers
from serving.wire.frames import (
    CONTINUATION,
    END_HEADERS,
    END_STREAM,
    FRAME_HEADER_BYTES,
    GOAWAY,
    HEADERS,
    NO_ERROR,
    PING,
    RST_STREAM,
    WINDOW_UPDATE,
)
from serving.wire.hpack import TABLE_SIZE_ZERO
from serving.wire.layout import (
    C_ENCODER_STARTED,
    C_LAST_ACCEPTED,
    C_LAST_STREAM,
    C_STATE,
    C_UNSENT,
    CONNECTION_CLOSED,
    FRAME_BYTES_MAX,
    H_COUNTS,
    PIECE_DROPPED,
    PIECE_LAST_EARLY,
    PIECE_MORE,
    REFUSED_TOO_MUCH_UNSENT,
    S_GENERATION,
    S_ID,
    S_RECEIVE_WINDOW,
    S_STATE,
    STATUS_FULL,
    STREAM_ENDED,
    STREAM_FINISHED,
    STREAM_PAUSED,
    STREAM_QUEUED,
    STREAM_RESET,
    WINDOW_BYTES_MAX,
    State,
)
from serving.wire.records import R_STREAM, R_STREAM_GENERATION
from serving.wire.response import A_AT, A_LENGTH
from serving.wire.settling import REFUSAL_BYTES, refuse_requests, settle_answers
from serving.wire.streams import release_stream
from serving.wire.unsent import cut, enqueue

Words = NDArray[np.int64]
Chunk = bytes | Sequence[bytes | memoryview]

_TRAILERS = trailers(OK)
_DRAIN_PING = b"draining"
DRAIN_PING = int.from_bytes(_DRAIN_PING, "big")
"""What EVENT_PONG tells when the peer has seen that we drain."""


def frame(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    """Return one frame."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream_id.to_bytes(4, "big") + payload


def header_frames(stream_id: int, block: bytes, flags: int) -> bytes:
    """Return HEADERS, and CONTINUATIONs for what every peer must take at most in one frame."""
    cuts = [block[at : at + FRAME_BYTES_MAX] for at in range(0, len(block), FRAME_BYTES_MAX)]
    last = len(cuts) - 1
    frames = [
        frame(CONTINUATION if k else HEADERS, (0 if k else flags) | (END_HEADERS if k == last else 0), stream_id, piece)
        for k, piece in enumerate(cuts)
    ]
    return b"".join(frames)


class _Answer:
    """The unsent DATA of one stream, and the block of trailers that ends it.

    A peer that leaves the last byte of every large answer must not keep all of them in memory: when half of a chunk is
    written, what is left is copied, so that at most twice the bytes that count as unsent are held. The copies of a
    chunk are together no longer than the chunk.
    """

    __slots__ = ("_held_bytes", "pieces", "trailers")

    def __init__(self) -> None:
        self.pieces: deque[memoryview] = deque()
        self.trailers = b""
        self._held_bytes = 0  # by the first piece, when some of it was written

    def take(self, count: int) -> Iterator[memoryview]:
        """Give out the next `count` bytes."""
        while count:
            piece = self.pieces.popleft()
            held_bytes, self._held_bytes = self._held_bytes or len(piece), 0
            if len(piece) > count:
                rest, piece = piece[count:], piece[:count]
                if 2 * len(rest) > held_bytes:
                    self._held_bytes = held_bytes
                else:
                    rest = memoryview(rest.tobytes())
                self.pieces.appendleft(rest)
            count -= len(piece)
            yield piece


class Outbox:
    """The output of one connection. Lives on its I/O thread, as long as the connection's row.

    When more than `Limits.unsent_bytes` waits for windows the peer may open no new stream, and what it has asked before
    is still answered. While all connections together hold more than `Limits.unsent_bytes_in_all`, an answer on one that
    is full becomes an error, which needs no window, and is counted.

    What the windows let through is ready and no longer counts; while the socket takes nothing (`is_paused`, which the
    transport sets) nothing that waits is made ready, but what is handed to `settle` and fits its windows still is.
    Whoever hands an answer to `answer`, `refuse` or `finish` has settled it: the row of the stream is released here. A
    generation that is over makes each of them do nothing.
    """

    def __init__(self, state: State, slot: int) -> None:
        self._state = state
        self._slot = slot
        self._ready: list[bytes | memoryview] = []
        self._answers: dict[int, _Answer] = {}
        self.is_paused = False
        self.moved_bytes = 0  # of answers, made ready in all: it grows as long as the peer's windows let any through

    @property
    def is_full(self) -> bool:
        """Whether more DATA is unsent than the connection may hold."""
        return bool(self._state.connections[self._slot, C_UNSENT] > self._state.limits.unsent_bytes)

    @property
    def is_waiting(self) -> bool:
        """Whether DATA is unsent."""
        return bool(self._answers) and bool(self._state.connections[self._slot, C_UNSENT] > 0)

    @property
    def is_ready(self) -> bool:
        """Whether there is something to write, whatever the windows are."""
        return bool(self._ready)

    def write(self, chunk: bytes) -> None:
        """Write the control output of a decode call, directly after it and before anything else.

        The order matters: the acknowledgement of smaller windows must follow the DATA that was cut for larger ones.
        """
        if chunk:
            self._ready.append(chunk)

    def add_settled(self, chunk: bytes) -> None:
        """Write answers of this connection that `settling.settle_segments` has settled."""
        self._ready.append(chunk)
        self.moved_bytes += len(chunk)

    def settle(
        self, requests: Words, chosen: NDArray[np.int64], answers: Words, out: NDArray[np.uint8], first: int, last: int
    ) -> int:
        """Settle answers[first:last] of a batch, all of this connection; `settling.settle_answers` says what they are.

        Those that fit the windows cost one call; each other one is copied, and waits in the queue. Returns how many
        became errors, see `answer`.
        """
        state, refused = self._state, 0
        while first < last:
            first, begin, end = settle_answers(
                requests, chosen, answers, state.connections, state.streams, state.shared, out, self._slot, first, last
            )
            if begin < end:
                self.add_settled(out[begin:end].tobytes())
            if first < last:
                request, at = requests[chosen[first]], int(answers[first, A_AT])
                message = out[at : at + int(answers[first, A_LENGTH])].tobytes()
                refused += not self.answer(int(request[R_STREAM]), int(request[R_STREAM_GENERATION]), message)
                first += 1
        return refused

    def refuse_all(
        self, requests: Words, chosen: NDArray[np.int64], block: NDArray[np.uint8], first: int, last: int
    ) -> None:
        """Answer the requests chosen[first:last], all of this connection, by one header block.

        Those that were answered already, be it that the answer waits, are left alone.
        """
        state = self._state
        out = np.empty((last - first) * (block.size + REFUSAL_BYTES), np.uint8)
        end = refuse_requests(
            *(requests, chosen, block, state.connections, state.streams, state.shared, out),
            *(0, self._slot, first, last),
        )
        self.write(out[:end].tobytes())

    def answer(self, stream: int, generation: int, message: Chunk) -> bool:
        """Answer a unary call by one message, given behind gRPC's prefix, in one piece or in several.

        Returns False when the call got an error instead, because too much is unsent on all connections together.
        """
        if self.is_full and not self.is_paused:
            self._cut(WINDOW_BYTES_MAX)  # many large answers in one turn may find open windows
        if self.is_full and self._state.unsent_bytes > self._state.limits.unsent_bytes_in_all:
            is_refused = self._awaits(stream, generation)
            self._state.shared[H_COUNTS + REFUSED_TOO_MUCH_UNSENT] += is_refused
            self.refuse(stream, generation, TOO_MUCH_UNSENT)
            return not is_refused
        self.open(stream, generation)
        self.send(stream, generation, message)
        self.finish(stream, generation, _TRAILERS)
        return True

    def refuse(self, stream: int, generation: int, block: bytes) -> None:
        """Answer a call by one header block, to a stream on which nothing was written yet."""
        if self._settles(stream, generation):
            prefix = b"" if self._has_started() else TABLE_SIZE_ZERO
            self._end(stream, generation, prefix + block)

    def open(self, stream: int, generation: int) -> None:
        """Begin an answer: HEADERS."""
        if self._awaits(stream, generation):
            assert stream not in self._answers, "bug: an answer is begun twice"
            self._answers[stream] = _Answer()
            block = START if self._has_started() else FIRST_START
            self._ready.append(header_frames(int(self._state.streams[stream, S_ID]), block, 0))

    def send(self, stream: int, generation: int, chunk: Chunk) -> None:
        """Add to the DATA of an answer that was begun. A stream of messages sends none while the outbox is full.

        Pieces are kept as they are until they are written, so they must not change any more, and a view keeps all of
        what it is a view of.
        """
        if not self._awaits(stream, generation):
            return
        pieces = [memoryview(piece) for piece in ([chunk] if isinstance(chunk, bytes) else chunk)]
        pieces = [piece.cast("B") for piece in pieces if piece.nbytes]
        if pieces:
            self._answers[stream].pieces += pieces
            state = self._state
            enqueue(state.connections, state.streams, state.shared, stream, sum(map(len, pieces)))

    def finish(self, stream: int, generation: int, block: bytes) -> None:
        """End an answer that was begun, by its trailers, when all of its DATA is written."""
        if not self._settles(stream, generation):
            return
        if self._state.streams[stream, S_STATE] & STREAM_QUEUED:
            self._answers[stream].trailers = block
            self._state.streams[stream, S_STATE] |= STREAM_FINISHED
        else:
            del self._answers[stream]
            self._end(stream, generation, block)

    def flush(self, bytes_max: int) -> tuple[bytes, bool, bool]:
        """Return what is to be written now, with at most `bytes_max` bytes of queued DATA.

        And whether DATA is left (`is_waiting`), and whether `bytes_max` cut it off. Call it when something was handed
        in, and after each decode call for a connection that is waiting.
        """
        is_waiting = is_cut_off = False
        if self._answers and self.is_waiting:
            is_cut_off = self._cut(bytes_max)
            is_waiting = self.is_waiting
        chunk = b"".join(self._ready)
        self._ready.clear()
        return chunk, is_waiting, is_cut_off

    def pause(self, stream: int, generation: int) -> None:
        """Let a stream's peer send no more than its window still allows, because its handler does not keep up.

        Other streams are not disturbed: the connection's window is given back as before.
        """
        if self._awaits(stream, generation):
            self._state.streams[stream, S_STATE] |= STREAM_PAUSED

    def resume(self, stream: int, generation: int) -> None:
        """Let a stream's peer go on, and give back what is owed of its window."""
        row = self._state.streams[stream]
        if not self._awaits(stream, generation) or not row[S_STATE] & STREAM_PAUSED:
            return
        row[S_STATE] &= ~STREAM_PAUSED
        window, full = int(row[S_RECEIVE_WINDOW]), self._state.limits.stream_window_bytes
        if window <= full // 2 and not row[S_STATE] & STREAM_ENDED:
            row[S_RECEIVE_WINDOW] = full
            self._ready.append(frame(WINDOW_UPDATE, 0, int(row[S_ID]), (full - window).to_bytes(4, "big")))

    def begin_drain(self) -> None:
        """Tell the peer that we will go: it opens no new stream when it has seen this, and answers our PING."""
        last_id, code = WINDOW_BYTES_MAX.to_bytes(4, "big"), NO_ERROR.to_bytes(4, "big")
        self._ready += [frame(GOAWAY, 0, 0, last_id + code), frame(PING, 0, 0, _DRAIN_PING)]

    def end_drain(self) -> None:
        """Name the last stream that will be answered; later ones are ignored. Call it at the PONG or after a while."""
        row = self._state.connections[self._slot]
        row[C_LAST_ACCEPTED] = row[C_LAST_STREAM]
        last_id, code = int(row[C_LAST_STREAM]).to_bytes(4, "big"), NO_ERROR.to_bytes(4, "big")
        self._ready.append(frame(GOAWAY, 0, 0, last_id + code))

    def _has_started(self) -> bool:
        """Say whether a header block was written on this connection before the one that is written now."""
        row = self._state.connections[self._slot]
        started, row[C_ENCODER_STARTED] = bool(row[C_ENCODER_STARTED]), 1
        return started

    def _awaits(self, stream: int, generation: int) -> bool:
        """Say whether a stream waits for what is being written; a closed connection waits for nothing."""
        row = self._state.streams[stream]
        alive = row[S_GENERATION] == generation and row[S_STATE] and not row[S_STATE] & STREAM_RESET
        return bool(alive) and self._state.connections[self._slot, C_STATE] != CONNECTION_CLOSED

    def _settles(self, stream: int, generation: int) -> bool:
        """Say whether the end of a stream is to be written; that of a dead one is the end of its row."""
        if self._awaits(stream, generation):
            return True
        state = self._state
        if state.streams[stream, S_GENERATION] != generation:
            return False
        if state.streams[stream, S_STATE] & STREAM_QUEUED:
            state.streams[stream, S_STATE] |= STREAM_FINISHED  # the queue releases it
        else:
            self._answers.pop(stream, None)
            release_stream(state.connections, state.streams, state.shared, stream, generation)
        return False

    def _end(self, stream: int, generation: int, block: bytes) -> None:
        """Write the last header block of a stream and release its row."""
        state = self._state
        stream_id, is_ended = int(state.streams[stream, S_ID]), state.streams[stream, S_STATE] & STREAM_ENDED
        self._write_end(stream_id, block, is_early=not is_ended)
        release_stream(state.connections, state.streams, state.shared, stream, generation)

    def _write_end(self, stream_id: int, block: bytes, *, is_early: bool) -> None:
        """Write the last header block of a stream; a peer that still sends is told that nobody needs it."""
        self._ready.append(header_frames(stream_id, block, END_STREAM))
        if is_early:
            self._ready.append(frame(RST_STREAM, 0, stream_id, NO_ERROR.to_bytes(4, "big")))

    def _cut(self, bytes_max: int) -> bool:
        """Make ready what the windows let through; returns whether `bytes_max` cut it off."""
        state, status = self._state, STATUS_FULL
        while status == STATUS_FULL and bytes_max > 0:
            count, status = cut(
                state.connections, state.streams, state.shared, state.pieces, state.heads, self._slot, bytes_max
            )
            for k, (stream, stream_id, length, end) in enumerate(state.pieces[:count].tolist()):
                self._write_piece(k, stream, stream_id, length, end)
                bytes_max -= length
                self.moved_bytes += length
        return status == STATUS_FULL

    def _write_piece(self, k: int, stream: int, stream_id: int, length: int, end: int) -> None:
        """Write a piece of queued DATA, and the end of its stream when it is the last one."""
        answer = self._answers[stream]
        if end != PIECE_MORE:
            del self._answers[stream]
        if end == PIECE_DROPPED:
            return
        self._ready.append(self._state.heads[k * FRAME_HEADER_BYTES : (k + 1) * FRAME_HEADER_BYTES].tobytes())
        self._ready += answer.take(length)
        if end != PIECE_MORE:
            self._write_end(stream_id, answer.trailers, is_early=end == PIECE_LAST_EARLY)
