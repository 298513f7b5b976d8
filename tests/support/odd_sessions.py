"""HTTP/2 sessions odder than any honest client's: rules broken one by one, amid calls that keep them.

A session is a list of pieces, which are frames as far as damage left any, so that a failing one can be made smaller by
leaving pieces out.
"""

import random
import struct

from serving.wire import frames
from tests.support.http2_sessions import Client, mutate
from tests.support.peers import INFER, OTHER, PREFACE, data, frame, headers, message, settings

EXTREMES = [0, 1, 2, 100, 16_383, 16_384, 65_535, 2**24 - 1, 2**24, 2**31 - 1, 2**31, 2**32 - 1]
TIMEOUTS = [b"", b"0n", b"1S", b"99999999H", b"999999999H", b"-1S", b"1X", b"1", b"S", b" 1S", b"12345678u"]
VALUES = [b"", b"a\0b", b"a\r\nb", b" a", b"a ", b"\xff" * 9, b"v" * 900, b"v" * 3000]
SWAPS = {
    b":method": [b"GET", b"", b"post", b"CONNECT"],
    b":scheme": [b"https", b"", b"ftp"],
    b":path": [b"", b"*", b"/", OTHER[2][1], INFER[2][1]],
    b"te": [b"gzip", b"trailers, gzip", b"TRAILERS", b""],
    b"content-type": [b"application/grpc+proto", b"application/grpc+json", b"text/html", b"application/grpcx", b""],
}  # fmt: skip
EXTRAS = [
    *((b"grpc-timeout", value) for value in TIMEOUTS),
    *((b"x-odd", value) for value in VALUES),
    *((b"content-length", value) for value in (b"0", b"12", b"12x", b"-1", b"9" * 30, b"")),
    *((b"grpc-encoding", value) for value in (b"gzip", b"deflate", b"identity", b"snappy", b"")),
    *((name, b"x") for name in (b"connection", b"Upper", b"", b":unknown", b"x y", b"transfer-encoding", b"host")),
    (b"grpc-accept-encoding", b"gzip,deflate , ,identity"),
    (b"trace-bin", b"AAEC"),
    (b":path", b"/again"),
]


