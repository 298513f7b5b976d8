"""What a client sends: whole requests, on the right connection, within the server's limits, or later."""

import struct

import pytest

from serving.wire import frames
from serving.wire.client import heads, layout
from serving.wire.client.send import open_connection, send
from serving.wire.layout import C_LAST_STREAM, C_STATE, C_STREAM_COUNT, CONNECTION_OPEN
from tests.support.client_sessions import HEAD
from tests.support.client_side import SLOT, ClientSide
from tests.support.peers import data, frame, headers, message, settings, split_frames

END = frames.END_HEADERS | frames.END_STREAM


def body_of(out: bytes, stream_id: int) -> bytes:
    return b"".join(payload for kind, _, owner, payload in split_frames(out) if (kind, owner) == (0, stream_id))


def ids(out: bytes) -> list[int]:
    return [stream_id for kind, _, stream_id, _ in split_frames(out) if kind == frames.HEADERS]


def answer(stream_id: int) -> bytes:
    return headers(stream_id, HEAD) + data(stream_id, message(b"")) + headers(stream_id, [(b"grpc-status", b"0")], END)


def window(stream_id: int, count: int) -> bytes:
    return frame(frames.WINDOW_UPDATE, 0, stream_id, struct.pack(">I", count))


def test_a_request_is_its_headers_and_its_message():
    side = ClientSide([5], messages=[b"abc"])
    assert side.send(4) == b""
    assert side.next_ns == 5
    out = side.send(7)
    kinds = [(kind, flags, stream_id) for kind, flags, stream_id, _ in split_frames(out)]
    assert kinds == [(frames.HEADERS, frames.END_HEADERS, 1), (frames.DATA, frames.END_STREAM, 1)]
    assert body_of(out, 1) == message(b"abc")
    assert (side.next_ns, side.live) == (layout.NOTHING_DUE, 1)
    assert (side.shared(layout.X_SENT), side.shared(layout.X_LAG_TOTAL_NS)) == (1, 2)


def test_messages_take_turns():
    side = ClientSide([0] * 5, messages=[b"a", b"bb"])
    out = side.send()
    assert [body_of(out, stream_id)[5:] for stream_id in ids(out)] == [b"a", b"bb", b"a", b"bb", b"a"]


def test_what_a_server_has_no_stream_for_keeps_its_intended_moment():
    side = ClientSide([0, 1, 2], greet=False)
    side.receive(settings((frames.SETTINGS_MAX_CONCURRENT_STREAMS, 1)))
    assert ids(side.send(2)) == [1]
    assert side.waits
    assert side.next_ns == 1
    side.receive(answer(1), 100)
    assert ids(side.send(100)) == [3]
    side.receive(answer(3), 150)
    assert side.shared(layout.X_LATENCY_MAX_NS) == 149
    assert side.shared(layout.X_LAG_MAX_NS) == 99


def test_the_id_of_a_row_that_an_old_call_holds_is_passed_over():
    side = ClientSide([0] * 20, calls_max=4)
    assert ids(side.send()) == [1, 3, 5]  # one row stays free
    side.receive(answer(3) + answer(5))
    assert ids(side.send()) == [7, 11]  # 9 would lie in the row of 1
    side.receive(answer(7) + answer(11) + answer(1))
    assert ids(side.send()) == [13, 15, 17]
    assert side.codes() == {"OK": 5}


def test_a_long_message_waits_for_windows_and_goes_on_where_it_stopped():
    content = bytes(range(256)) * 1000
    side = ClientSide([0, 0], messages=[content], out_bytes=1 << 20, greet=False)
    side.receive(settings((frames.SETTINGS_INITIAL_WINDOW_SIZE, 100)))
    out = side.send()
    assert ids(out) == [1]
    assert len(body_of(out, 1)) == 100
    assert side.send() == b""
    side.receive(window(1, 1_000_000))
    out += side.send()
    assert len(body_of(out, 1)) == 65_535
    side.receive(window(0, 1_000_000))
    out += side.send()
    assert body_of(out, 1) == message(content)
    assert {len(payload) <= 16_384 for *_, payload in split_frames(out)} == {True}
    assert split_frames(out)[-1][2] == 3  # the second one begins when the first is written


def test_a_message_longer_than_the_output_goes_on_when_it_was_sent():
    side = ClientSide([0], messages=[bytes(200_000)], greet=False)
    side.receive(settings((frames.SETTINGS_INITIAL_WINDOW_SIZE, 1 << 20)) + window(0, 1 << 20))
    out, portions = b"", 0
    while not portions or side.goes_on:
        out += side.send()
        portions += 1
    assert portions > 3
    assert body_of(out, 1) == message(bytes(200_000))


def test_a_smaller_initial_window_holds_for_the_message_that_is_being_written():
    side = ClientSide([0], messages=[bytes(500)], greet=False)
    side.receive(settings((frames.SETTINGS_INITIAL_WINDOW_SIZE, 100)))
    side.send()
    side.receive(settings((frames.SETTINGS_INITIAL_WINDOW_SIZE, 50)) + window(1, 60))
    assert len(body_of(side.send(), 1)) == 10


