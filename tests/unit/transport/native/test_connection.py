"""A connection whose peer takes its time: what it pauses, and when it is cut off."""

import pytest

from serving.config import ModelConfig
from serving.transport.native.connection import CLOSE_TIMEOUT_S
from serving.transport.native.core import Since
from serving.wire import frames
from serving.wire.layout import S_STATE, STREAM_PAUSED
from tests.support import peers
from tests.support.wired import WIDE_OPEN, FakePeer, Wired, message

STALL_S, HANDSHAKE_S, MESSAGE_S = 30, 10, 60
NS = 10**9


@pytest.fixture
def wired():
    return Wired(ModelConfig(), stall_timeout_s=STALL_S, handshake_timeout_s=HANDSHAKE_S, message_timeout_s=MESSAGE_S)


def look_after(wired, duration_s):
    """Let time pass, and look for what takes too long."""
    wired.clock.advance(int(duration_s * NS))
    wired.transport._watch.look()
    wired.loop.run()


def answered(wired, *messages):
    """Open a connection and have requests of it answered."""
    peer = wired.connect()
    asked = peer.ask(*messages)
    wired.loop.run()
    wired.servable.run_all()
    wired.loop.run()
    return peer, asked


# ---- a full socket -------------------------------------------------------------------------------------------------


def full(wired):
    """A connection whose socket has taken nothing of a small answer."""
    peer = wired.connect()
    peer.socket.is_full = True
    peer.ask(message())
    wired.loop.run()
    wired.servable.run_all()
    wired.loop.run()
    return peer


def test_a_full_socket_stops_reading_until_there_is_room(wired):
    peer = full(wired)
    assert not peer.socket.is_reading
    peer.socket.is_full = False
    peer.connection.resume_writing()
    wired.loop.run()
    assert peer.socket.is_reading


def test_a_peer_that_takes_nothing_from_its_socket_is_cut_off(wired):
    peer = full(wired)
    look_after(wired, STALL_S - 1)
    assert not peer.is_over
    look_after(wired, 1)
    assert peer.is_over
    assert wired.transport.refusals()["stalled"] == 1
    wired.check_that_nothing_is_held()


def test_a_peer_that_takes_it_in_time_is_not(wired):
    peer = full(wired)
    peer.socket.is_full = False
    peer.connection.resume_writing()
    wired.loop.run()
    look_after(wired, 10 * STALL_S)
    assert not peer.is_over


def test_a_peer_that_opens_no_window_is_cut_off(wired):
    peer = wired.connect()
    peer.send(peers.settings((4, 0)))
    peer.ask(message())
    wired.loop.run()
    wired.servable.run_all()
    wired.loop.run()
    look_after(wired, STALL_S - 1)
    assert not peer.is_over
    look_after(wired, 1)
    assert peer.is_over


@pytest.mark.parametrize("taken_bytes", [0, 1])
def test_a_peer_that_takes_a_little_all_the_time_is_not(wired, taken_bytes):
    peer = full(wired)
    for _ in range(10):
        peer.socket.written = peer.socket.written[taken_bytes:]
        look_after(wired, STALL_S / 2)
    assert peer.is_over == (not taken_bytes)
    look_after(wired, STALL_S)
    assert peer.is_over


def test_a_peer_that_reads_what_came_before_a_window_closed_is_not(wired):
    peer, _ = answered(wired, message())
    peer.send(peers.settings((4, 0)))
    peer.ask(message())
    peer.socket.is_slow = True
    wired.loop.run()
    wired.servable.run_all()
    wired.loop.run()
    for _ in range(4):
        peer.socket.written = peer.socket.written[1:]
        look_after(wired, STALL_S / 2)
    assert not peer.is_over
    look_after(wired, STALL_S)
    assert peer.is_over


