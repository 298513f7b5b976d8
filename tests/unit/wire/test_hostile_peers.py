"""What hostile peers do to the decoder, counted: the offender is cut off within its bounds."""

import struct

import pytest

from serving.wire import frames, layout
from serving.wire.frames import END_HEADERS
from tests.support.peers import INFER, OTHER, PREFACE, Peer, data, frame, headers, message, request, settings

RESET = struct.pack(">I", 8)
BUDGET = 50
ARRAYS = ("connections", "streams", "pool", "events", "control", "headers", "shared")


def frames_until_closed(chunks, **limits) -> tuple[int, Peer]:
    """Send chunk after chunk; returns how many it took to be cut off."""
    peer = Peer(control_frames=BUDGET, **limits)
    for count, chunk in enumerate(chunks, 1):
        peer.send(chunk)
        if peer.is_closed:
            return count, peer
    raise AssertionError("the offender was never cut off")


def code_and_text(peer: Peer) -> tuple[int, bytes]:
    kind, _, _, payload = peer.answers()[-1]
    assert kind == frames.GOAWAY
    return struct.unpack(">I", payload[4:8])[0], payload[8:]


@pytest.mark.parametrize(
    "flood",
    [
        settings(),
        settings((4, 70_000), (4, 60_000)),
        frame(frames.SETTINGS, frames.ACK, 0),
        frame(frames.PING, frames.ACK, 0, b"12345678"),
        frame(frames.PRIORITY, 0, 1, b"\0" * 5),
        frame(frames.WINDOW_UPDATE, 0, 0, struct.pack(">I", 1)),
        frame(99, 0, 0, b""),
        frame(frames.GOAWAY, 0, 0, b"\0" * 8),
    ],
)
def test_a_flood_of_control_frames_is_cut_off(flood):
    count, peer = frames_until_closed(flood for _ in range(1000))
    assert count <= BUDGET + 1
    assert code_and_text(peer) == (frames.ENHANCE_YOUR_CALM, b"")


def test_a_flood_of_pings_is_cut_off_with_the_text_that_clients_understand():
    count, peer = frames_until_closed(frame(frames.PING, 0, 0, b"12345678") for _ in range(1000))
    assert count <= BUDGET + 1
    assert code_and_text(peer) == (frames.ENHANCE_YOUR_CALM, b"too_many_pings")


def test_rapid_reset_is_cut_off():
    resets = (headers(2 * k + 1) + frame(frames.RST_STREAM, 0, 2 * k + 1, RESET) for k in range(1000))
    count, peer = frames_until_closed(resets)
    assert count <= BUDGET + 1
    assert code_and_text(peer)[0] == frames.ENHANCE_YOUR_CALM


def test_rapid_reset_of_complete_requests_is_refused_by_the_stream_limit():
    peer = Peer(control_frames=BUDGET)
    handed_out = 0
    for k in range(1000):
        events = peer.send(request(2 * k + 1) + frame(frames.RST_STREAM, 0, 2 * k + 1, RESET))
        handed_out += sum(event.kind == layout.EVENT_REQUEST for event in events)
        if peer.is_closed:
            break
    assert peer.is_closed
    assert handed_out <= 8


def test_malformed_requests_and_refused_streams_are_paid_for():
    malformed = (headers(2 * k + 1, INFER[1:]) for k in range(1000))
    assert frames_until_closed(malformed)[0] <= BUDGET + 1
    refused = (headers(2 * k + 1) for k in range(1000))
    assert frames_until_closed(refused)[0] <= BUDGET + 8 + 1


@pytest.mark.parametrize("length", [0, 1])
def test_a_flood_of_continuations_is_cut_off(length):
    chunks = [frame(frames.HEADERS, 0, 1, b""), *(frame(frames.CONTINUATION, 0, 1, b"x" * length) for _ in range(1000))]
    count, peer = frames_until_closed(chunks)
    assert count <= layout.Limits().continuations + 2
    assert code_and_text(peer)[0] == frames.ENHANCE_YOUR_CALM


def test_a_header_block_over_its_bytes_is_cut_off_before_it_is_held():
    chunks = [frame(frames.HEADERS, 0, 1, b""), *(frame(frames.CONTINUATION, 0, 1, b"x" * 16_000) for _ in range(10))]
    _, peer = frames_until_closed(chunks, header_block_bytes=20_000)
    assert code_and_text(peer)[0] == frames.ENHANCE_YOUR_CALM
    held = len(frame(frames.HEADERS, 0, 1, b"")) + 20_000 + 2 * 9 + 16_000
    assert all(len(side.tail) <= held for side in peer.sides)


