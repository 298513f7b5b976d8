"""What hostile peers do to the decoder, counted: the offender is cut off within its bounds."""

import resource
import struct
from pathlib import Path

import pytest

from serving.wire import frames, layout
from serving.wire.frames import END_HEADERS, END_STREAM
from tests.support.peers import INFER, OTHER, PREFACE, SLOT, Peer, data, frame, headers, message, request, settings

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
    ("flood", "name"),
    [
        (settings(), "settings_flood"),
        (settings((4, 70_000), (4, 60_000)), "settings_flood"),
        (frame(frames.SETTINGS, frames.ACK, 0), "settings_flood"),
        (frame(frames.PRIORITY, 0, 1, b"\0" * 5), "control_flood"),
        (frame(frames.WINDOW_UPDATE, 0, 0, struct.pack(">I", 1)), "control_flood"),
        (frame(99, 0, 0, b""), "control_flood"),
        (frame(frames.GOAWAY, 0, 0, b"\0" * 8), "control_flood"),
    ],
)
def test_a_flood_of_control_frames_is_cut_off(flood, name):
    count, peer = frames_until_closed(flood for _ in range(1000))
    assert count <= BUDGET + 1
    assert code_and_text(peer) == (frames.ENHANCE_YOUR_CALM, b"")
    assert peer.refusals() == {name: 1}


@pytest.mark.parametrize("flags", [0, frames.ACK])
def test_a_flood_of_pings_is_cut_off_with_the_text_that_clients_understand(flags):
    count, peer = frames_until_closed(frame(frames.PING, flags, 0, b"12345678") for _ in range(1000))
    assert count <= BUDGET + 1
    assert code_and_text(peer) == (frames.ENHANCE_YOUR_CALM, b"too_many_pings")
    assert peer.refusals() == {"ping_flood": 1}


def test_rapid_reset_is_cut_off():
    resets = (headers(2 * k + 1) + frame(frames.RST_STREAM, 0, 2 * k + 1, RESET) for k in range(1000))
    count, peer = frames_until_closed(resets)
    assert count <= BUDGET + 1
    assert code_and_text(peer)[0] == frames.ENHANCE_YOUR_CALM
    assert peer.refusals() == {"reset_flood": 1}


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
    refused = peer.refusals()
    assert refused.pop("too_many_streams") >= BUDGET // 2 - 8
    assert set(refused) <= {"request_flood", "reset_flood"}


def test_malformed_requests_and_refused_streams_are_paid_for():
    malformed = (headers(2 * k + 1, INFER[1:]) for k in range(1000))
    count, peer = frames_until_closed(malformed)
    assert count <= BUDGET + 1
    assert peer.refusals() == {"malformed_request": count, "request_flood": 1}
    refused = (headers(2 * k + 1) for k in range(1000))
    count, peer = frames_until_closed(refused)
    assert count <= BUDGET + 8 + 1
    assert peer.refusals() == {"too_many_streams": count - 8, "request_flood": 1}


@pytest.mark.parametrize("length", [0, 1])
def test_a_flood_of_continuations_is_cut_off(length):
    chunks = [frame(frames.HEADERS, 0, 1, b""), *(frame(frames.CONTINUATION, 0, 1, b"x" * length) for _ in range(1000))]
    count, peer = frames_until_closed(chunks)
    assert count <= layout.Limits().continuations + 2
    assert code_and_text(peer)[0] == frames.ENHANCE_YOUR_CALM
    assert peer.refusals() == {"continuation_flood": 1}


def test_a_header_block_over_its_bytes_is_cut_off_before_it_is_held():
    chunks = [frame(frames.HEADERS, 0, 1, b""), *(frame(frames.CONTINUATION, 0, 1, b"x" * 16_000) for _ in range(10))]
    _, peer = frames_until_closed(chunks, header_block_bytes=20_000)
    assert code_and_text(peer)[0] == frames.ENHANCE_YOUR_CALM
    assert peer.refusals() == {"header_block_too_long": 1}
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
    assert peer.refusals() == {"malformed_request": 1, "header_list_beyond_bounds": 1}


@pytest.mark.parametrize("empty", [data(1), frame(frames.DATA, frames.PADDED, 1, b"\x00")])
def test_a_flood_of_empty_data_is_cut_off(empty):
    count, peer = frames_until_closed([headers(1, OTHER), *(empty for _ in range(1000))])
    assert count <= BUDGET + 2
    assert peer.refusals() == {"empty_data_flood": 1}


def test_window_updates_for_streams_that_are_over_are_paid_for():
    update = frame(frames.WINDOW_UPDATE, 0, 1, struct.pack(">I", 1 << 20))
    peer = Peer(control_frames=BUDGET)
    peer.send(headers(1) + frame(frames.RST_STREAM, 0, 1, RESET))
    for _ in range(BUDGET):
        peer.send(update)
    assert peer.is_closed
    assert peer.refusals() == {"control_flood": 1}


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
    assert peer.refusals() == {}


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
    assert peer.refusals() == {"message_length": 1}


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


