"""Laws of the client's kernels: against h2 as the server, on generated, mutated and re-chunked sessions."""

import collections
import os
import random
import subprocess
import sys
from pathlib import Path

import h2.config
import h2.connection
import h2.events
import h2.settings
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.histogram import BUCKETS, buckets_of
from serving.wire.client import heads, layout
from serving.wire.client.tally import bucket_all
from tests.support import client_sessions
from tests.support.client_sessions import CALLS, Server, mutated_session, outcome, run
from tests.support.client_side import ClientSide
from tests.support.environments import CACHE
from tests.support.http2_sessions import chunks

ROOT = Path(__file__).parents[2]
CORPUS = 5000, 150
INFER = "/inference.GRPCInferenceService/ModelInfer"


# ---- what we send ----------------------------------------------------------------------------------------------------


class Twin:
    """h2 as the server: answers every call, and gives windows back in small pieces."""

    def __init__(self, choice: random.Random) -> None:
        self.choice = choice
        codes = h2.settings.SettingCodes
        self.streams_max = choice.choice([1, 2, 5, 100])
        self.connection = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
        )
        self.connection.local_settings = h2.settings.Settings(
            client=False,
            initial_values={
                codes.MAX_CONCURRENT_STREAMS: self.streams_max,
                codes.INITIAL_WINDOW_SIZE: choice.choice([0, 1, 100, 65_535, 1 << 20]),
                codes.MAX_FRAME_SIZE: choice.choice([16_384, 20_000, 1 << 20]),
            },
        )
        # As it was no change, h2 does not take the size over by itself.
        self.connection.max_inbound_frame_size = self.connection.local_settings.max_frame_size
        self.connection.initiate_connection()
        self.bodies: dict[int, bytes] = {}
        self.ended: list[bytes] = []
        self.due = 0

    def take(self, chunk: bytes) -> bytes:
        for event in self.connection.receive_data(chunk):
            if isinstance(event, h2.events.RequestReceived):
                fields = dict(event.headers)
                assert (fields[":path"], fields[":method"], fields["te"]) == (INFER, "POST", "trailers")
                assert (fields["content-type"], fields[":authority"]) == ("application/grpc", "localhost:1")
                self.bodies[event.stream_id] = b""
                assert len(self.bodies) <= self.streams_max
            elif isinstance(event, h2.events.DataReceived):
                self.bodies[event.stream_id] += event.data
                self.due += event.flow_controlled_length
            elif isinstance(event, h2.events.StreamEnded):
                self.answer(event.stream_id)
            else:
                assert not isinstance(event, h2.events.StreamReset | h2.events.ConnectionTerminated)
        self.give()
        return self.connection.data_to_send()

    def give(self) -> None:
        """Open the windows of the connection and of streams whose message is not complete."""
        if self.due:
            self.connection.increment_flow_control_window(self.due)
            self.due = 0
        for stream_id in self.bodies:
            self.connection.increment_flow_control_window(self.choice.randrange(1, 90_000), stream_id)

    def answer(self, stream_id: int) -> None:
        body = self.bodies.pop(stream_id)
        assert int.from_bytes(body[:5], "big") == len(body) - 5
        self.ended.append(body[5:])
        self.connection.send_headers(stream_id, [(":status", "200"), ("content-type", "application/grpc")])
        answer = self.choice.randbytes(self.choice.choice([0, 5, 3000]))
        self.connection.send_data(stream_id, b"\0" + len(answer).to_bytes(4, "big") + answer)
        trailers = [("grpc-status", "0"), (f"x-{self.choice.randrange(9)}", "y" * self.choice.randrange(99))]
        self.connection.send_headers(stream_id, trailers, end_stream=True)


@pytest.mark.parametrize("seed", range(40))
def test_a_server_that_nobody_here_wrote_gets_every_message_whole_and_within_its_limits(seed):
    choice = random.Random(seed)
    messages = [choice.randbytes(choice.choice([0, 1, 60, 2_000, 70_000, 300_000])) for _ in range(5)]
    twin, calls = Twin(choice), 20
    side = ClientSide([0] * calls, messages=messages, greet=False)
    side.set(together=choice.choice([1, 4]))
    twin.connection.receive_data(heads.opening())
    said = twin.connection.data_to_send()
    for turn in range(3000):
        for chunk in chunks(choice, said):
            side.receive(chunk, turn)
            assert side.status == layout.STATUS_HUNGRY
        said = twin.take(side.answers + side.send(turn))
        side.answers = b""
        if side.codes() == {"OK": calls}:
            break
    assert side.codes() == {"OK": calls}
    expected = [messages[k % len(messages)] for k in range(calls)]
    assert collections.Counter(twin.ended) == collections.Counter(expected)
    assert side.shared(layout.X_LIVE) == side.shared(layout.X_DUE_COUNT) == 0


# ---- what we take ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(1000, 1060))
def test_an_honest_server_is_understood_however_its_bytes_are_cut(seed):
    choice = random.Random(seed)
    server = Server(choice)
    whole = b"".join(server.session(CALLS))
    side = run(chunks(choice, whole))
    assert side.status == layout.STATUS_HUNGRY
    assert side.codes() == dict(collections.Counter(server.codes.values()))
    assert side.shared(layout.X_LIVE) == 0


@pytest.mark.parametrize("seed", range(2000, 2040))
def test_any_session_read_byte_by_byte_gives_what_it_gives_at_once(seed):
    choice, whole = mutated_session(seed)
    at_once = outcome(run([whole]))
    assert outcome(run(chunks(choice, whole))) == at_once
    assert outcome(run([whole[at : at + 1] for at in range(min(len(whole), 4000))] + [whole[4000:]])) == at_once


@pytest.mark.parametrize("seed", range(3000, 3200))
def test_a_damaged_session_ends_in_a_named_breach_or_is_waited_for(seed):
    choice, whole = mutated_session(seed)
    side = run(chunks(choice, whole))
    assert side.status in {layout.STATUS_HUNGRY, layout.STATUS_BREACH, layout.STATUS_GOAWAY}
    assert sum(side.codes().values()) + side.shared(layout.X_LIVE) == CALLS


def test_a_corpus_gives_the_same_with_bounds_checks():
    seed, count = CORPUS
    # Checks at every index make much code; fully optimised it takes minutes to compile.
    compiler = {"NUMBA_BOUNDSCHECK": "1", "NUMBA_OPT": "1"}
    environment = {**os.environ, **compiler, "XDG_CACHE_HOME": str(CACHE / "bounds-checked")}
    checked = subprocess.run(
        [sys.executable, "-m", "tests.support.client_sessions", str(seed), str(count)],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert checked.returncode == 0, checked.stderr
    assert checked.stdout == client_sessions.digest(seed, count)


# ---- what we count ---------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(-5, 2**41), min_size=1))
def test_times_are_counted_by_the_rule_of_the_histogram(times):
    assert kernel_buckets(times) == buckets_of(np.array(times, np.int64)).tolist()


def test_the_edges_of_all_buckets_are_those_of_the_histogram():
    edges = [(1 << bits) + off for bits in range(41) for off in (-1, 0, 1)] + list(range(5000))
    assert kernel_buckets(edges) == buckets_of(np.array(edges, np.int64)).tolist()
    assert layout.BUCKETS == BUCKETS


def kernel_buckets(times: list[int]) -> list[int]:
    buckets = np.zeros(len(times), np.int64)
    bucket_all(np.array(times, np.int64), buckets)
    return buckets.tolist()