def test_answers_to_pings_are_no_answers_that_a_peer_takes(wired):
    peer = wired.connect()
    peer.send(peers.settings((4, 0)))
    peer.ask(message())
    wired.loop.run()
    wired.servable.run_all()
    wired.loop.run()
    for _ in range(2):
        assert not peer.is_over
        peer.send(peers.frame(frames.PING, 0, 0, b"12345678"))
        look_after(wired, STALL_S / 2)
    assert peer.is_over


def test_a_stream_that_takes_nothing_costs_nothing_while_others_take_their_answers(wired):
    peer = FakePeer(wired)
    peer.send(peers.PREFACE + peers.settings((4, 0)) + peers.frame(frames.SETTINGS, frames.ACK, 0) + WIDE_OPEN)
    (waits,) = peer.ask(message())
    for _ in range(4):
        stream_id, chunk = peer.request(message())
        window = peers.frame(frames.WINDOW_UPDATE, 0, stream_id, (2**20).to_bytes(4, "big"))
        peer.send(chunk + window)
        wired.loop.run()
        wired.servable.run_all()
        wired.loop.run()
        look_after(wired, STALL_S / 2)
        assert peer.read()[stream_id].status == 0
    assert not peer.is_over
    assert peer.heard[waits].status is None
    look_after(wired, STALL_S)
    assert peer.is_over


def test_a_closed_connection_leaves_the_row_to_its_heir_whatever_its_socket_says(wired):
    peer = wired.connect()
    slot = peer.connection.slot
    peer.socket.is_full = True
    peer.connection.close()
    peer.connection.pause_writing()
    assert wired.core.since[Since.STALLED, slot] == Since.NEVER
    heir = wired.connect()
    assert heir.connection.slot == slot
    heir.connection.pause_writing()
    peer.connection.resume_writing()
    assert wired.core.since[Since.STALLED, slot] != Since.NEVER
    look_after(wired, STALL_S)
    assert heir.is_over


def test_the_last_words_wait_for_the_peer_but_not_for_ever(wired):
    peer = wired.connect()
    peer.socket.is_full = True
    peer.connection.close()
    assert not peer.is_over
    wired.clock.advance(int(CLOSE_TIMEOUT_S * NS))
    assert peer.is_over


# ---- other things that take too long -------------------------------------------------------------------------------


def test_a_peer_without_a_preface_is_cut_off(wired):
    peer = wired.connect()
    late = type(peer)(wired)
    late.send(peers.PREFACE[:5])
    look_after(wired, HANDSHAKE_S - 1)
    assert not late.is_over
    look_after(wired, 1)
    assert (late.is_over, peer.is_over) == (True, False)
    assert wired.transport.refusals()["slow_preface"] + wired.transport.refusals()["slow_frame"] == 1


def test_a_frame_that_does_not_end_costs_the_connection_and_more_of_it_gains_no_time(wired):
    peer = wired.connect()
    _, chunk = peer.request(message())
    peer.send(chunk[:50])
    look_after(wired, HANDSHAKE_S - 1)
    peer.send(chunk[50:52])
    assert not peer.is_over
    look_after(wired, 1)
    assert peer.is_over
    assert wired.transport.refusals()["slow_frame"] == 1


def test_a_frame_that_ends_in_time_costs_nothing(wired):
    peer = wired.connect()
    _, chunk = peer.request(message())
    peer.send(chunk[:50])
    look_after(wired, HANDSHAKE_S - 1)
    peer.send(chunk[50:])
    look_after(wired, 10 * HANDSHAKE_S)
    assert not peer.is_over


@pytest.mark.parametrize("length", [500, 200_000])
def test_a_message_that_does_not_end_costs_the_call_alone(wired, length):
    peer = wired.connect()
    stream_id, _ = peer.request(b"")
    begun = bytes([0, *length.to_bytes(4, "big")])
    peer.send(peers.headers(stream_id) + peers.data(stream_id, begun + bytes(100)))
    look_after(wired, MESSAGE_S - 1)
    assert stream_id not in peer.read()
    look_after(wired, 1)
    heard = peer.read()[stream_id]
    assert (heard.status, heard.is_reset) == (4, True)
    assert "message_timeout_s = 60" in heard.message
    assert wired.transport.refusals()["slow_message"] == 1
    peer.send(peers.data(stream_id, bytes(length - 100), frames.END_STREAM) if length < 16_000 else b"")
    look_after(wired, 10 * MESSAGE_S)
    assert not peer.is_over
    peer.close()
    wired.check_that_nothing_is_held()