@pytest.mark.parametrize("value", [16_384, 20_000, 1 << 24])
def test_frames_are_as_long_as_the_server_allows(value):
    side = ClientSide([0], messages=[bytes(60_000)], out_bytes=1 << 20, greet=False)
    side.receive(settings((frames.SETTINGS_MAX_FRAME_SIZE, min(value, (1 << 24) - 1))))
    lengths = [len(payload) for kind, *_, payload in split_frames(side.send()) if kind == frames.DATA]
    assert lengths[0] == min(value, 60_005)


def test_an_early_answer_ends_the_message_by_a_reset():
    side = ClientSide([0, 0], messages=[bytes(100_000)])
    side.send()
    out = side.receive(headers(1, [*HEAD, (b"grpc-status", b"8")], END))
    assert split_frames(out) == [(frames.RST_STREAM, 0, 1, bytes(4))]
    assert side.codes() == {"RESOURCE_EXHAUSTED": 1}
    side.receive(window(0, 200_000))
    assert ids(side.send()) == [3]


def test_in_a_closed_loop_an_answer_makes_place_for_the_next_request_until_the_end():
    side = ClientSide([0, 0])
    side.set(closed_loop=1, end_ns=100)
    assert ids(side.send()) == [1, 3]
    side.receive(answer(3), 40)
    assert side.next_ns == layout.NOTHING_DUE
    assert ids(side.send(50)) == [5]
    assert side.shared(layout.X_LAG_MAX_NS) == 10
    side.receive(answer(1) + answer(5), 100)
    assert ids(side.send(100)) == []


def test_a_call_without_an_answer_ends_at_its_deadline():
    side = ClientSide([0, 5])
    side.send(0)
    side.send(5)
    out = side.expire(12, 10)
    assert split_frames(out) == [(frames.RST_STREAM, 0, 1, struct.pack(">I", 8))]
    assert side.codes() == {"DEADLINE_EXCEEDED": 1}
    side.receive(answer(1))  # too late
    side.receive(answer(3))
    assert side.codes() == {"DEADLINE_EXCEEDED": 1, "OK": 1}
    assert side.expire(99, 10) == b""


def test_a_call_that_expires_in_a_closed_loop_makes_place():
    side = ClientSide([0])
    side.set(closed_loop=1)
    side.send(0)
    side.expire(20, 10)
    assert ids(side.send(20)) == [3]


def test_cancelling_resets_every_open_call_and_counts_none():
    side = ClientSide([0] * 5)
    side.send()
    side.receive(answer(5))
    resets = split_frames(side.cancel())
    assert [(kind, stream_id) for kind, _, stream_id, _ in resets] == [(3, 1), (3, 3), (3, 7), (3, 9)]
    assert side.codes() == {"OK": 1}
    assert (side.shared(layout.X_LIVE), side.connection(C_STREAM_COUNT)) == (0, 0)


def test_cancelling_more_calls_than_the_output_holds_resets_goes_on_when_they_were_sent():
    side = ClientSide([0] * 2000, calls_max=2048, out_bytes=20_000, messages=[b""])
    for _ in range(100):
        side.send()
    assert side.live == 2000
    assert len(split_frames(side.cancel())) == 2000


def test_a_socket_that_takes_no_more_gets_no_more():
    side = ClientSide([0])
    for each in side.sides:
        each.state.connections[SLOT, layout.K_STUCK] = 1
    assert side.send() == b""
    assert side.waits
    for each in side.sides:
        each.state.connections[SLOT, layout.K_STUCK] = 0
    assert ids(side.send()) == [1]


def test_stream_ids_end_before_they_would_wrap():
    side = ClientSide([0, 0])
    for each in side.sides:
        each.state.connections[SLOT, C_LAST_STREAM] = 2**31 - 3
    assert ids(side.send()) == [2**31 - 1]
    assert side.waits


@pytest.mark.parametrize(("together", "expected"), [(1, [4, 4, 4]), (4, [4, 4, 4]), (100, [12, 0, 0])])
def test_requests_go_to_the_connection_with_the_fewest_open_calls(together, expected):
    side = ClientSide([0] * 12).sides[0]
    state = side.state
    for slot in range(3):
        open_connection(state.connections, state.calls, state.shared, slot)
        state.connections[slot, C_STATE] = CONNECTION_OPEN
    state.shared[layout.X_TOGETHER] = together
    send(
        state.connections, state.calls, state.outs, state.shared, state.counts, side.due, side.messages, side.where,
        side.head, state.ready, 0,
    )  # fmt: skip
    assert state.connections[:, C_STREAM_COUNT].tolist() == expected


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (1e-9, b"1n"),
        (0.05, b"50000000n"),
        (0.25, b"250000u"),
        (120, b"120000m"),
        (1e6, b"1000000S"),
        (1e12, b"99999999S"),
    ],
)
def test_a_timeout_is_written_in_the_finest_unit_that_holds_it(seconds, text):
    assert heads.timeout(seconds) == text
