"""Ten thousand connections that are open and do nothing: little memory for each, and nobody waits for them."""

import contextlib
import resource

import hpack
import numpy as np
import psutil
import pytest

from serving.wire import frames
from tests.support import graphs
from tests.support.conformance import raw_request
from tests.support.peers import INFER, data, frame, message
from tests.support.raw_client import RawClient
from tests.support.servers import TRANSPORTS, server_process
from tests.support.siege import Bystander

CONNECTIONS = 10_000
FIRST = 500
"""The memory of so many connections is what the server grows to anyway: buffers, arenas, code that runs once."""
SPARE_FILES = 500
BYTES_PER_CONNECTION_MAX = 16_384
ROW = np.ones((1, 4), np.float32)


@pytest.fixture
def many_files():
    """Let this process, and the server that it starts, open a file for each connection."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < CONNECTIONS + SPARE_FILES:
        pytest.skip(f"a process may open {hard} files here, and this needs {CONNECTIONS + SPARE_FILES}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, CONNECTIONS + SPARE_FILES), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def call_with_a_full_table(stream_id: int):
    """A request whose header fields fill the table that the server keeps for the connection."""
    tags = [(b"x-tag-%d" % k, b"v" * 400) for k in range(9)]
    block = hpack.Encoder().encode([*INFER, *tags])
    body = raw_request("affine", x=("FP32", ROW)).SerializeToString()
    head = frame(frames.HEADERS, frames.END_HEADERS, stream_id, block)
    return head + data(stream_id, message(body), frames.END_STREAM)


@pytest.mark.slow
def test_an_idle_connection_costs_little_and_disturbs_nobody(repository, many_files):
    graphs.write_model(repository, "affine", graphs.affine())
    options = TRANSPORTS["native"] | {"connections_max": CONNECTIONS + 10}
    with server_process(repository, **options) as server, contextlib.ExitStack() as stack:
        process = psutil.Process(server.process.pid)
        call = call_with_a_full_table(1)

        def connect():
            client = stack.enter_context(RawClient(server.address))
            client.send(call)
            assert client.answer(1).status == 0
            return client

        clients = [connect() for _ in range(FIRST)]
        before = process.memory_info().rss
        clients += [connect() for _ in range(CONNECTIONS - FIRST)]
        grown = process.memory_info().rss - before
        assert grown / (CONNECTIONS - FIRST) <= BYTES_PER_CONNECTION_MAX
        bystander = Bystander(server.address)
        for client in clients:
            client.sync()
        bystander.leave()
        assert process.num_fds() > CONNECTIONS
