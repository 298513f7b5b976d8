"""A connection with an outbox, and h2's client at its other end, which accepts nothing that breaks the protocol.

Everything runs twice, in two states whose unused bytes differ. `python -m tests.support.answering SEED COUNT` runs
seeded sessions and prints a digest of all that was written, so that a process with bounds checks can be compared with
one without.
"""

import hashlib
import random
import sys

import h2.config
import h2.connection
import h2.events
import h2.settings
import numpy as np

from serving.wire import answer_blocks, layout, settling
from serving.wire.outbox import Outbox
from serving.wire.records import R_CONNECTION, R_STREAM, R_STREAM_GENERATION, REQUEST_COLUMNS
from serving.wire.response import A_AT, A_LENGTH, ANSWER_COLUMNS
from tests.support.peers import INFER, OTHER, SLOT, Peer, message

MARGIN_BYTES = 7
LIMITS = {"streams_per_connection": 12, "streams": 20, "control_frames": 10**6, "pieces": 3}
WIDE_OPEN = 2**30


class Seen:
    """What the client has seen of one stream."""

    def __init__(self) -> None:
        self.headers = self.trailers = None
        self.body = b""
        self.ended = False
        self.reset = None


def prefixed(content: bytes) -> bytes:
    return message(content)


class Session:
    """A client and the output side of its connection."""

    def __init__(self, *, window=65_535, frame_max=16_384, **limits) -> None:
        self.peer = Peer(greet=False, **(LIMITS | limits))
        self.outboxes = [Outbox(side.state, SLOT) for side in self.peer.sides]
        self.client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding=None))
        codes = h2.settings.SettingCodes
        values = {codes.INITIAL_WINDOW_SIZE: window, codes.MAX_FRAME_SIZE: frame_max, codes.ENABLE_PUSH: 0}
        self.client.local_settings = h2.settings.Settings(client=True, initial_values=values)
        self.client.max_inbound_frame_size = frame_max
        self.client.initiate_connection()
        self.seen: dict[int, Seen] = {}
        self.written = b""
        self.goaways: list[int] = []
        self.is_slow = False
        self.read(self.peer.opening)
        self.talk()

    def call(self, fields=INFER, *, content=b"request", end=True) -> int:
        """Begin a call; returns its stream id."""
        stream_id = self.client.get_next_available_stream_id()
        self.seen[stream_id] = Seen()
        self.client.send_headers(stream_id, fields)
        self.client.send_data(stream_id, prefixed(content), end_stream=end)
        self.talk()
        return stream_id

    def talk(self) -> list:
        """Let the server read what the client has said, and the client, unless it is slow, what is ready for it."""
        told = self.peer.send(self.client.data_to_send())
        for outbox in self.outboxes:
            outbox.write(self.peer.control)
        self.peer.control = b""
        if not self.is_slow:
            self.flush(0)
        return told

    def read(self, chunk: bytes) -> None:
        for event in self.client.receive_data(chunk):
            seen = self.seen.get(getattr(event, "stream_id", None))
            if isinstance(event, h2.events.ResponseReceived):
                assert seen.headers is None
                seen.headers = [(bytes(name), bytes(value)) for name, value in event.headers]
            elif isinstance(event, h2.events.DataReceived):
                assert seen.headers is not None
                assert seen.trailers is None
                seen.body += event.data
            elif isinstance(event, h2.events.TrailersReceived):
                seen.trailers = [(bytes(name), bytes(value)) for name, value in event.headers]
            elif isinstance(event, h2.events.StreamEnded):
                seen.ended = True
            elif isinstance(event, h2.events.StreamReset) and event.remote_reset:
                seen.reset = event.error_code
            elif isinstance(event, h2.events.ConnectionTerminated):
                self.goaways.append(event.last_stream_id)

    def do(self, method: str, stream_id: int, *arguments) -> None:
        """Call a method of the outbox for a stream."""
        for side, outbox in zip(self.peer.sides, self.outboxes, strict=True):
            getattr(outbox, method)(*side.rows[stream_id], *arguments)

    def flush(self, bytes_max: int = WIDE_OPEN) -> bool:
        """Let the client read what is to be written; returns whether the bytes were cut off at `bytes_max`."""
        first, second = (outbox.flush(bytes_max) for outbox in self.outboxes)
        assert first == second
        chunk, is_waiting, cut_off = first
        assert is_waiting == self.outboxes[0].is_waiting
        for side in self.peer.sides:
            side.check()
        self.written += chunk
        self.read(chunk)
        return cut_off

    def settle(self, contents: dict[int, bytes]) -> None:
        """Settle a batch of answers by stream id, as `response.encode` would have written them."""
        for garbage, (side, outbox) in enumerate(zip(self.peer.sides, self.outboxes, strict=True)):
            requests, answers, out = batch(side, contents, garbage)
            margin = out[:MARGIN_BYTES].tobytes(), out[-MARGIN_BYTES:].tobytes()
            untouched = side.state.connections[[0, 2]].copy()
            outbox.settle(requests, np.arange(len(contents)), answers, out, 0, len(contents))
            assert (out[:MARGIN_BYTES].tobytes(), out[-MARGIN_BYTES:].tobytes()) == margin
            assert (side.state.connections[[0, 2]] == untouched).all()

    def refuse_all(self, stream_ids: list[int], block: bytes) -> None:
        for garbage, (side, outbox) in enumerate(zip(self.peer.sides, self.outboxes, strict=True)):
            requests, _, _ = batch(side, dict.fromkeys(stream_ids, b""), garbage)
            order = np.arange(len(stream_ids))
            outbox.refuse_all(requests, order, answer_blocks.as_array(block), 0, len(stream_ids))

    def finish(self) -> None:
        """Open all windows, and read until nothing is left."""
        self.client.increment_flow_control_window(WIDE_OPEN)
        for stream_id, seen in self.seen.items():
            if seen.headers and not seen.ended and seen.reset is None and self.is_open(stream_id):
                self.client.increment_flow_control_window(WIDE_OPEN, stream_id)
        self.talk()
        while self.flush():
            pass

    def is_open(self, stream_id: int) -> bool:
        return stream_id in self.client.streams and self.client.streams[stream_id].open

    def column(self, column: int) -> int:
        return self.peer.column(column)