class OddClient(Client):
    """Breaks a rule in some of its calls, and between them."""

    def call(self) -> list:
        choice = self.choice
        if choice.random() < 0.5:
            return super().call()
        fields = [*choice.choice([INFER, INFER, OTHER])]
        for _ in range(choice.choice([0, 0, 1, 2])):
            self.spoil(fields)
        body = b"".join(self.odd_message() for _ in range(choice.choice([1, 1, 1, 0, 2, 3])))
        if choice.random() < 0.3:
            fields.append((b"content-length", b"%d" % (len(body) + choice.choice([0, 0, 1, -1]))))
        body = body[: len(body) - choice.choice([0, 0, 0, 1, 4])]
        identity: list[int] = []

        def opening() -> bytes:
            identity.append(self.next_id)
            self.next_id += choice.choice([2, 2, 2, 4, 100])
            return self.headers(identity[0], fields)

        cuts = sorted(choice.randrange(len(body) + 1) for _ in range(choice.randrange(5)))
        pieces = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]
        steps = [lambda piece=piece: self.data(identity[0], piece, 0) for piece in pieces]
        steps.append(lambda: self.ending(identity[0]))
        if choice.random() < 0.4:
            steps.insert(choice.randrange(len(steps) + 1), lambda: self.breach(identity[0]))
        return [opening, *steps]

    def spoil(self, fields: list[tuple[bytes, bytes]]) -> None:
        """Damage a list of header fields."""
        choice = self.choice
        at, damage = choice.randrange(len(fields)), choice.randrange(6)
        name, _ = fields[at]
        if damage == 0 and len(fields) > 1:
            del fields[at]
        elif damage == 1:
            fields.insert(choice.randrange(len(fields) + 1), fields[at])
        elif damage == 2 and name in SWAPS:
            fields[at] = (name, choice.choice(SWAPS[name]))
        else:
            fields.insert(choice.choice([at, len(fields), len(fields)]), choice.choice(EXTRAS))

    def odd_message(self) -> bytes:
        choice = self.choice
        content = choice.randbytes(choice.choice([0, 1, 5, 300, 990, 1010, 6000]))
        if choice.random() < 0.8:
            return message(content)
        length = choice.choice([len(content) + 1, max(0, len(content) - 1), 20_000, 20_001, 2**31, 2**32 - 1])
        return struct.pack(">BI", choice.choice([0, 0, 1, 2, 255]), length) + content

    def ending(self, stream_id: int) -> bytes:
        """End a stream: by empty DATA, by trailers good or bad, by a reset, or not at all."""
        choice = self.choice
        fields = choice.choice([[(b"x-end", b"1")], [], [(b":path", b"/")], [(b"Upper", b"x")]])
        flags = choice.choice([frames.END_HEADERS | frames.END_STREAM, frames.END_HEADERS])
        endings = [
            data(stream_id, b"", frames.END_STREAM),
            headers(stream_id, fields, flags),
            frame(frames.RST_STREAM, 0, stream_id, struct.pack(">I", choice.choice([0, 8, 99]))),
            b"",
        ]
        return choice.choice([endings[0], endings[0], *endings])

    def breach(self, stream_id: int) -> bytes:
        """What should not come on an open stream, or only rarely."""
        choice = self.choice
        increment = struct.pack(">I", choice.choice(EXTREMES))
        padding = choice.choice([0, 1, 5, 255])
        return choice.choice(
            [
                frame(frames.WINDOW_UPDATE, 0, stream_id, increment),
                frame(frames.PRIORITY, 0, stream_id, struct.pack(">IB", stream_id, 9)),
                frame(frames.PRIORITY, 0, stream_id, bytes(choice.randrange(9))),
                data(stream_id, b"", frames.END_STREAM),
                data(stream_id, bytes([padding]) + bytes(choice.choice([0, 4, 255])), frames.PADDED),
                data(stream_id, b"x" * choice.choice([1, 16_384]), choice.randrange(256)),
                data(stream_id) * choice.choice([1, 40, 300]),
                headers(stream_id, [(b"x", b"y")], frames.END_HEADERS),
                frame(frames.RST_STREAM, 0, stream_id, bytes(choice.choice([4, 4, 3, 0]))) * choice.choice([1, 2]),
                frame(frames.CONTINUATION, frames.END_HEADERS, stream_id, b"\x82"),
                frame(frames.PUSH_PROMISE, frames.END_HEADERS, stream_id, bytes(4) + b"\x82"),
            ]
        )

    def chatter(self) -> bytes:
        return super().chatter() if self.choice.random() < 0.5 else self.oddity()

    def oddity(self) -> bytes:
        """What should not come between calls, or only rarely."""
        choice = self.choice
        some_id = choice.choice([0, 1, 2, self.next_id, self.next_id + 1, choice.randrange(30), 2**31 - 1])
        names = choice.choice([1, 2, 3, 4, 5, 6, 8, 9, 65_535])
        odd = choice.choice(
            [
                lambda: settings((names, choice.choice(EXTREMES))),
                lambda: settings((4, choice.choice(EXTREMES[:7])), (4, choice.choice(EXTREMES[:7])), (5, 20_000)),
                lambda: frame(frames.SETTINGS, choice.choice([0, frames.ACK]), 0, bytes(choice.randrange(13))),
                lambda: frame(frames.PING, choice.choice([0, frames.ACK]), 0, bytes(choice.choice([8, 8, 7, 0]))),
                lambda: frame(frames.GOAWAY, 0, 0, bytes(choice.choice([8, 30, 7]))),
                lambda: frame(frames.WINDOW_UPDATE, 0, 0, struct.pack(">I", choice.choice(EXTREMES))),
                lambda: frame(frames.RST_STREAM, 0, some_id, struct.pack(">I", 8)),
                lambda: frame(choice.randrange(12), choice.randrange(256), some_id, bytes(choice.randrange(20))),
                lambda: struct.pack(">I", choice.choice([16_384, 16_385, 2**24 - 1]))[1:] + bytes(6),
                lambda: headers(some_id, choice.choice([INFER, OTHER, [], INFER[::-1]]), choice.randrange(64)),
                lambda: frame(frames.HEADERS, frames.END_HEADERS, self.fresh_id(), choice.randbytes(30)),
                lambda: self.split_headers(choice.choice([2, 15, 16, 17, 40])),
                lambda: headers(self.fresh_id(), [*OTHER, (b"x-long", b"v" * choice.choice([1700, 2500, 15_000]))]),
            ]
        )()
        return odd * choice.choice([1, 1, 1, 1, 2, 250])

    def fresh_id(self) -> int:
        self.next_id += 2
        return self.next_id - 2

    def split_headers(self, count: int) -> bytes:
        """Write a request whose header block comes in many frames, some of them empty."""
        stream_id, block = self.fresh_id(), self.encoder.encode(OTHER)
        cuts = sorted(self.choice.randrange(len(block) + 1) for _ in range(count))
        pieces = [block[a:b] for a, b in zip([0, *cuts], [*cuts, len(block)], strict=True)]
        first = frame(frames.HEADERS, frames.END_STREAM, stream_id, pieces[0])
        middle = b"".join(frame(frames.CONTINUATION, 0, stream_id, piece) for piece in pieces[1:-1])
        return first + middle + frame(frames.CONTINUATION, frames.END_HEADERS, stream_id, pieces[-1])


def odd_session(choice: random.Random) -> list[bytes]:
    """Return a session in pieces, of an honest client or of an odd one, damaged or not."""
    client = choice.choice([Client, OddClient, OddClient])(choice)
    pieces = [piece for piece in client.session(choice.randrange(1, 7)) if piece]
    whole = mutate(choice, pieces) if choice.random() < 0.5 and len(pieces) > 1 else b"".join(pieces)
    return cut_into_frames(whole)


def cut_into_frames(whole: bytes) -> list[bytes]:
    """Cut bytes into the preface, frames, and what is left."""
    begin = len(PREFACE) if whole.startswith(PREFACE) else 0
    pieces = [whole[:begin]]
    while begin < len(whole):
        end = begin + 9 + int.from_bytes(whole[begin : begin + 3], "big")
        pieces.append(whole[begin:end])
        begin = end
    return pieces
