"""The clients of a generator on a fake server, in this process, and what they recorded."""

import pytest

from bench.generator.native import NativeClient
from bench.generator.stock import StockClient
from bench.slices import Interval, Recording, Slice, Target
from tests.support.fake_server import FakeServer

CLIENTS = {"native": NativeClient, "grpcio": StockClient}
MESSAGES = [b"one", b"two", b"three"]


@pytest.fixture
def record():
    """Run slices on a server with one client; return their recordings."""

    def run(
        server: FakeServer | Target, *slices: Slice, client: str = "native", connections: int = 2, messages=MESSAGES,
        **options,
    ) -> list[Recording]:  # fmt: skip
        target = server if isinstance(server, Target) else server.target(**options)
        runner = CLIENTS[client](target, messages, connections=connections)
        recordings = []
        try:
            for slice_ in slices:
                intervals: list[Interval] = []
                recordings.append(runner.run(slice_, intervals.append))
                recordings[-1].intervals = intervals
        finally:
            runner.close()
        return recordings

    return run
