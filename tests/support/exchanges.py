"""A hostile client and a server that answers by chance: the decoder, the streams and the outbox together.

One slot serves one connection after the other, and answers of earlier ones come late. What is written is judged by a
ledger that knows RFC 9113 and nothing of ours: frames in order, no window exceeded, every body a beginning of what was
given for its stream, nothing for a stream that has no answer.
"""

import random
from collections import deque
from dataclasses import dataclass, field

import numpy as np

from serving.wire import answer_blocks, connection, frames, layout, settling
from serving.wire.outbox import Outbox
from serving.wire.records import R_CONNECTION, R_STREAM, R_STREAM_GENERATION, REQUEST_COLUMNS
from serving.wire.response import A_AT, A_LENGTH, ANSWER_COLUMNS
from tests.support.odd_sessions import odd_session
from tests.support.peers import PREFACE, SLOT, Peer, message, split_frames

LIMITS = {
    "streams_per_connection": 6,
    "streams": 9,
    "control_frames": 300,
    "pieces": 3,
    "unsent_bytes": 60_000,
    "unsent_bytes_in_all": 60_000,
}
LIVES_MAX = 3
WIDE_OPEN = 2**30
FRAME_SIZE_ERROR = b"\0\0\0\6"
FAREWELLS = [answer_blocks.error(8, "the queue is full"), answer_blocks.error(14, "the server is shutting down")]


@dataclass
class Written:
    """What was written for a stream."""

    has_begun: bool = False
    has_ended: bool = False
    is_reset: bool = False
    body: bytes = b""


@dataclass
class Ledger:
    """Both sides of a connection, as frames."""

    given: dict[int, bytes] = field(default_factory=dict)
    streams: dict[int, Written] = field(default_factory=dict)
    updates: dict[int, int] = field(default_factory=dict)
    window: int = 65_535
    initial_window: int = 65_535
    frame_bytes_max: int = 16_384
    settings: deque = field(default_factory=deque)
    is_over: bool = False
    _unread: bytes = b""

    def peer_said(self, consumed: bytes) -> None:
        """Take what the decoder has used up."""
        self._unread += consumed
        self._unread = self._unread.removeprefix(PREFACE)
        while len(self._unread) >= 9 and len(self._unread) >= 9 + int.from_bytes(self._unread[:3], "big"):
            ((kind, flags, stream_id, payload),) = split_frames(self._take(9 + int.from_bytes(self._unread[:3], "big")))
            if kind == frames.SETTINGS and not flags & frames.ACK:
                self.settings.append(payload)
            elif kind == frames.WINDOW_UPDATE:
                stream_id &= 2**31 - 1
                increment = int.from_bytes(payload, "big") & 2**31 - 1
                self.updates[stream_id] = self.updates.get(stream_id, 0) + increment

    def _take(self, count: int) -> bytes:
        taken, self._unread = self._unread[:count], self._unread[count:]
        return taken

    def we_wrote(self, chunk: bytes) -> None:
        """Take what was written, and judge it."""
        for kind, flags, stream_id, payload in split_frames(chunk):
            stream = self.streams.setdefault(stream_id, Written())
            assert not self.is_over or stream.has_begun, "something new after the last GOAWAY"
            if kind == frames.SETTINGS and flags & frames.ACK:
                self._apply(self.settings.popleft())
            elif kind == frames.HEADERS:
                self._header_block(stream_id, stream, flags)
            elif kind == frames.DATA:
                self._data(stream_id, stream, flags, payload)
            elif kind == frames.RST_STREAM:
                # A PRIORITY of wrong length is answered by this code on any stream, even on one that opens later.
                early = payload == FRAME_SIZE_ERROR and not stream.has_begun
                stream.is_reset |= not early and (stream.has_begun or stream_id in self.given)
            elif kind == frames.GOAWAY:
                self.is_over = payload[4:8] != bytes(4)
            else:
                assert kind in {frames.SETTINGS, frames.WINDOW_UPDATE, frames.PING}

    def _apply(self, payload: bytes) -> None:
        """The peer's settings count from our acknowledgement on."""
        for at in range(0, len(payload), 6):
            name, value = int.from_bytes(payload[at : at + 2], "big"), int.from_bytes(payload[at + 2 : at + 6], "big")
            if name == 4:
                self.initial_window = value
            elif name == 5:
                self.frame_bytes_max = value

    def _header_block(self, stream_id: int, stream: Written, flags: int) -> None:
        assert stream_id in self.given, "an answer that nobody gave"
        assert flags & frames.END_HEADERS
        assert not stream.has_ended
        assert not stream.is_reset
        assert not stream.has_begun or flags & frames.END_STREAM
        stream.has_begun, stream.has_ended = True, bool(flags & frames.END_STREAM)

    def _data(self, stream_id: int, stream: Written, flags: int, payload: bytes) -> None:
        assert stream.has_begun
        assert not stream.has_ended
        assert not stream.is_reset
        assert flags == 0
        stream.body += payload
        self.window -= len(payload)
        assert len(payload) <= self.frame_bytes_max
        assert self.given[stream_id].startswith(stream.body)
        assert len(stream.body) <= self.initial_window + self.updates.get(stream_id, 0)
        assert self.window + self.updates.get(0, 0) >= 0