def test_an_expansion_bomb_is_cut_off():
    value = b"v" * 4000
    entry = b"\x40\x01a\x7f" + bytes([(4000 - 127) & 127 | 128, (4000 - 127) >> 7]) + value
    peer = Peer()
    peer.send(frame(frames.HEADERS, END_HEADERS, 1, entry))
    peer.send(frame(frames.HEADERS, END_HEADERS, 3, b"\xbe" * 16_000))
    assert peer.is_closed
    assert code_and_text(peer)[0] == frames.ENHANCE_YOUR_CALM


@pytest.mark.parametrize("empty", [data(1), frame(frames.DATA, frames.PADDED, 1, b"\x00")])
def test_a_flood_of_empty_data_is_cut_off(empty):
    count, _ = frames_until_closed([headers(1, OTHER), *(empty for _ in range(1000))])
    assert count <= BUDGET + 2


def test_window_updates_for_streams_that_are_over_are_paid_for():
    update = frame(frames.WINDOW_UPDATE, 0, 1, struct.pack(">I", 1 << 20))
    peer = Peer(control_frames=BUDGET)
    peer.send(headers(1) + frame(frames.RST_STREAM, 0, 1, RESET))
    for _ in range(BUDGET):
        peer.send(update)
    assert peer.is_closed


def test_a_busy_honest_client_is_never_cut_off():
    peer = Peer(control_frames=BUDGET)
    update = struct.pack(">I", 100)
    for k in range(500):
        stream_id = 2 * k + 1
        chunk = request(stream_id) + frame(frames.PING, 0, 0, b"bandwidt")
        chunk += frame(frames.WINDOW_UPDATE, 0, 0, update) + frame(frames.WINDOW_UPDATE, 0, stream_id, update)
        assert peer.send(chunk)[0].content == b"request"
        assert peer.release(stream_id) == 1
    assert not peer.is_closed


def test_a_quiet_client_may_keep_its_connection_alive_for_ever():
    peer = Peer(control_frames=BUDGET, control_frames_per_second=1)
    for k in range(500):
        peer.send(frame(frames.PING, 0, 0, b"12345678"), now_ns=k * 1_000_000_000)
    assert not peer.is_closed
    # However long it was quiet, it has no more than its allowance.
    flood = frame(frames.PING, 0, 0, b"12345678") * (BUDGET + 2)
    peer.send(flood, now_ns=2**61)
    assert peer.is_closed


def test_a_lying_length_costs_its_own_call_only():
    peer = Peer()
    events = peer.send(headers(1) + data(1, struct.pack(">BI", 0, 2**31)) + request(3))
    assert [(event.kind, event.id) for event in events] == [(layout.EVENT_FAILED, 1), (layout.EVENT_REQUEST, 3)]


def test_unfinished_messages_hold_their_blocks_until_they_are_reset():
    peer = Peer(blocks=2)
    chunk = b"".join(headers(stream_id) + data(stream_id, message(b"x" * 900)[:6]) for stream_id in (1, 3))
    peer.send(chunk)
    assert all(side.tail == b"" for side in peer.sides)
    assert [int(side.state.shared[layout.H_FREE_BLOCK]) for side in peer.sides] == [-1, -1]
    peer.send(frame(frames.RST_STREAM, 0, 1, RESET) + frame(frames.RST_STREAM, 0, 3, RESET))
    peer.send(b"")
    assert all(side.state.shared[layout.H_FREE_BLOCK] >= 0 for side in peer.sides)


def test_a_slow_preface_costs_its_own_bytes_only():
    peer = Peer(greet=False)
    peer.send(PREFACE[:23])
    assert all(side.tail == PREFACE[:23] for side in peer.sides)


def test_an_idle_connection_costs_at_most_16_kib():
    small, large = (layout.State(layout.Limits(connections=count, streams=1, blocks=0)) for count in (1, 10_001))
    grown = sum(getattr(large, name).nbytes - getattr(small, name).nbytes for name in ARRAYS)
    assert grown <= 10_000 * 16_384