def batch(side, contents: dict[int, bytes], garbage: int):
    """Return the requests, the places of their answers, and these with gaps around them."""
    requests = np.zeros((len(contents), REQUEST_COLUMNS), np.int64)
    answers = np.zeros((len(contents), ANSWER_COLUMNS), np.int64)
    noise = bytes([0xA0 + garbage])
    out = noise * MARGIN_BYTES
    for k, (stream_id, content) in enumerate(contents.items()):
        stream, generation = side.rows[stream_id]
        requests[k, [R_CONNECTION, R_STREAM, R_STREAM_GENERATION]] = SLOT, stream, generation
        out += noise * settling.BEFORE_BYTES
        answers[k, [A_AT, A_LENGTH]] = len(out), len(prefixed(content))
        out += prefixed(content) + noise * settling.AFTER_BYTES
    return requests, answers, np.frombuffer(out + noise * MARGIN_BYTES, np.uint8).copy()


class Story:
    """A session in which everything happens by chance; `expected` are the bytes that each living stream must get."""

    def __init__(self, seed: int) -> None:
        self.choice = choice = random.Random(seed)
        window, frame_max = choice.choice([0, 1, 90, 3000, 65_535, 2**20]), choice.choice([16_384, 20_000, 2**20])
        self.session = Session(window=window, frame_max=frame_max)
        self.waiting: list[int] = []  # unary calls without an answer
        self.talking: list[int] = []  # other calls, whose answer was begun
        self.expected: dict[int, bytes] = {}
        self.refused: set[int] = set()

    def run(self) -> None:
        steps = [self.begin, self.begin, self.settle, self.settle, self.answer, self.refuse, self.send, self.end]
        steps += [self.cancel, self.open_stream_window, self.open_connection_window, self.resize, self.flush]
        for _ in range(self.choice.randrange(10, 60)):
            self.session.is_slow = self.choice.random() < 0.5
            self.choice.choice(steps)()
        for stream_id in [*self.waiting]:
            self.give(stream_id)
        while self.talking:
            self.end()
        self.session.flush()
        self.session.finish()
        self.check()

    def content(self) -> bytes:
        return self.choice.randbytes(self.choice.choice([0, 1, 80, 80, 80, 2000, 16_379, 16_380, 50_000, 150_000]))

    def begin(self) -> None:
        open_streams = max(self.session.column(layout.C_STREAM_COUNT), self.session.client.open_outbound_streams)
        if open_streams >= LIMITS["streams_per_connection"]:  # a slow client has not read the ends of some yet
            return
        is_unary = self.choice.random() < 0.7
        stream_id = self.session.call(INFER if is_unary else OTHER, end=is_unary or self.choice.random() < 0.5)
        self.expected[stream_id] = b""
        (self.waiting if is_unary else self.talking).append(stream_id)
        if not is_unary:
            self.session.do("open", stream_id)

    def settle(self) -> None:
        chosen = self.choice.sample(self.waiting, self.choice.randrange(len(self.waiting) + 1))
        contents = {stream_id: self.content() for stream_id in chosen}
        for stream_id, content in contents.items():
            self.waiting.remove(stream_id)
            self.expect(stream_id, content)
        self.session.settle(contents)

    def answer(self) -> None:
        if self.waiting:
            self.give(self.choice.choice(self.waiting))

    def give(self, stream_id: int) -> None:
        content = self.content()
        self.waiting.remove(stream_id)
        self.expect(stream_id, content)
        self.session.do("answer", stream_id, prefixed(content))

    def expect(self, stream_id: int, content: bytes) -> None:
        if stream_id in self.expected:
            self.expected[stream_id] += prefixed(content)

    def refuse(self) -> None:
        chosen = self.choice.sample(self.waiting, min(len(self.waiting), 2))
        self.waiting = [stream_id for stream_id in self.waiting if stream_id not in chosen]
        self.refused.update(chosen)
        self.session.refuse_all(chosen, answer_blocks.error(8, "the queue is full"))

    def send(self) -> None:
        if self.talking:
            stream_id, content = self.choice.choice(self.talking), self.content()
            self.expect(stream_id, content)
            self.session.do("send", stream_id, prefixed(content))

    def end(self) -> None:
        if self.talking:
            stream_id = self.talking.pop(self.choice.randrange(len(self.talking)))
            self.session.do("finish", stream_id, answer_blocks.trailers(0))

    def cancel(self) -> None:
        open_ones = [stream_id for stream_id in self.expected if self.session.is_open(stream_id)]
        if open_ones and self.choice.random() < 0.5:
            stream_id = self.choice.choice(open_ones)
            self.expected.pop(stream_id)
            self.session.client.reset_stream(stream_id, 8)
            self.session.talk()

    def open_stream_window(self) -> None:
        open_ones = [stream_id for stream_id in self.expected if self.session.is_open(stream_id)]
        if open_ones:
            stream_id = self.choice.choice(open_ones)
            self.session.client.increment_flow_control_window(self.choice.choice([1, 100, 40_000]), stream_id)
            self.session.talk()

    def open_connection_window(self) -> None:
        self.session.client.increment_flow_control_window(self.choice.choice([1, 100, 40_000]))
        self.session.talk()

    def resize(self) -> None:
        window = self.choice.choice([0, 50, 20_000])
        self.session.client.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window})
        self.session.talk()

    def flush(self) -> None:
        self.session.flush(self.choice.choice([1, 1000, 30_000, WIDE_OPEN]))

    def check(self) -> None:
        session = self.session
        for stream_id, expected in self.expected.items():
            seen = session.seen[stream_id]
            assert seen.ended
            if stream_id in self.refused:
                assert dict(seen.headers)[b"grpc-status"] == b"8"
                continue
            assert seen.body == expected
            assert seen.trailers == [(b"grpc-status", b"0")]
        assert session.column(layout.C_STREAM_COUNT) == 0
        assert session.column(layout.C_UNSENT) == 0
        assert session.column(layout.C_QUEUE_FIRST) == session.column(layout.C_QUEUE_LAST) == -1
        assert not any(outbox.is_waiting or outbox._answers for outbox in session.outboxes)


def digest(seed: int, count: int) -> str:
    """Run sessions and digest what was written."""
    key = hashlib.sha256()
    for number in range(seed, seed + count):
        story = Story(number)
        story.run()
        key.update(story.session.written)
    return key.hexdigest()


if __name__ == "__main__":
    sys.stdout.write(digest(int(sys.argv[1]), int(sys.argv[2])))