class Life:
    """One connection in the slot: its outboxes, its ledger, the calls that wait."""

    def __init__(self, peer: Peer, choice: random.Random) -> None:
        self.peer = peer
        self.choice = choice
        self.outboxes = [Outbox(side.state, SLOT) for side in peer.sides]
        self.ledger = Ledger()
        self.rows = [dict[int, tuple[int, int]]() for _ in peer.sides]
        self.waiting: list[int] = []  # to be answered at once
        self.talking: list[int] = []  # whose answer was begun
        self.goodbyes = ["begin_drain", "end_drain"]
        self.acts_max = choice.choice([0, 1, 4])  # between two reads: a slow server leaves more for later

    def receive(self, chunk: bytes) -> None:
        """Let the server read."""
        before = self.peer.sides[0].tail
        events = self.peer.send(chunk)
        whole = before + chunk
        self.ledger.peer_said(whole[: len(whole) - len(self.peer.sides[0].tail)])
        for outbox in self.outboxes:
            outbox.write(self.peer.control)
        self.peer.control = b""
        for event in events:
            self.take(event)

    def take(self, event) -> None:
        if event.kind not in {layout.EVENT_REQUEST, layout.EVENT_OPENED, layout.EVENT_FAILED, layout.EVENT_RESET}:
            return
        for mine, side in zip(self.rows, self.peer.sides, strict=True):
            mine[event.id] = side.rows[event.id]
        if event.id in self.ledger.given:
            return  # it is being answered, or its answer waits for a window
        self.ledger.given[event.id] = b""
        if event.kind == layout.EVENT_OPENED and self.choice.random() < 0.7:
            self.talking.append(event.id)
            self.do("open", event.id)
        else:
            self.waiting.append(event.id)

    def do(self, method: str, stream_id: int, *arguments) -> None:
        for outbox, rows in zip(self.outboxes, self.rows, strict=True):
            getattr(outbox, method)(*rows[stream_id], *arguments)

    # What the server does, by chance

    def content(self, stream_id: int) -> bytes:
        choice = self.choice
        length = choice.choice([0, 1, 80, 80, 80, 2000, 16_379, 16_380, 50_000])
        content = message(choice.randbytes(length))
        self.ledger.given[stream_id] += content
        return content

    def act(self) -> None:
        usual = [self.settle, self.settle, self.answer, self.refuse, self.send, self.end, self.flush]
        self.choice.choice([*usual, self.pause_or_resume, self.drain])()

    def some(self, waiting: list[int]) -> list[int]:
        chosen = self.choice.sample(waiting, self.choice.randrange(len(waiting) + 1))
        waiting[:] = [stream_id for stream_id in waiting if stream_id not in chosen]
        return chosen

    def settle(self) -> None:
        chosen = self.some(self.waiting)
        contents = [self.content(stream_id) for stream_id in chosen]
        for outbox, rows in zip(self.outboxes, self.rows, strict=True):
            requests, answers, out = batch([rows[stream_id] for stream_id in chosen], contents)
            outbox.settle(requests, np.arange(len(chosen)), answers, out, 0, len(chosen))

    def answer(self) -> None:
        for stream_id in self.some(self.waiting)[:1]:
            self.do("answer", stream_id, self.in_pieces(self.content(stream_id)))

    def in_pieces(self, content: bytes) -> bytes | list[bytes]:
        """Cut a message into pieces, some of them empty, or leave it whole."""
        if self.choice.random() < 0.5:
            return content
        cuts = sorted(self.choice.randrange(len(content) + 1) for _ in range(3))
        return [content[a:b] for a, b in zip([0, *cuts], [*cuts, len(content)], strict=True)]

    def refuse(self) -> None:
        chosen = self.some(self.waiting)
        block = self.choice.choice(FAREWELLS)
        if self.choice.random() < 0.5:
            for stream_id in chosen:
                self.do("refuse", stream_id, block)
            return
        for outbox, rows in zip(self.outboxes, self.rows, strict=True):
            requests, _, _ = batch([rows[stream_id] for stream_id in chosen], [b""] * len(chosen))
            outbox.refuse_all(requests, np.arange(len(chosen)), answer_blocks.as_array(block), 0, len(chosen))

    def send(self) -> None:
        if self.talking and not self.outboxes[0].is_full:
            stream_id = self.choice.choice(self.talking)
            self.do("send", stream_id, self.in_pieces(self.content(stream_id)))

    def end(self) -> None:
        for stream_id in self.some(self.talking):
            self.do("finish", stream_id, answer_blocks.trailers(0))

    def pause_or_resume(self) -> None:
        if self.talking:
            self.do(self.choice.choice(["pause", "resume"]), self.choice.choice(self.talking))

    def drain(self) -> None:
        """Say that the server goes, and then, once, after which stream."""
        if self.choice.random() < 0.1 and self.goodbyes and not self.peer.is_closed:
            goodbye = self.goodbyes.pop(0)
            for outbox in self.outboxes:
                getattr(outbox, goodbye)()

    def flush(self) -> None:
        bytes_max = self.choice.choice([1, 1000, 30_000, WIDE_OPEN])
        first, second = (outbox.flush(bytes_max) for outbox in self.outboxes)
        assert first == second
        self.ledger.we_wrote(first[0])
        for side in self.peer.sides:
            side.check()

    def answer_late(self, current: "Life") -> None:
        """Answer some of the calls of this connection, which is closed, by the outbox of the slot's next owner."""
        self.outboxes = current.outboxes
        self.choice.choice([self.settle, self.answer, self.refuse])()

    def settle_all(self) -> None:
        """Answer everything that waits."""
        while self.waiting or self.talking:
            self.choice.choice([self.settle, self.answer, self.refuse, self.end])()

    def close(self) -> None:
        """The socket is gone, and what was said on streams with it; a batch still runs."""
        self.talking.clear()
        for side in self.peer.sides:
            state = side.state
            connection.close_connection(state.connections, state.streams, state.shared, SLOT)


