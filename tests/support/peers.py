"""Connections to the HTTP/2 decoder without sockets: what a peer sends goes in, what it would see comes out.

Everything runs twice, in two states whose unused bytes differ; a stray read would make the answers differ, a stray
write would damage the fence around the bytes or break the count of rows and blocks.
"""

import struct
from typing import NamedTuple

import hpack

from serving.wire import connection, frames, http2, layout, streams
from tests.support.wire import CANARY_BYTES, fenced, records

PREFACE = bytes(connection.PREFACE)
SLOT = 1
INFER = [
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", b"/inference.GRPCInferenceService/ModelInfer"),
    (b":authority", b"localhost"),
    (b"te", b"trailers"),
    (b"content-type", b"application/grpc"),
]
OTHER = [field if field[0] != b":path" else (b":path", b"/grpc.health.v1.Health/Watch") for field in INFER]


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream_id) + payload


def settings(*pairs: tuple[int, int]) -> bytes:
    return frame(frames.SETTINGS, 0, 0, b"".join(struct.pack(">HI", *pair) for pair in pairs))


def headers(stream_id: int, fields=INFER, flags: int = frames.END_HEADERS) -> bytes:
    """A HEADERS frame that leaves the peer's table alone."""
    block = b"".join(b"\x00" + text(name) + text(value) for name, value in fields)
    return frame(frames.HEADERS, flags, stream_id, block)


def text(string: bytes) -> bytes:
    return hpack.hpack.encode_integer(len(string), 7) + string


def data(stream_id: int, payload: bytes = b"", flags: int = 0) -> bytes:
    return frame(frames.DATA, flags, stream_id, payload)


def message(content: bytes, flag: int = 0) -> bytes:
    return struct.pack(">BI", flag, len(content)) + content


def request(stream_id: int, content: bytes = b"request") -> bytes:
    return headers(stream_id) + data(stream_id, message(content), frames.END_STREAM)


def split_frames(out: bytes) -> list[tuple[int, int, int, bytes]]:
    """Return (kind, flags, stream id, payload) of each frame."""
    found, at = [], 0
    while at < len(out):
        length = int.from_bytes(out[at : at + 3], "big")
        kind, flags, stream_id = out[at + 3], out[at + 4], int.from_bytes(out[at + 5 : at + 9], "big")
        found.append((kind, flags, stream_id, out[at + 9 : at + 9 + length]))
        at += 9 + length
    return found


class Event(NamedTuple):
    """An event with its bytes: a message's content, or the fields of an opened call."""

    kind: int
    id: int
    detail: int = 0
    content: object = None
    deadline_ns: int = layout.NO_DEADLINE
    encoding: int = layout.ENCODING_IDENTITY


