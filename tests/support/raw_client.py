"""A client that says over a socket whatever a test wants said in HTTP/2, and reads the answers frame by frame."""

import contextlib
import socket
import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

import hpack

from serving.wire import frames
from tests.support.peers import INFER, PREFACE, data, frame, headers, message, settings

SILENCE_TIMEOUT_S = 30
"""A server that says nothing for so long fails a test and does not hang it."""
WIDE_OPEN = settings((frames.SETTINGS_INITIAL_WINDOW_SIZE, 2**30)) + frame(
    frames.WINDOW_UPDATE, 0, 0, struct.pack(">I", 2**30)
)


class Frame(NamedTuple):
    """A frame of the server's."""

    kind: int
    flags: int
    stream_id: int
    payload: bytes


class Ended(NamedTuple):
    """How a stream ended: the fields of all its header blocks, its body, the code of a reset."""

    fields: dict[bytes, bytes]
    body: bytes
    reset: int | None

    @property
    def status(self) -> int:
        return int(self.fields[b"grpc-status"])


class RawClient:
    """One connection. Greets the server unless told otherwise; `opening` is what follows the preface.

    `receive_bytes` is about what the system takes in before the test reads it.
    """

    def __init__(
        self, address: str, *, greet: bool = True, opening: bytes = WIDE_OPEN, receive_bytes: int | None = None
    ) -> None:
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), SILENCE_TIMEOUT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if receive_bytes is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.seen: list[Frame] = []
        self._unread = b""
        self._decoder = hpack.Decoder()
        self._pings = 0
        if greet:
            self.send(PREFACE + opening)

    def __enter__(self) -> "RawClient":
        return self

    def __exit__(self, *_) -> None:
        self.socket.close()

    def send(self, chunk: bytes) -> None:
        """Send bytes; a server that has closed the connection is no error."""
        with contextlib.suppress(ConnectionError):
            self.socket.sendall(chunk)

    def reset(self) -> None:
        """Die as a killed process behind a lossy network does: with a TCP reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    # ---- reading ---------------------------------------------------------------------------------------------------

    def frames(self) -> Iterator[Frame]:
        """Read frames until the server closes the connection."""
        while True:
            while len(self._unread) >= 9 and len(self._unread) >= (end := 9 + int.from_bytes(self._unread[:3], "big")):
                whole, self._unread = self._unread[:end], self._unread[end:]
                seen = Frame(whole[3], whole[4], int.from_bytes(whole[5:9], "big"), whole[9:])
                self.seen.append(seen)
                yield seen
            try:
                chunk = self.socket.recv(1 << 20)
            except ConnectionError:
                return
            if not chunk:
                return
            self._unread += chunk

    def frames_of(self, *kinds: int) -> Iterator[Frame]:
        """Read the frames of some types."""
        return (seen for seen in self.frames() if seen.kind in kinds)

    def forget(self) -> None:
        """Forget the frames seen so far, where a test reads many."""
        self.seen.clear()

    def read_until(self, predicate: Callable[[Frame], bool]) -> Frame:
        """Read until a frame comes that is looked for."""
        for seen in self.frames():
            if predicate(seen):
                return seen
        raise AssertionError(f"the server closed the connection after {[seen[:3] for seen in self.seen]}")

    def read_to_the_end(self) -> list[Frame]:
        """Read until the server closes the connection; return all frames ever seen."""
        for _ in self.frames():
            pass
        return self.seen

    def sync(self) -> list[Frame]:
        """Ask by a PING, and wait for its answer: what was sent before it has been taken in by then."""
        self._pings += 1
        payload, before = self._pings.to_bytes(8, "big"), len(self.seen)
        self.send(frame(frames.PING, 0, 0, payload))
        self.read_until(lambda seen: seen[:2] == (frames.PING, frames.ACK) and seen.payload == payload)
        return self.seen[before:]

    def answer(self, stream_id: int) -> Ended:
        """Read until a stream has ended, by its trailers or a reset; frames of others are kept for their turn."""
        fields, body, begin = {}, b"", 0
        while True:
            for seen in self.seen[begin:]:
                begin += 1
                if seen.stream_id != stream_id:
                    continue
                if seen.kind == frames.DATA:
                    body += seen.payload
                elif seen.kind == frames.RST_STREAM:
                    return Ended(fields, body, int.from_bytes(seen.payload, "big"))
                elif seen.kind == frames.HEADERS:
                    fields |= {
                        bytes(name): bytes(value) for name, value in hpack.Decoder().decode(seen.payload, raw=True)
                    }
                    if seen.flags & frames.END_STREAM:
                        return Ended(fields, body, None)
            self.read_until(lambda seen: seen.stream_id == stream_id)

    def goaway(self) -> tuple[int, bytes]:
        """Read to the end of the connection; return code and text of the GOAWAY before it."""
        last = [seen for seen in self.read_to_the_end() if seen.kind == frames.GOAWAY][-1]
        return int.from_bytes(last.payload[4:8], "big"), last.payload[8:]

    def is_cut_off(self) -> bool:
        """Wait for the end of the connection, whatever is said before it."""
        self.read_to_the_end()
        return True


def infer(stream_id: int, content: bytes, fields=INFER) -> bytes:
    """The frames of a ModelInfer with one message, as many as its length needs."""
    body = message(content)
    pieces = [body[at : at + 16_384] for at in range(0, len(body), 16_384)]
    *middle, last = [data(stream_id, piece) for piece in pieces[:-1]] + [data(stream_id, pieces[-1], frames.END_STREAM)]
    return headers(stream_id, fields) + b"".join(middle) + last
