"""Seeded HTTP/2 sessions: what an odd but honest client sends, and what is left of it after mutation.

`python -m tests.support.http2_sessions SEED COUNT` decodes mutated sessions and prints a digest of everything that came
out, so that a process with bounds checks can be compared with one without.
"""

import hashlib
import random
import struct
import sys

import hpack

from serving.wire import frames
from tests.support.peers import INFER, OTHER, PREFACE, Peer, data, frame, message, settings

LIMITS = {
    "control_frames": 200,
    "stream_window_bytes": 30_000,
    "connection_window_bytes": 100_000,
    "message_bytes": 20_000,
    "header_list_bytes": 2_000,
    "header_list_bytes_hard": 20_000,
    "header_block_bytes": 20_000,
}


class Client:
    """Writes frames by chance; every call it completes is in `calls` as (kind of call, messages)."""

    def __init__(self, choice: random.Random) -> None:
        self.choice = choice
        self.encoder = hpack.Encoder()
        self.next_id = 1

    def session(self, calls: int) -> list[bytes]:
        """Return the frames of a session, calls interleaved."""
        lines = [self.call() for _ in range(calls)]
        woven = [PREFACE + settings(*[(4, self.choice.randrange(2**20))] * self.choice.randrange(2))]
        while lines:
            line = self.choice.choice(lines[:3])
            # Header blocks are encoded when they are sent, because the table depends on their order.
            step = line.pop(0)
            woven.append(step() if callable(step) else step)
            lines = [line for line in lines if line]
            if self.choice.random() < 0.2:
                woven.append(self.chatter())
        return woven

    def call(self) -> list:
        choice = self.choice
        fields = [*choice.choice([INFER, INFER, OTHER])]
        fields += [(b"grpc-timeout", b"%dm" % choice.randrange(1000))] * choice.randrange(2)
        fields += [(b"x-%d" % choice.randrange(5), choice.randbytes(8).hex().encode())] * choice.randrange(3)
        body = b"".join(
            message(choice.randbytes(choice.choice([0, 3, 300, 3000]))) for _ in range(self.messages(fields))
        )
        identity: list[int] = []

        def opening() -> bytes:
            identity.append(self.next_id)
            self.next_id += 2
            return self.headers(identity[0], fields)

        cuts = sorted(choice.randrange(len(body) + 1) for _ in range(choice.randrange(4)))
        pieces = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]
        steps = [lambda piece=piece: self.data(identity[0], piece, 0) for piece in pieces[:-1]]
        return [opening, *steps, lambda: self.data(identity[0], pieces[-1], frames.END_STREAM)]

    def messages(self, fields) -> int:
        return 1 if fields[2] == INFER[2] else self.choice.randrange(4)

    def headers(self, stream_id: int, fields) -> bytes:
        choice = self.choice
        if choice.random() < 0.1:
            self.encoder.header_table_size = choice.choice([0, 200, 4096])
        block = self.encoder.encode(fields, huffman=choice.random() < 0.7)
        flags, before, after = 0, b"", b""
        if choice.random() < 0.3:
            after = bytes(choice.randrange(9))
            flags, before = frames.PADDED, bytes([len(after)])
        if choice.random() < 0.3:
            flags, before = flags | frames.PRIORITY_FLAG, before + bytes(4) + b"\x10"
        if choice.random() < 0.7:
            return frame(frames.HEADERS, flags | frames.END_HEADERS, stream_id, before + block + after)
        cut = choice.randrange(len(block) + 1)
        first = frame(frames.HEADERS, flags, stream_id, before + block[:cut] + after)
        return first + frame(frames.CONTINUATION, frames.END_HEADERS, stream_id, block[cut:])

    def data(self, stream_id: int, piece: bytes, flags: int) -> bytes:
        if self.choice.random() < 0.2:
            padding = bytes(self.choice.randrange(9))
            return data(stream_id, bytes([len(padding)]) + piece + padding, flags | frames.PADDED)
        return data(stream_id, piece, flags)

    def chatter(self) -> bytes:
        return self.choice.choice(
            [
                frame(frames.PING, 0, 0, self.choice.randbytes(8)),
                frame(frames.WINDOW_UPDATE, 0, 0, struct.pack(">I", 1 + self.choice.randrange(9000))),
                frame(frames.PRIORITY, 0, 1 + 2 * self.choice.randrange(9), bytes(5)),
                frame(77, 3, self.choice.randrange(9), b"unknown"),
                settings((4, self.choice.randrange(2**20))),
                frame(frames.SETTINGS, frames.ACK, 0),
            ]
        )


def mutate(choice: random.Random, pieces: list[bytes]) -> bytes:
    """Damage a session: bytes changed, frames lost, doubled, swapped, cut off; or not at all."""
    pieces = list(pieces)
    for _ in range(choice.randrange(3)):
        at = choice.randrange(1, len(pieces))
        damage = choice.randrange(4)
        if damage == 0:
            del pieces[at]
        elif damage == 1:
            pieces.insert(at, choice.choice(pieces[1:]))
        elif damage == 2:
            pieces[at] = pieces[at][: choice.randrange(len(pieces[at]) or 1)]
        else:
            other = choice.randrange(1, len(pieces))
            pieces[at], pieces[other] = pieces[other], pieces[at]
        if len(pieces) < 2:
            break
    whole = bytearray(b"".join(pieces))
    for _ in range(choice.choice([0, 0, 1, 2, 5])):
        at = choice.randrange(len(PREFACE), len(whole))
        whole[at] = choice.choice([0, 1, 0x7F, 0x80, 0xFF, choice.randrange(256)])
    return bytes(whole)


def chunks(choice: random.Random, whole: bytes) -> list[bytes]:
    """Cut bytes into reads of any length."""
    pieces, at = [], 0
    while at < len(whole):
        length = choice.choice([1, 5, 9, 100, 1000, 20_000])
        pieces.append(whole[at : at + length])
        at += length
    return pieces


def run(reads: list[bytes]) -> tuple[Peer, list]:
    """Give a fresh connection these reads."""
    peer = Peer(greet=False, **LIMITS)
    events = [event for read in reads for event in peer.send(read)]
    return peer, events


def mutated_session(seed: int) -> tuple[random.Random, bytes]:
    choice = random.Random(seed)
    return choice, mutate(choice, Client(choice).session(choice.randrange(1, 6)))


def digest(seed: int, count: int) -> str:
    """Decode sessions and digest what came out."""
    seen = hashlib.sha256()
    for session in range(seed, seed + count):
        choice, whole = mutated_session(session)
        peer, events = run(chunks(choice, whole))
        seen.update(repr((peer.status, events, peer.control)).encode())
    return seen.hexdigest()


if __name__ == "__main__":
    sys.stdout.write(digest(int(sys.argv[1]), int(sys.argv[2])))
