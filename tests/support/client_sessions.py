"""Seeded sessions of a server: what an odd but honest one says to a client with open calls, and what mutation leaves.

`python -m tests.support.client_sessions SEED COUNT` takes mutated sessions and prints a digest of everything that came
out, so that a process with bounds checks can be compared with one without.
"""

import hashlib
import itertools
import random
import struct
import sys

import hpack

from serving.wire import frames
from tests.support.client_side import ClientSide
from tests.support.http2_sessions import chunks, mutate
from tests.support.peers import data, frame, settings

CALLS = 6
HEAD = [(b":status", b"200"), (b"content-type", b"application/grpc")]
RESETS = {0: "INTERNAL", 7: "UNAVAILABLE", 8: "CANCELLED", 11: "RESOURCE_EXHAUSTED", 12: "PERMISSION_DENIED"}
HTTP = {400: "INTERNAL", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "UNIMPLEMENTED", 429: "UNAVAILABLE",
        500: "UNKNOWN", 502: "UNAVAILABLE", 503: "UNAVAILABLE", 504: "UNAVAILABLE"}  # fmt: skip


class Server:
    """Writes answers by chance to the calls 1, 3, 5...; `codes` says by stream how each must be counted."""

    def __init__(self, choice: random.Random) -> None:
        self.choice = choice
        self.encoder = hpack.Encoder()
        self.codes: dict[int, str] = {}

    def session(self, calls: int) -> list[bytes]:
        """Return the frames of a session, answers interleaved."""
        choice = self.choice
        lines = [self.answer(2 * call + 1) for call in range(calls)]
        woven = [settings((frames.SETTINGS_INITIAL_WINDOW_SIZE, choice.randrange(2**20)), (99, 7))]
        while lines:
            line = choice.choice(lines)
            step = line.pop(0)  # header blocks are encoded when they are sent, because the table depends on their order
            woven.append(step() if callable(step) else step)
            lines = [line for line in lines if line]
            if choice.random() < 0.3:
                woven.append(self.chatter())
        return woven

    def answer(self, stream_id: int) -> list:
        choice, kind = self.choice, self.choice.randrange(6)
        interim = [lambda: self.headers(stream_id, [(b":status", b"103")])] * choice.randrange(2)
        if kind == 0:
            code = choice.choice(list(RESETS))
            self.codes[stream_id] = RESETS[code]
            return [*interim, frame(frames.RST_STREAM, 0, stream_id, struct.pack(">I", code))]
        if kind == 1:
            status = choice.choice(list(HTTP))
            self.codes[stream_id] = HTTP[status]
            return [*interim, lambda: self.headers(stream_id, [(b":status", b"%d" % status)], frames.END_STREAM)]
        if kind == 2:
            self.codes[stream_id] = "NOT_FOUND"
            fields = [*HEAD, (b"grpc-status", b"5"), (b"grpc-message", b"x" * choice.randrange(300))]
            return [*interim, lambda: self.headers(stream_id, fields, frames.END_STREAM)]
        self.codes[stream_id] = "OK"
        content = choice.randbytes(choice.choice([0, 3, 300, 40_000]))
        body = struct.pack(">BI", 0, len(content)) + content
        cuts = sorted({0, len(body), *(choice.randrange(len(body)) for _ in range(3)), *range(0, len(body), 16_000)})
        pieces = [body[a:b] for a, b in itertools.pairwise(cuts)]
        steps = [lambda piece=piece: self.data(stream_id, piece) for piece in pieces]
        trailers = [(b"grpc-status", b"0"), *[(b"x-%d" % choice.randrange(9), choice.randbytes(9).hex().encode())]]
        return [
            *interim,
            lambda: self.headers(stream_id, HEAD),
            *steps,
            lambda: self.headers(stream_id, trailers, frames.END_STREAM),
        ]

    def headers(self, stream_id: int, fields, flags: int = 0) -> bytes:
        choice = self.choice
        if choice.random() < 0.1:
            self.encoder.header_table_size = choice.choice([0, 200, 4096])
        block = self.encoder.encode(fields, huffman=choice.random() < 0.7)
        before, after = b"", b""
        if choice.random() < 0.3:
            after = bytes(choice.randrange(9))
            flags, before = flags | frames.PADDED, bytes([len(after)])
        if choice.random() < 0.3:
            flags, before = flags | frames.PRIORITY_FLAG, before + bytes(4) + b"\x10"
        if choice.random() < 0.7:
            return frame(frames.HEADERS, flags | frames.END_HEADERS, stream_id, before + block + after)
        cut = choice.randrange(len(block) + 1)
        first = frame(frames.HEADERS, flags, stream_id, before + block[:cut] + after)
        return first + frame(frames.CONTINUATION, frames.END_HEADERS, stream_id, block[cut:])

    def data(self, stream_id: int, piece: bytes) -> bytes:
        if self.choice.random() < 0.3:
            padding = bytes(self.choice.randrange(9))
            return data(stream_id, bytes([len(padding)]) + piece + padding, frames.PADDED)
        return data(stream_id, piece)

    def chatter(self) -> bytes:
        choice = self.choice
        return choice.choice(
            [
                frame(frames.PING, 0, 0, choice.randbytes(8)),
                frame(frames.WINDOW_UPDATE, 0, 0, struct.pack(">I", 1 + choice.randrange(9000))),
                frame(frames.WINDOW_UPDATE, 0, 1 + 2 * choice.randrange(CALLS), struct.pack(">I", 1)),
                frame(frames.PRIORITY, 0, 1 + 2 * choice.randrange(9), bytes(5)),
                frame(77, 3, choice.randrange(9), b"unknown"),
                settings((frames.SETTINGS_MAX_CONCURRENT_STREAMS, choice.randrange(2**20))),
                frame(frames.SETTINGS, frames.ACK, 0),
            ]
        )


def client() -> ClientSide:
    """A client with CALLS open calls, whose server is about to say its first word but for its settings."""
    side = ClientSide([0] * CALLS)
    side.set(together=CALLS)
    side.send(0)
    assert side.live == CALLS
    return side


def run(reads: list[bytes]) -> ClientSide:
    """Give a client with open calls these reads, until one of them ends the connection."""
    side = client()
    for read in reads:
        side.receive(read, 7)
        if side.status >= 2:
            break
    return side


def mutated_session(seed: int) -> tuple[random.Random, bytes]:
    choice = random.Random(seed)
    return choice, mutate(choice, Server(choice).session(CALLS))


def outcome(side: ClientSide) -> tuple:
    """All that a session has led to."""
    return side.status, side.detail, side.text, side.answers, side.codes(), side.shared_row()


def digest(seed: int, count: int) -> str:
    """Take sessions and digest what came out."""
    seen = hashlib.sha256()
    for session in range(seed, seed + count):
        choice, whole = mutated_session(session)
        seen.update(repr(outcome(run(chunks(choice, whole)))).encode())
    return seen.hexdigest()


if __name__ == "__main__":
    sys.stdout.write(digest(int(sys.argv[1]), int(sys.argv[2])))