class _Side:
    """One of the two states."""

    def __init__(self, garbage: int, limits: layout.Limits) -> None:
        self.garbage = garbage
        self.state = state = layout.State(limits)
        state.pool[:] = state.headers[:] = state.control[:] = 0xA0 + garbage
        state.events[:] = -1 - garbage
        length = connection.open_connection(state.connections, state.shared, state.control, SLOT, 0)
        self.opening = state.control[:length].tobytes()
        self.tail = b""
        self.parts: dict[int, bytes] = {}
        self.rows: dict[int, tuple[int, int]] = {}
        self.frames_decoded = 0

    def receive(self, chunk: bytes, now_ns: int) -> tuple[int, list[Event], bytes]:
        source, at, end = fenced(self.tail + chunk, self.garbage)
        fences = source[:CANARY_BYTES].tobytes(), source[-CANARY_BYTES:].tobytes()
        events, control = [], b""
        status = layout.STATUS_FULL
        while status == layout.STATUS_FULL:
            s = self.state
            status, at, event_rows, control_bytes, header_bytes = http2.decode(
                source,
                s.connections,
                s.streams,
                s.pool,
                s.events,
                s.control,
                s.headers,
                s.shared,
                SLOT,
                at,
                end,
                now_ns,
            )
            outputs = s.headers[:header_bytes].tobytes()
            assert status != layout.STATUS_FULL or event_rows + control_bytes, "full without any output: no progress"
            events += [self._event(row, source, outputs) for row in s.events[:event_rows].tolist()]
            control += s.control[:control_bytes].tobytes()
            s.headers[:] = 0xA0 + self.garbage
            assert (source[:CANARY_BYTES].tobytes(), source[-CANARY_BYTES:].tobytes()) == fences
        self.tail = source[at:end].tobytes()
        self.check()
        return status, [event for event in events if event.kind != layout.EVENT_PART], control

    def _event(self, row, source, outputs) -> Event:
        event = dict(zip(("kind", "stream", "generation", "id", "source", "at", "length"), row, strict=False))
        if event["stream"] >= 0:
            self.rows[event["id"]] = event["stream"], event["generation"]
        span = slice(event["at"], event["at"] + event["length"])
        content = None
        if event["kind"] == layout.EVENT_OPENED:
            content = records(outputs[span])
        elif event["kind"] == layout.EVENT_PART:
            self.parts[event["id"]] = self.parts.get(event["id"], b"") + source[span].tobytes()
        elif event["kind"] in {layout.EVENT_REQUEST, layout.EVENT_MESSAGE}:
            if event["source"] == layout.SOURCE_BUFFER:
                content = source[span].tobytes()
            elif event["source"] == layout.SOURCE_POOL:
                content = self.state.pool[span].tobytes()
            else:
                content = self.parts.pop(event["id"])
            assert len(content) == event["length"]
        deadline_ns = row[layout.E_DEADLINE_NS] if event["stream"] >= 0 else layout.NO_DEADLINE
        detail = row[layout.E_DETAIL] if event["kind"] != layout.EVENT_PART else 0
        return Event(event["kind"], event["id"], detail, content, deadline_ns, row[layout.E_ENCODING])

    def release(self, stream_id: int) -> int:
        stream, generation = self.rows[stream_id]
        state = self.state
        return streams.release_stream(state.connections, state.streams, state.shared, stream, generation)

    def check(self) -> None:
        """Every row and every block is in one place."""
        state = self.state
        held = [stream for bucket in range(layout.BUCKETS) for stream in self._chain(layout.C_BUCKETS + bucket)]
        assert len(held) == state.connections[SLOT, layout.C_STREAM_COUNT]
        assert all(state.streams[stream, layout.S_STATE] for stream in held)
        free = list(self._list(layout.H_FREE_STREAM, state.streams[:, layout.S_NEXT]))
        assert sorted(held + free) == list(range(len(state.streams)))
        blocks = [int(block) for block in state.streams[held, layout.S_BLOCK] if block >= 0]
        following = state.shared[layout.H_BLOCK_NEXT :]
        blocks += self._list(layout.H_FREE_BLOCK, following)
        blocks += self._list(layout.H_RETIRED_BLOCK, following)
        assert sorted(blocks) == list(range(state.limits.blocks))
        assert not state.connections[[0, 2], layout.C_STREAM_COUNT].any()

    def _chain(self, bucket: int):
        stream = int(self.state.connections[SLOT, bucket])
        while stream >= 0:
            yield stream
            stream = int(self.state.streams[stream, layout.S_NEXT])

    def _list(self, head: int, following):
        item = int(self.state.shared[head])
        while item >= 0:
            yield item
            item = int(following[item])


class Peer:
    """A connection whose peer says what the test says."""

    def __init__(self, *, greet: bool = True, **limits) -> None:
        bounds = {"connections": 3, "streams": 12, "blocks": 3, "block_bytes": 1000, "streams_per_connection": 8}
        self.sides = [_Side(garbage, layout.Limits(**(bounds | limits))) for garbage in range(2)]
        self.opening = self.sides[0].opening
        self.status = layout.STATUS_HUNGRY
        self.control = b""
        if greet:
            self.send(PREFACE + settings())
            self.control = b""

    def send(self, chunk: bytes, *, now_ns: int = 0) -> list[Event]:
        """Send bytes; returns the events, and adds to `control` what the peer would read."""
        first, second = (side.receive(chunk, now_ns) for side in self.sides)
        assert first == second
        self.status, events, control = first
        self.control += control
        return events

    def answers(self) -> list[tuple[int, int, int, bytes]]:
        """Return the control frames since the last call."""
        found, self.control = split_frames(self.control), b""
        return found

    def release(self, stream_id: int) -> int:
        first, second = (side.release(stream_id) for side in self.sides)
        assert first == second
        return first

    def refusals(self) -> dict[str, int]:
        """What was refused so far, and how often."""
        counts = self.sides[0].state.shared[layout.H_COUNTS :][: len(layout.REFUSALS)].tolist()
        return {name: count for name, count in zip(layout.REFUSALS, counts, strict=True) if count}

    def column(self, column: int) -> int:
        return int(self.sides[0].state.connections[SLOT, column])

    @property
    def is_closed(self) -> bool:
        return self.status == layout.STATUS_CLOSED