def test_a_call_that_waits_for_its_batch_may_take_as_long_as_it_likes(wired):
    peer = wired.connect()
    (asked,) = peer.ask(message())
    look_after(wired, 10 * MESSAGE_S)
    wired.servable.run_all()
    wired.loop.run()
    assert peer.read()[asked].status == 0


# ---- messages that the server does not take in ---------------------------------------------------------------------


def fields_of(method):
    path = b"/inference.GRPCInferenceService/" + method
    return [(name, path if name == b":path" else value) for name, value in peers.INFER]


def test_a_message_on_a_stream_that_is_paused_has_its_time_when_the_stream_goes_on(wired):
    peer = wired.connect()
    stream_id, _ = peer.request(b"")
    peer.send(peers.headers(stream_id, fields_of(b"ModelStreamInfer")))
    for _ in range(140):
        peer.send(peers.data(stream_id, peers.message(message())))
        wired.loop.run()
    peer.send(peers.data(stream_id, peers.message(message(256))[:100]))
    (call,) = peer.connection.calls.values()
    row = wired.core.state.streams[call.stream]
    assert row[S_STATE] & STREAM_PAUSED
    for _ in range(3):
        look_after(wired, MESSAGE_S)
    for _ in range(3):
        wired.servable.run_all()
        wired.loop.run()
    assert not row[S_STATE] & STREAM_PAUSED
    look_after(wired, MESSAGE_S - 1)
    assert peer.read()[stream_id].status is None
    look_after(wired, wired.transport._watch.interval_s + 1)
    assert peer.read()[stream_id].status == 4
    assert wired.transport.refusals()["slow_message"] == 1


def test_messages_on_a_connection_that_is_not_read_have_their_time_when_it_is(wired):
    peer = wired.connect()
    compiled, _ = peer.request(b"")
    ordinary, _ = peer.request(b"")
    begun = b"".join(
        peers.headers(stream_id, fields) + peers.data(stream_id, peers.message(bytes(500))[:50])
        for stream_id, fields in ((compiled, peers.INFER), (ordinary, fields_of(b"ServerReady")))
    )
    peer.send(begun)
    peer.socket.is_full = True
    peer.ask(message())
    wired.loop.run()
    wired.servable.run_all()
    wired.loop.run()
    assert not peer.socket.is_reading
    for _ in range(6):
        peer.socket.written = peer.socket.written[1:]
        look_after(wired, STALL_S - 1)
    peer.socket.is_full = False
    peer.socket.written = b""
    peer.connection.resume_writing()
    wired.loop.run()
    look_after(wired, MESSAGE_S - 1)
    assert not peer.read().keys() & {compiled, ordinary}
    look_after(wired, wired.transport._watch.interval_s + 1)
    assert [peer.read()[stream_id].status for stream_id in (compiled, ordinary)] == [4, 4]


# ---- the drain -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("begun", [peers.headers, lambda stream_id: peers.headers(stream_id) + peers.data(stream_id)])
def test_a_drained_connection_is_closed_when_its_last_stream_is_reset(wired, begun):
    peer = wired.connect()
    stream_id, _ = peer.request(b"")
    peer.send(begun(stream_id))
    wired.transport.begin_drain()
    peer.send(peers.frame(frames.PING, frames.ACK, 0, b"draining"))
    wired.loop.run()
    assert not peer.is_over
    peer.cancel(stream_id)
    wired.loop.run()
    assert peer.is_over
