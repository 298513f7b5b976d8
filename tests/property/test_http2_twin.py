"""Laws of the HTTP/2 decoder, against h2 as the slow twin, on generated, mutated and re-chunked sessions."""

import os
import random
import subprocess
import sys
from pathlib import Path

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
import pytest

from serving.wire import layout
from tests.support.environments import CACHE
from tests.support.http2_sessions import LIMITS, Client, chunks, digest, mutated_session, run
from tests.support.peers import OTHER, Peer, split_frames

ROOT = Path(__file__).parents[2]
CORPUS = 5000, 150
STREAMS = 8


def twin() -> h2.connection.H2Connection:
    config = h2.config.H2Configuration(client_side=False, header_encoding=None, validate_inbound_headers=True)
    server = h2.connection.H2Connection(config)
    server.local_settings = h2.settings.Settings(
        client=False,
        initial_values={
            h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: 8,
            h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: LIMITS["stream_window_bytes"],
        },
    )
    server.initiate_connection()
    return server


def seen_by_the_twin(whole: bytes) -> dict[int, tuple[list, bytes, bool]]:
    """Return what h2 sees of each stream: header fields, body, whether it ended."""
    server, streams = twin(), {}
    server.increment_flow_control_window(2**20)
    for event in server.receive_data(whole):
        if isinstance(event, h2.events.RequestReceived):
            streams[event.stream_id] = [[(bytes(n), bytes(v)) for n, v in event.headers], b"", False]
        elif isinstance(event, h2.events.DataReceived):
            streams[event.stream_id][1] += event.data
        elif isinstance(event, h2.events.StreamEnded):
            streams[event.stream_id][2] = True
    return {stream_id: tuple(seen) for stream_id, seen in streams.items()}


def messages_of(body: bytes) -> list[bytes]:
    found = []
    while body:
        length = int.from_bytes(body[1:5], "big")
        found.append(body[5 : 5 + length])
        body = body[5 + length :]
    return found


@pytest.mark.parametrize("seed", range(60))
def test_an_honest_session_is_seen_as_the_twin_sees_it(seed):
    choice = random.Random(seed)
    whole = b"".join(Client(choice).session(choice.randrange(1, 7)))
    peer, events = run(chunks(choice, whole))
    assert not peer.is_closed
    assert peer.sides[0].tail == b""
    expected = seen_by_the_twin(whole)
    for stream_id, (fields, body, ended) in expected.items():
        mine = [event for event in events if event.id == stream_id]
        contents = messages_of(body)
        assert ended
        if fields[2] == OTHER[2]:
            kinds = [layout.EVENT_OPENED, *[layout.EVENT_MESSAGE] * len(contents), layout.EVENT_ENDED]
            assert [event.kind for event in mine] == kinds
            assert mine[0].content == fields
            assert [event.content for event in mine[1:-1]] == contents
        else:
            assert [(event.kind, event.content) for event in mine] == [(layout.EVENT_REQUEST, contents[0])]
        timeouts = [int(value[:-1]) * 1_000_000 for name, value in fields if name == b"grpc-timeout"]
        assert {event.deadline_ns for event in mine} == {*(timeouts or [layout.NO_DEADLINE])}
    assert {event.id for event in events if event.id} == set(expected)


@pytest.mark.parametrize("seed", range(1000, 1060))
def test_any_session_read_byte_by_byte_gives_what_it_gives_at_once(seed):
    choice, whole = mutated_session(seed)
    peer, events = run([whole])
    for reads in (chunks(choice, whole), [whole[at : at + 1] for at in range(min(len(whole), 4000))] + [whole[4000:]]):
        again, same_events = run(reads)
        assert same_events == events
        assert again.control == peer.control
        assert again.is_closed == peer.is_closed
        assert again.is_closed or again.sides[0].tail == peer.sides[0].tail


@pytest.mark.parametrize("seed", range(2000, 2100))
def test_what_the_twin_calls_a_protocol_error_is_refused(seed):
    choice, whole = mutated_session(seed)
    try:
        seen_by_the_twin(whole)
    except h2.exceptions.ProtocolError:
        peer, _ = run(chunks(choice, whole))
        kinds = {kind for kind, *_ in split_frames(peer.control)}
        unfinished = peer.sides[0].tail != b""
        assert peer.is_closed or kinds & {3, 7} or unfinished


@pytest.mark.parametrize("seed", range(3000, 3030))
def test_what_we_send_is_understood_by_a_client_that_nobody_here_wrote(seed):
    client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding=None))
    client.initiate_connection()
    peer = Peer(greet=False, **LIMITS)
    client.receive_data(peer.opening)
    choice = random.Random(seed)
    peer.send(client.data_to_send())
    for k in range(STREAMS):
        stream_id = client.get_next_available_stream_id()
        client.send_headers(stream_id, OTHER)
        body = bytes([0]) + (900).to_bytes(4, "big") + choice.randbytes(900)
        client.send_data(stream_id, body, end_stream=True, pad_length=choice.choice([None, 0, 200]))
        client.ping(bytes([k]) * 8)
        events = peer.send(client.data_to_send())
        assert [event.kind for event in events] == [layout.EVENT_OPENED, layout.EVENT_MESSAGE, layout.EVENT_ENDED]
        assert events[1].content == body[5:]
        peer.release(stream_id)
        told = client.receive_data(peer.control)
        peer.control = b""
        assert any(isinstance(event, h2.events.PingAckReceived) for event in told)
        assert not any(isinstance(event, h2.events.ConnectionTerminated | h2.events.StreamReset) for event in told)


def test_a_corpus_gives_the_same_with_bounds_checks():
    seed, count = CORPUS
    # Checks at every index make much code; fully optimised it takes minutes to compile.
    compiler = {"NUMBA_BOUNDSCHECK": "1", "NUMBA_OPT": "1"}
    environment = {**os.environ, **compiler, "XDG_CACHE_HOME": str(CACHE / "bounds-checked")}
    checked = subprocess.run(
        [sys.executable, "-m", "tests.support.http2_sessions", str(seed), str(count)],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert checked.returncode == 0, checked.stderr[-3000:]
    assert checked.stdout == digest(seed, count)
