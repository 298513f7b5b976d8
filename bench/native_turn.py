"""What a turn of the native transport costs without sockets: `python -m bench.native_turn`.

Connections are fed with the bytes that a client sends, and what they write is counted and dropped. Beside it, in
the same rounds: bare onnxruntime on as many rows, one run per turn. `--profile` prints where Python's time goes.
"""

import argparse
import asyncio
import cProfile
import pstats
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import hpack
import numpy as np
import onnxruntime as ort
import uvloop

from bench.load import FEATURES, METHOD, forest_row, framed, write_forest
from bench.wire_decode import PREFACE, frame
from serving.config import ServerConfig
from serving.server import Server
from serving.transport.native.connection import Connection
from serving.transport.native.transport import NativeTransport

FIELDS = [
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", METHOD.encode()),
    (b":authority", b"127.0.0.1"),
    (b"te", b"trailers"),
    (b"content-type", b"application/grpc"),
]


class Sink(asyncio.Transport):
    """Where a connection writes to: nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self.written_bytes = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Count."""
        self.written_bytes += len(data)

    def get_write_buffer_size(self) -> int:
        """Nothing is ever buffered."""
        return 0

    def abort(self) -> None:
        """There is nothing to close."""

    def close(self) -> None:
        """There is nothing to close."""

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Nothing is ever buffered."""


class Client:
    """A connection and the bytes of its next read."""

    def __init__(self, transport: NativeTransport, streams: int) -> None:
        self.connection = Connection(transport._core)
        self.sink = Sink()
        self.connection.connection_made(self.sink)
        self._encoder = hpack.Encoder()
        self._streams = streams
        self._next_id = 1
        self._body = framed(forest_row())
        self.feed(PREFACE + frame(8, 0, 0, (2**31 - 65_536).to_bytes(4, "big")))  # windows that never close

    def read(self) -> bytes:
        """Return the bytes of a read that brings one request per stream."""
        ids = range(self._next_id, self._next_id + 2 * self._streams, 2)
        self._next_id += 2 * self._streams
        return b"".join(frame(1, 4, k, self._encoder.encode(FIELDS)) + frame(0, 1, k, self._body) for k in ids)

    def feed(self, data: bytes) -> None:
        """Do what the event loop does with a read."""
        self.connection.get_buffer(-1)[: len(data)] = data
        self.connection.buffer_updated(len(data))


async def measure(models: Path, connections: int, streams: int, turns: int, rounds: int, profile: bool) -> None:
    """Print ns per request, the best of some rounds."""
    server = Server(ServerConfig(models=models, grpc_port=0, http_port=0, transport="native", inline_us_max=10_000))
    await server.start()
    transport = server._grpc
    assert isinstance(transport, NativeTransport)
    clients = [Client(transport, streams) for _ in range(connections)]
    turn = transport._turn
    requests = connections * streams

    def take_turn(reads: list[bytes]) -> None:
        for client, data in zip(clients, reads, strict=True):
            client.feed(data)
        turn._run()

    async def run(profiler: cProfile.Profile | None = None) -> float:
        """Return the CPU time per request of some turns."""
        total_ns, counted = 0.0, 0
        while counted < turns:
            work = partial(take_turn, [client.read() for client in clients])
            cpu_ns = timed(partial(profiler.runcall, work) if profiler is not None else work)
            if transport.streams:  # a batch that took long has sent the next one to an instance thread
                await settled(transport)
                continue
            total_ns, counted = total_ns + cpu_ns, counted + 1
        return total_ns / counted / requests

    await run()
    rows = np.random.default_rng(0).random((requests, FEATURES), np.float32)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(models / "forest" / "1" / "model.onnx"), options)

    def bare() -> None:
        for _ in range(turns):
            session.run(None, {"features": rows})

    ours, theirs = [], []
    for _ in range(rounds):
        ours.append(await run())
        theirs.append(timed(bare) / turns / requests)
    if profile:
        profiler = cProfile.Profile()
        await run(profiler)
        pstats.Stats(profiler).sort_stats("tottime").print_stats(45)
    alone = f"of which onnxruntime alone takes {min(theirs):6.0f}"
    print(f"{connections} x {streams:3}: {min(ours):6.0f} ns per request, {alone}")
    await server.stop()


async def settled(transport: NativeTransport) -> None:
    """Let the loop run until every request is answered."""
    while transport.streams:  # noqa: ASYNC110 - what it waits for has no event of its own
        await asyncio.sleep(0.001)


def timed(work: Callable[[], None]) -> float:
    """Return the CPU time of some work in ns."""
    began_ns = time.thread_time_ns()
    work()
    return time.thread_time_ns() - began_ns


def main() -> None:
    """Measure some shapes of load."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=50, help="turns per round (default 50)")
    parser.add_argument("--rounds", type=int, default=15, help="rounds (default 15)")
    parser.add_argument("--profile", action="store_true", help="print where Python's time goes")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_forest(Path(folder))
        (Path(folder) / "forest" / "model.toml").write_text("[session]\nintra_op_threads = 1\n")
        for connections, streams in ((1, 1), (1, 32), (8, 32), (64, 1)):
            uvloop.run(measure(Path(folder), connections, streams, options.turns, options.rounds, options.profile))


if __name__ == "__main__":
    main()