def batch(rows: list[tuple[int, int]], contents: list[bytes]):
    """Return the requests of some rows, the places of their answers, and these with the gaps around them."""
    requests = np.zeros((len(rows), REQUEST_COLUMNS), np.int64)
    answers = np.zeros((len(rows), ANSWER_COLUMNS), np.int64)
    out = b""
    for k, ((stream, generation), content) in enumerate(zip(rows, contents, strict=True)):
        requests[k, [R_CONNECTION, R_STREAM, R_STREAM_GENERATION]] = SLOT, stream, generation
        out += bytes(settling.BEFORE_BYTES)
        answers[k, [A_AT, A_LENGTH]] = len(out), len(content)
        out += content + bytes(settling.AFTER_BYTES)
    return requests, answers, np.frombuffer(out, np.uint8).copy()


def sessions(seed: int) -> list[bytes]:
    """Return the pieces of some sessions, an empty one behind each."""
    choice = random.Random(f"exchange {seed}")
    return [piece for _ in range(choice.randrange(1, LIVES_MAX + 1)) for piece in [*odd_session(choice), b""]]


def check_exchange(seed: int, pieces: list[bytes]) -> None:
    """Serve one connection after the other in one slot, and answer what is left of each in the middle of later ones."""
    choice = random.Random(f"server {seed}")
    peer = Peer(greet=False, **LIMITS)
    old: list[Life] = []
    life = begin(peer, choice, is_first=True)
    for piece in pieces:
        if not piece:
            life.flush()
            life.close()
            old.append(life)
            life = begin(peer, choice, is_first=False)
            continue
        life.receive(piece)
        for _ in range(choice.randrange(1 + life.acts_max)):
            life.act()
        if old:
            choice.choice(old).answer_late(life)
    life.settle_all()
    life.close()
    for side in peer.sides:
        side.check()
        assert side.state.connections[SLOT, layout.C_STREAM_COUNT] == 0


def begin(peer: Peer, choice: random.Random, *, is_first: bool) -> Life:
    """Open the slot for a new connection."""
    for side in [] if is_first else peer.sides:
        state = side.state
        connection.open_connection(state.connections, state.shared, state.control, SLOT, 0)
        side.tail = b""
        side.parts.clear()
    return Life(peer, choice)
