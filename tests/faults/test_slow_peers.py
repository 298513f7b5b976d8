"""Peers that begin something and do not end it lose it in time; peers that are slow but honest are answered."""

import socket

import pytest

from serving.wire import frames
from serving.wire.frames import END_STREAM
from tests.support.peers import OTHER, PREFACE, data, frame, headers, message, settings
from tests.support.proxies import Proxy
from tests.support.raw_client import infer
from tests.support.siege import Bystander, besieged

SOON_S = 0.2
PIECES = 5


@pytest.fixture
def siege(repository):
    with besieged(repository, handshake_timeout_s=SOON_S) as siege:
        yield siege


INTRODUCTIONS = {
    "nothing": b"",
    "a byte": PREFACE[:1],
    "most of a preface": PREFACE[:23],
    "no settings": PREFACE,
    "most of the settings": PREFACE + settings()[:8],
}


@pytest.mark.parametrize("begun", INTRODUCTIONS.values(), ids=INTRODUCTIONS)
def test_a_peer_that_does_not_introduce_itself_is_cut_off(siege, begun):
    with siege.connect(greet=False) as offender:
        offender.send(begun)
        assert offender.is_cut_off()
    refused = siege.refused()
    assert sum(refused.values()) == 1
    assert refused.keys() <= {"slow_preface", "slow_frame"}
    assert siege.exported("slow_preface") + siege.exported("slow_frame") == 1


BEGUN = {
    "a frame's header": frame(frames.PING, 0, 0, b"12345678")[:5],
    "a frame": frame(frames.PING, 0, 0, b"12345678")[:-1],
    "a header block": frame(frames.HEADERS, END_STREAM, 1, b"\x82"),
    "a continuation": frame(frames.HEADERS, 0, 1, b"\x82") + frame(frames.CONTINUATION, 0, 1, b"\x86")[:9],
    "data": headers(1) + data(1, message(bytes(1000)), END_STREAM)[:50],
}


@pytest.mark.parametrize("begun", BEGUN.values(), ids=BEGUN)
def test_a_frame_that_is_not_completed_ends_its_connection(siege, begun):
    with siege.connect() as offender:
        offender.sync()
        offender.send(begun)
        assert offender.is_cut_off()
    assert siege.refused() == {"slow_frame": 1}
    assert siege.exported("slow_frame") == 1


def test_a_frame_that_comes_byte_by_byte_has_no_more_time_than_one_that_stops(siege):
    """Each byte comes when another silent peer was cut off, so they keep coming until after the time limit."""
    slow = headers(1)
    with siege.connect() as offender:
        offender.sync()
        sent = 0
        for octet in slow[:PIECES]:
            offender.send(bytes([octet]))
            sent += 1
            with siege.connect(greet=False) as silent:
                assert silent.is_cut_off()
            if siege.refused().get("slow_frame"):
                break
        assert offender.is_cut_off()
    assert sent < PIECES
    assert siege.refused()["slow_frame"] == 1


def test_a_peer_that_has_introduced_itself_may_be_idle_for_ever(siege):
    with siege.connect() as patient:
        patient.sync()
        for _ in range(3):
            with siege.connect(greet=False) as silent:
                assert silent.is_cut_off()
        patient.send(infer(1, siege.request("affine")))
        assert patient.answer(1).status == 0


@pytest.fixture
def impatient(repository):
    """A server that gives messages little time, and frames enough."""
    with besieged(repository, message_timeout_s=SOON_S) as siege:
        yield siege


UNFINISHED = {
    "no message": headers(1),
    "a part of its prefix": headers(1) + data(1, message(bytes(100))[:3]),
    "a part of a message": headers(1) + data(1, message(bytes(100))[:50]),
    "a part of a large message": headers(1) + data(1, message(bytes(1 << 20))[:16_000]) * 3,
    "a message without an end": headers(1) + data(1, message(bytes(100))),
    "a part of a message on a stream": headers(1, OTHER) + data(1, message(bytes(100))[:50]),
}


@pytest.mark.parametrize("begun", UNFINISHED.values(), ids=UNFINISHED)
def test_a_message_that_is_not_completed_fails_its_own_call(impatient, begun):
    with impatient.connect() as offender:
        offender.send(begun)
        assert offender.answer(1).status == 4
        offender.send(infer(3, impatient.request("affine")))
        assert offender.answer(3).status == 0
    assert impatient.refused() == {"slow_message": 1}
    assert impatient.exported("slow_message") == 1
    impatient.server.wait_until(lambda: impatient.core.held_bytes == 0)


def test_a_stream_that_is_silent_between_messages_stays_open(impatient):
    watch = headers(1, OTHER) + data(1, message(b""), END_STREAM)
    with impatient.connect() as patient:
        patient.send(watch)
        patient.read_until(lambda seen: seen.kind == frames.DATA)
        for k in range(2):
            with impatient.connect() as slow:
                slow.send(headers(1))
                assert slow.answer(1).status == 4
            assert impatient.refused() == {"slow_message": k + 1}
        patient.sync()
        assert not any(seen.kind == frames.RST_STREAM for seen in patient.seen)
        assert not any(seen.kind == frames.HEADERS and seen.flags & END_STREAM for seen in patient.seen)


@pytest.mark.parametrize("model", ["affine", "waits"])
def test_a_connection_of_which_half_is_closed_is_let_go(siege, model):
    with siege.connect() as peer:
        peer.send(infer(1, siege.request(model)) + headers(3))
        peer.socket.shutdown(socket.SHUT_WR)
        assert peer.is_cut_off()
    assert siege.refused() == {}


def test_a_client_that_sends_a_byte_at_a_time_is_answered(siege):
    with siege.connect(greet=False) as patient:
        for octet in PREFACE + settings() + infer(1, siege.request("affine", value=4)):
            patient.send(bytes([octet]))
        assert patient.answer(1).status == 0
    assert siege.refused() == {}


@pytest.mark.parametrize("piece_bytes", [1, 7, 1000])
def test_a_stock_client_behind_a_slow_proxy_is_answered(repository, piece_bytes):
    with besieged(repository) as siege, Proxy(siege.server.address, piece_bytes=piece_bytes) as proxy:
        distant = Bystander(proxy.address)
        distant.leave()
        assert proxy.connections == 1
        assert siege.refused() == {}