def test_connections_take_no_memory_before_they_are_opened():
    assert min(grown_by_connections() for _ in range(3)) < 4 << 20  # other threads of this process may grow meanwhile


def grown_by_connections() -> int:
    before = resident_bytes()
    state = layout.State(layout.Limits(connections=10_000, streams=1, blocks=0))
    assert sum(getattr(state, name).nbytes for name in ("connections", "pool")) > 50 << 20
    return resident_bytes() - before


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


# Every refusal has a counter


def test_every_counter_has_a_name_and_the_first_are_those_of_failed_calls():
    numbers = {name: value for name, value in vars(layout).items() if name.startswith("REFUSED_")}
    assert numbers == {f"REFUSED_{name.upper()}": k for k, name in enumerate(layout.REFUSALS)}
    failures = {name: value for name, value in vars(layout).items() if name.startswith("FAIL_")}
    for name, value in failures.items():
        assert layout.REFUSALS[value].startswith(name.removeprefix("FAIL_").lower())
    assert layout.H_COUNTS + len(layout.REFUSALS) <= layout.H_BLOCK_NEXT


def with_field(name: bytes, value: bytes) -> bytes:
    fields = [field for field in INFER if field[0] != name]
    return headers(1, [(name, value), *fields] if name[:1] == b":" else [*fields, (name, value)])


def long_list() -> bytes:
    block = headers(1, [*INFER, (b"x", b"v" * 17_000)])[9:]
    return frame(frames.HEADERS, 0, 1, block[:9000]) + frame(frames.CONTINUATION, END_HEADERS, 1, block[9000:])


@pytest.mark.parametrize(
    ("name", "chunk"),
    [
        ("method", with_field(b":method", b"GET")),
        ("content_type", with_field(b"content-type", b"text/plain")),
        ("header_list_too_long", long_list()),
        ("timeout", with_field(b"grpc-timeout", b"soon")),
        ("encoding", with_field(b"grpc-encoding", b"br")),
        ("message_flag", headers(1) + data(1, message(b"m", 2), END_STREAM)),
        ("compressed_flag", headers(1) + data(1, message(b"m", 1), END_STREAM)),
        ("cut_off", headers(1) + data(1, message(b"mm")[:6], END_STREAM)),
        ("no_message", headers(1) + data(1, b"", END_STREAM)),
        ("second_message", headers(1) + data(1, message(b"m") * 2, END_STREAM)),
        ("malformed_request", with_field(b"connection", b"close")),
        ("malformed_request", headers(1) + headers(1, [(b"x", b"y")])),
        ("content_length", with_field(b"content-length", b"5") + data(1, message(b"m"))),
        ("content_length", with_field(b"content-length", b"5") + headers(1, [(b"x", b"y")], END_HEADERS | END_STREAM)),
        ("content_length", headers(1, [*INFER, (b"content-length", b"5")], END_HEADERS | END_STREAM)),
        ("closed_stream", request(1) + data(1, b"late")),
        ("closed_stream", request(1) + headers(1, [(b"x", b"y")], END_HEADERS | END_STREAM)),
        ("stream_flow_control", headers(1) + data(1, b"x" * 1001)),
        ("stream_flow_control", headers(1) + frame(frames.WINDOW_UPDATE, 0, 1, bytes(4))),
        ("no_stream_rows", b"".join(headers(stream_id) for stream_id in (1, 3, 5))),
        ("frame_size_error", frame(frames.PRIORITY, 0, 1, bytes(4))),
        ("frame_size_error", headers(1) + frame(frames.PRIORITY, 0, 1, bytes(4))),
        ("frame_size_error", frame(frames.PING, 0, 0, b"1234567")),
        ("frame_size_error", frame(frames.HEADERS, 0, 1) + b"\xff\xff\xff\x09" + frame(0, 0, 1)[4:]),
        ("protocol_error", frame(frames.DATA, 0, 0, b"x")),
        ("flow_control_error", settings((4, 2**31))),
        ("compression_error", frame(frames.HEADERS, END_HEADERS, 1, b"\x80")),
    ],
)
def test_a_refusal_is_counted_once_by_its_name(name, chunk):
    peer = Peer(stream_window_bytes=1000, streams=2)
    peer.send(chunk)
    assert peer.refusals() == {name: 1}


def test_what_is_refused_before_and_after_all_requests_is_counted():
    peer = Peer(greet=False)
    peer.send(b"GET / HTTP/1.1")
    assert peer.refusals() == {"not_http2": 1}
    peer = Peer()
    for side in peer.sides:
        side.state.connections[SLOT, layout.C_LAST_ACCEPTED] = 1
    peer.send(request(1) + request(3))
    assert peer.refusals() == {"after_goaway": 1}


def test_streams_of_a_peer_that_takes_no_answers_are_counted():
    peer = Peer(unsent_bytes=1000)
    for side in peer.sides:
        side.state.connections[SLOT, layout.C_UNSENT] = 1001
    peer.send(headers(1))
    assert peer.refusals() == {"too_much_unsent": 1}
