"""Peers that send many cheap frames: each is cut off within its allowance, and a stock client beside it sees nothing.

What is counted is the offender's: the frames that it could make the server take before its connection was over.
"""

import struct

import pytest

from serving.wire import frames
from serving.wire.layout import Limits
from tests.support.peers import OTHER, data, frame, headers, message, settings
from tests.support.raw_client import infer
from tests.support.siege import besieged

ALLOWANCE = Limits().control_frames
SLACK = 100
"""More than what time and useful work add to the allowance while a test sends its flood."""
RESET = struct.pack(">I", 8)
ONE = struct.pack(">I", 1)
PING = frame(frames.PING, 0, 0, b"12345678")


@pytest.fixture
def siege(repository):
    with besieged(repository) as siege:
        yield siege


def cut_off(siege, chunks):
    """Send frames, one more than is allowed and a few; return the end of the connection and what was refused."""
    with siege.connect() as offender:
        offender.sync()
        offender.send(b"".join(chunks))
        end = offender.goaway()
    return end, siege.refused()


FLOODS = {
    "empty settings": (lambda _: settings(), "settings_flood"),
    "settings that change all windows": (lambda k: settings((4, 60_000 + k)), "settings_flood"),
    "acknowledgements of settings": (lambda _: frame(frames.SETTINGS, frames.ACK, 0), "settings_flood"),
    "answers to no ping": (lambda _: frame(frames.PING, frames.ACK, 0, b"12345678"), "ping_flood"),
    "priorities": (lambda _: frame(frames.PRIORITY, 0, 1, bytes(5)), "control_flood"),
    "window updates of a byte": (lambda _: frame(frames.WINDOW_UPDATE, 0, 0, ONE), "control_flood"),
    "unknown frames": (lambda _: frame(99, 0, 0), "control_flood"),
    "farewells": (lambda _: frame(frames.GOAWAY, 0, 0, bytes(8)), "control_flood"),
    "resets of nothing": (lambda k: frame(frames.RST_STREAM, 0, 1, RESET) if k else headers(1), "reset_flood"),
    "streams opened and reset": (
        lambda k: headers(2 * k + 1) + frame(frames.RST_STREAM, 0, 2 * k + 1, RESET), "reset_flood",
    ),
    "empty data": (lambda k: data(1) if k else headers(1), "empty_data_flood"),
    "empty data with padding": (
        lambda k: data(1, b"\x05" + bytes(5), frames.PADDED) if k else headers(1), "empty_data_flood",
    ),
    "malformed requests": (lambda k: headers(2 * k + 1, OTHER[1:]), "request_flood"),
    "windows opened too far": (
        lambda k: headers(2 * k + 1) + frame(frames.WINDOW_UPDATE, 0, 2 * k + 1, b"\x7f\xff\xff\xff"), "control_flood",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("make", "reason"), FLOODS.values(), ids=FLOODS)
def test_a_flood_is_cut_off(siege, make, reason):
    end, refused = cut_off(siege, [make(k) for k in range(ALLOWANCE + SLACK)])
    assert end == (frames.ENHANCE_YOUR_CALM, b"too_many_pings" if reason == "ping_flood" else b"")
    assert refused.get(reason) == 1, refused
    assert siege.exported(reason) == 1


def test_a_flood_of_pings_is_answered_up_to_the_allowance_and_told_why_it_ends(siege):
    with siege.connect() as offender:
        offender.send(PING * (ALLOWANCE + SLACK))
        assert offender.goaway() == (frames.ENHANCE_YOUR_CALM, b"too_many_pings")
        answers = sum(seen.kind == frames.PING for seen in offender.seen)
    assert ALLOWANCE - SLACK < answers < ALLOWANCE + SLACK
    assert siege.refused() == {"ping_flood": 1}


def test_a_flood_goes_on_no_longer_when_it_comes_in_small_pieces(siege):
    with siege.connect() as offender:
        sent = 0
        for _ in range(ALLOWANCE + SLACK):
            offender.send(PING)
            seen = next(offender.frames_of(frames.PING, frames.GOAWAY), None)
            if seen is None or seen.kind == frames.GOAWAY:
                break
            sent += 1
        assert offender.is_cut_off()
    assert ALLOWANCE - SLACK < sent < ALLOWANCE + SLACK


def test_requests_that_are_reset_at_once_are_few_however_many_are_sent(siege):
    content = siege.request("waits")
    with siege.connect() as offender:
        chunks = [infer(2 * k + 1, content) + frame(frames.RST_STREAM, 0, 2 * k + 1, RESET) for k in range(3000)]
        offender.send(b"".join(chunks))
        assert offender.is_cut_off()
    refused = siege.refused()
    assert refused["reset_flood"] + refused.get("request_flood", 0) == 1


def test_a_busy_honest_peer_may_send_as_many_control_frames_as_its_work_needs(siege):
    content = siege.request("affine", value=3)
    update = struct.pack(">I", 100)
    with siege.connect() as peer:
        for k in range(2 * ALLOWANCE):
            stream_id = 2 * k + 1
            own = frame(frames.WINDOW_UPDATE, 0, stream_id, update)
            peer.send(headers(stream_id) + own + data(stream_id, message(content), frames.END_STREAM) + PING)
            assert peer.answer(stream_id).status == 0
            peer.forget()
    assert siege.refused() == {}
