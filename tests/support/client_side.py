"""The client's kernels without sockets: what a server says goes in, what it would read comes out.

Everything runs twice, in two states whose unused bytes differ; a stray read would make the outputs differ. The
connection under test lies between two others, which must stay as they are.
"""

import struct

import numpy as np

from serving.wire.client import heads, layout
from serving.wire.client.receive import receive
from serving.wire.client.send import cancel, expire, open_connection, send
from serving.wire.client.tally import CODE_NAMES
from serving.wire.layout import C_STATE, C_STREAM_COUNT, CONNECTION_OPEN
from tests.support.peers import settings

SLOT = 1
SOURCE_BYTES = 300_000
HEAD = heads.request_head("localhost:1")


class _Side:
    """One of the two states."""

    def __init__(self, garbage: int, messages: list[bytes], due: list[int], limits: dict) -> None:
        self.garbage = garbage
        self.state = state = layout.State(3, **limits)
        state.pool[:] = state.headers[:] = 0xA0 + garbage
        state.outs[:] = 0xB0 + garbage
        state.ready[:] = -1 - garbage
        state.shared[layout.X_SLO_NS] = 1000
        state.shared[layout.X_END_NS] = layout.NOTHING_DUE
        open_connection(state.connections, state.calls, state.shared, SLOT)
        self.source = np.full(SOURCE_BYTES, 0xC0 + garbage, np.uint8)
        self.filled = 0
        framed = [struct.pack(">BI", 0, len(message)) + message for message in messages]
        lengths = np.array([len(message) for message in framed], np.int64)
        self.messages = np.frombuffer(b"".join(framed), np.uint8).copy()
        self.where = np.stack([np.cumsum(lengths) - lengths, lengths], axis=1)
        self.head = np.frombuffer(HEAD, np.uint8).copy()
        self.due = np.array([*due, 0], np.int64)
        state.shared[layout.X_DUE_COUNT] = len(due)

    def send(self, now_ns: int) -> tuple[tuple[int, ...], bytes]:
        s = self.state
        found, *told = send(
            s.connections, s.calls, s.outs, s.shared, s.counts, self.due, self.messages, self.where, self.head,
            s.ready, now_ns,
        )  # fmt: skip
        assert s.ready[:found].tolist() in ([], [[SLOT, int(s.connections[SLOT, layout.K_OUT_BYTES])]])
        return tuple(told), self.taken()

    def receive(self, chunk: bytes, now_ns: int) -> tuple[int, int, bytes, bytes]:
        s = self.state
        assert self.filled + len(chunk) <= SOURCE_BYTES, "the kernel leaves more than a header block"
        self.source[self.filled : self.filled + len(chunk)] = np.frombuffer(chunk, np.uint8)
        self.filled += len(chunk)
        out = b""
        while True:
            status, left, out_bytes, detail = receive(
                self.source, s.connections, s.calls, s.pool, s.headers, s.outs, s.shared, s.counts, self.due, SLOT,
                self.filled, now_ns,
            )  # fmt: skip
            assert 0 <= left <= self.filled
            assert status != layout.STATUS_FULL or left < self.filled or out_bytes, "full, and no progress"
            self.filled = left
            out += self.taken()
            if status != layout.STATUS_FULL:
                break
        text = s.headers[:detail].tobytes() if status == layout.STATUS_GOAWAY else b""
        self.source[left:] = 0xC0 + self.garbage
        self.check()
        return status, detail, out, text

    def taken(self) -> bytes:
        """Take the output, as a socket would."""
        count = int(self.state.connections[SLOT, layout.K_OUT_BYTES])
        out = self.state.outs[SLOT, :count].tobytes()
        self.state.connections[SLOT, layout.K_OUT_BYTES] = 0
        return out

    def check(self) -> None:
        """What must hold after every call."""
        s, calls_max = self.state, self.state.calls_max
        live = np.flatnonzero(s.calls[:, layout.Q_ID])
        assert (live // calls_max == SLOT).all()
        assert s.connections[SLOT, C_STREAM_COUNT] == s.shared[layout.X_LIVE] == live.size
        assert not s.connections[[0, 2]].any()
        assert (s.outs[[0, 2]] == 0xB0 + self.garbage).all()


class ClientSide:
    """A connection whose server says what the test says. `due` are intended moments; limits are those of State."""

    def __init__(
        self, due: list[int] = (), *, messages: list[bytes] = (b"message",), greet: bool = True, **limits
    ) -> None:  # fmt: skip
        bounds = {"calls_max": 16, "out_bytes": 40_000}
        self.sides = [_Side(garbage, list(messages), list(due), bounds | limits) for garbage in range(2)]
        self.status, self.detail, self.text, self.answers = layout.STATUS_HUNGRY, 0, b"", b""
        self.waits = self.goes_on = False
        if greet:
            self.receive(settings())
            self.answers = b""

    def send(self, now_ns: int = 0) -> bytes:
        """Send what is due; returns the bytes."""
        first, second = (side.send(now_ns) for side in self.sides)
        assert first == second
        (self.next_ns, self.live, waits, goes_on), out = first
        self.waits, self.goes_on = waits != 0, goes_on != 0
        return out

    def receive(self, chunk: bytes, now_ns: int = 0) -> bytes:
        """Take what the server says; returns what is answered at once, and adds it to `answers`."""
        first, second = (side.receive(chunk, now_ns) for side in self.sides)
        assert first == second
        self.status, self.detail, out, self.text = first
        self.answers += out
        return out

    def expire(self, now_ns: int, timeout_ns: int) -> bytes:
        for side in self.sides:
            s = side.state
            s.shared[layout.X_TIMEOUT_NS] = timeout_ns
            assert expire(s.connections, s.calls, s.outs, s.shared, side.due, now_ns)
            side.check()
        return self._taken()

    def cancel(self) -> bytes:
        out, done = b"", False
        while not done:
            (done,) = {cancel(side.state.connections, side.state.calls, side.state.outs, side.state.shared)
                       for side in self.sides}  # fmt: skip
            out += self._taken()
        return out

    def _taken(self) -> bytes:
        (out,) = {side.taken() for side in self.sides}
        return out

    def set(self, **columns: int) -> None:
        """Set columns of the shared row by their names without the X_."""
        for side in self.sides:
            for name, value in columns.items():
                side.state.shared[getattr(layout, f"X_{name.upper()}")] = value

    def shared(self, column: int) -> int:
        return int(self.sides[0].state.shared[column])

    def shared_row(self) -> list[int]:
        """The client's own columns."""
        return self.sides[0].state.shared[layout.H_BLOCK_NEXT :].tolist()

    def connection(self, column: int) -> int:
        return int(self.sides[0].state.connections[SLOT, column])

    def codes(self) -> dict[str, int]:
        """Counted ends of calls, by code."""
        counts = self.sides[0].state.shared[layout.X_CODES :].tolist()
        return {name: count for name, count in zip(CODE_NAMES, counts, strict=True) if count}

    @property
    def breach(self) -> str | None:
        return layout.BREACHES[self.detail] if self.status == layout.STATUS_BREACH else None

    @property
    def is_open(self) -> bool:
        return self.connection(C_STATE) == CONNECTION_OPEN

    @property
    def goaway_code(self) -> int:
        return self.connection(layout.K_ERROR)
