"""A proxy between a client and a server: it passes on a few bytes at a time, and counts the frames that go by."""

import asyncio
import threading
from collections import Counter

PREFACE_BYTES = 24


class Frames:
    """Counts the HTTP/2 frames in one direction of a connection, by type, whatever the pieces they come in."""

    def __init__(self, seen: Counter, skip_bytes: int) -> None:
        self._seen = seen
        self._skip = skip_bytes
        self._head = b""

    def feed(self, chunk: bytes) -> None:
        while chunk:
            skipped = min(self._skip, len(chunk))
            self._skip -= skipped
            chunk = chunk[skipped:]
            taken = 9 - len(self._head)
            self._head, chunk = self._head + chunk[:taken], chunk[taken:]
            if len(self._head) == 9:
                self._seen[self._head[3]] += 1
                self._skip, self._head = int.from_bytes(self._head[:3], "big"), b""


class Proxy:
    """Listens on a free port and passes bytes to `address` and back, at most `piece_bytes` per read and write.

    Lives on a loop in a thread of its own. `from_client` and `from_server` count the frames that went by, by type.
    """

    def __init__(self, address: str, *, piece_bytes: int = 65_536) -> None:
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self._piece_bytes = piece_bytes
        self.from_client: Counter = Counter()
        self.from_server: Counter = Counter()
        self.connections = 0
        self._changed = threading.Condition()
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), name="proxy", daemon=True)
        self._thread.start()
        assert self._started.wait(30), "the proxy did not start in time"

    def __enter__(self) -> "Proxy":
        return self

    def __exit__(self, *_) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(30)
        assert not self._thread.is_alive(), "the proxy did not stop in time"

    def wait_until(self, predicate) -> None:
        """Wait until a predicate over the counters is true."""
        with self._changed:
            assert self._changed.wait_for(predicate, 60), f"{self.from_client} and {self.from_server} went by"

    async def _main(self) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        self._serving: set[asyncio.Task] = set()
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self._started.set()
        await self._stopping.wait()
        server.close()
        for task in list(self._serving):
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def _serve(self, reader, writer) -> None:
        self.connections += 1
        self._serving.add(asyncio.current_task())
        there_reader, there_writer = await asyncio.open_connection(self._host, self._port)
        ways = [
            self._pass_on(reader, there_writer, Frames(self.from_client, PREFACE_BYTES)),
            self._pass_on(there_reader, writer, Frames(self.from_server, 0)),
        ]
        try:
            await asyncio.gather(*ways)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._serving.discard(asyncio.current_task())
            for end in (writer, there_writer):
                end.transport.abort()

    async def _pass_on(self, reader, writer, frames: Frames) -> None:
        while chunk := await reader.read(self._piece_bytes):
            writer.write(chunk)
            await writer.drain()
            with self._changed:
                frames.feed(chunk)
                self._changed.notify_all()
        raise ConnectionResetError  # one end has closed, so both do
