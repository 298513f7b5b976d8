"""The server's side of HTTP/2 by example: RFC 9113, section by section."""

import struct

import hpack
import pytest

from bench.wire_decode import grpcio_reads, h2load_reads
from serving.wire import connection, frames, layout
from serving.wire.frames import ACK, END_HEADERS, END_STREAM, PADDED, PRIORITY_FLAG
from tests.support.peers import (
    INFER,
    OTHER,
    PREFACE,
    SLOT,
    Event,
    Peer,
    data,
    frame,
    headers,
    message,
    request,
    settings,
    split_frames,
)

MODEL_INFER = layout.EVENT_REQUEST


def closed_by(chunk: bytes, **limits) -> int:
    """Return the code of the GOAWAY that `chunk` gets on an open connection."""
    peer = Peer(**limits)
    *_, event = peer.send(chunk)
    assert peer.is_closed
    assert event.kind == layout.EVENT_CLOSED
    kind, _, stream_id, payload = peer.answers()[-1]
    assert (kind, stream_id) == (frames.GOAWAY, 0)
    assert peer.send(request(101)) == []
    assert struct.unpack(">I", payload[4:8])[0] == event.detail
    return event.detail


def resets_of(peer: Peer) -> list[tuple[int, int]]:
    return [
        (answer[2], int.from_bytes(answer[3], "big")) for answer in peer.answers() if answer[0] == frames.RST_STREAM
    ]


def reset_by(chunk: bytes, **limits) -> int:
    """Return the code of the RST_STREAM that `chunk` gets on stream 1, while the connection goes on."""
    peer = Peer(**limits)
    peer.send(chunk)
    ((stream_id, code),) = resets_of(peer)
    assert stream_id == 1
    assert [event.kind for event in peer.send(request(99))] == [MODEL_INFER]
    return code


# Section 3.4: the preface


def test_a_server_begins_with_its_settings_and_a_larger_window():
    (kind, _, _, ours), update = split_frames(Peer(greet=False).opening)
    assert kind == frames.SETTINGS
    assert dict(struct.iter_unpack(">HI", ours)) == {3: 8, 4: 1 << 20, 6: 16_384}
    assert update == (frames.WINDOW_UPDATE, 0, 0, struct.pack(">I", (16 << 20) - 65_535))


def test_the_preface_may_come_byte_by_byte():
    peer = Peer(greet=False)
    for byte in PREFACE + settings():
        assert peer.send(bytes([byte])) == []
    assert peer.answers() == [(frames.SETTINGS, ACK, 0, b"")]
    assert peer.column(layout.C_STATE) == layout.CONNECTION_OPEN


@pytest.mark.parametrize("start", [b"GET / HTTP/1.1\r\n", b"\x16\x03\x01", b"PRI * HTTP/2.0\r\n\r\nXX"])
def test_another_protocol_is_told_and_nothing_written(start):
    peer = Peer(greet=False)
    assert [event.kind for event in peer.send(start)] == [layout.EVENT_NOT_HTTP2]
    assert peer.is_closed
    assert peer.control == b""


@pytest.mark.parametrize("first", [frame(frames.PING, 0, 0, b"12345678"), frame(frames.SETTINGS, ACK, 0)])
def test_the_first_frame_must_be_settings(first):
    peer = Peer(greet=False)
    assert peer.send(PREFACE + first)[-1] == Event(layout.EVENT_CLOSED, 0, frames.PROTOCOL_ERROR)


# Requests


def test_a_request_in_one_read_is_handed_out_once():
    assert Peer().send(request(1, b"tensors")) == [Event(MODEL_INFER, 1, content=b"tensors")]


@pytest.mark.parametrize("client", [h2load_reads, grpcio_reads])
def test_reads_of_real_clients_are_requests(client):
    peer = Peer(control_frames=20)
    for k, chunk in enumerate(client(6, 4)):
        ids = range(1 + 12 * k, 13 + 12 * k, 2)
        events = [event._replace(deadline_ns=layout.NO_DEADLINE) for event in peer.send(chunk)]
        assert events == [Event(MODEL_INFER, stream_id, content=bytes(152)) for stream_id in ids]
        assert [peer.release(stream_id) for stream_id in ids] == [1] * 6
    assert peer.refusals() == {}


def test_a_message_may_span_frames_and_reads_and_end_in_an_empty_frame():
    peer = Peer()
    whole = message(b"x" * 700)
    assert peer.send(headers(1) + data(1, whole[:3]) + data(1, whole[3:400])) == []
    assert peer.send(data(1, whole[400:])) == []
    assert peer.send(data(1, b"", END_STREAM)) == [Event(MODEL_INFER, 1, content=b"x" * 700)]


def test_a_message_longer_than_a_block_comes_in_parts():
    peer = Peer()
    whole = message(bytes(range(256)) * 20)
    peer.send(headers(1))
    for at in range(0, len(whole), 900):
        assert peer.send(data(1, whole[at : at + 900])) == []
    assert peer.send(data(1, b"", END_STREAM)) == [Event(MODEL_INFER, 1, content=bytes(range(256)) * 20)]


def test_without_a_free_block_a_message_comes_in_parts_and_others_are_not_disturbed():
    peer = Peer(blocks=1)
    for stream_id in (1, 3, 5):
        assert peer.send(headers(stream_id) + data(stream_id, message(b"%d" % stream_id * 100)[:50])) == []
    for stream_id in (5, 1, 3):
        rest = message(b"%d" % stream_id * 100)[50:]
        assert peer.send(data(stream_id, rest, END_STREAM))[0].content == b"%d" % stream_id * 100


def test_padding_and_priority_fields_are_left_out():
    block = headers(1)[9:]
    padded = frame(frames.HEADERS, END_HEADERS | PADDED | PRIORITY_FLAG, 1, b"\x04" + b"\0\0\0\7\1" + block + b"pad!")
    body = frame(frames.DATA, PADDED | END_STREAM, 1, b"\x02" + message(b"m") + b"xx")
    assert Peer().send(padded + body) == [Event(MODEL_INFER, 1, content=b"m")]


def test_a_header_block_may_span_continuations():
    block = headers(1)[9:]
    for cuts in ([10, 20], [0, 0], [len(block), len(block)], [1, len(block) - 1]):
        pieces = [block[: cuts[0]], block[cuts[0] : cuts[1]], block[cuts[1] :]]
        chunk = frame(frames.HEADERS, PADDED, 1, b"\x03" + pieces[0] + b"pad")
        chunk += frame(frames.CONTINUATION, 0, 1, pieces[1]) + frame(frames.CONTINUATION, END_HEADERS, 1, pieces[2])
        peer = Peer()
        assert peer.send(chunk[:-1]) == []
        assert peer.send(chunk[-1:] + data(1, message(b"m"), END_STREAM)) == [Event(MODEL_INFER, 1, content=b"m")]


def test_a_timeout_becomes_a_deadline_and_saturates():
    fields = [*INFER, (b"grpc-timeout", b"20m")]
    body = data(1, message(b""), END_STREAM)
    (event,) = Peer().send(headers(1, fields) + body, now_ns=1_000)
    assert event.deadline_ns == 20_001_000
    (event,) = Peer().send(headers(1, [*INFER, (b"grpc-timeout", b"99999999H")]) + body, now_ns=1_000)
    assert event.deadline_ns == layout.NO_DEADLINE


def test_another_call_is_told_at_every_step():
    peer = Peer()
    events = peer.send(headers(1, OTHER) + data(1, message(b"one") + message(b"") + message(b"two")[:6]))
    assert events == [
        Event(layout.EVENT_OPENED, 1, content=OTHER),
        Event(layout.EVENT_MESSAGE, 1, content=b"one"),
        Event(layout.EVENT_MESSAGE, 1, content=b""),
    ]
    assert peer.send(data(1, message(b"two")[6:])) == [Event(layout.EVENT_MESSAGE, 1, content=b"two")]
    assert peer.send(data(1, b"", END_STREAM)) == [Event(layout.EVENT_ENDED, 1)]


def test_trailers_end_a_request():
    chunk = headers(1) + data(1, message(b"m")) + headers(1, [(b"x", b"y")], END_HEADERS | END_STREAM)
    assert Peer().send(chunk) == [Event(MODEL_INFER, 1, content=b"m")]


def test_a_compressed_message_names_its_encoding():
    fields = [*INFER, (b"grpc-encoding", b"gzip")]
    (event,) = Peer().send(headers(1, fields) + data(1, message(b"z", 1), END_STREAM))
    assert (event.encoding, event.content) == (layout.ENCODING_GZIP, b"z")
    (event,) = Peer().send(headers(1, fields) + data(1, message(b"z", 0), END_STREAM))
    assert event.encoding == layout.ENCODING_IDENTITY


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", layout.FAIL_NO_MESSAGE),
        (message(b"m")[:3], layout.FAIL_CUT_OFF),
        (message(b"m")[:5], layout.FAIL_CUT_OFF),
        (message(b"mm")[:6], layout.FAIL_CUT_OFF),
        (message(b"m") + message(b"n"), layout.FAIL_SECOND_MESSAGE),
        (message(b"m") + b"\0", layout.FAIL_SECOND_MESSAGE),
        (message(b"m", 1), layout.FAIL_COMPRESSED),
        (message(b"m", 2), layout.FAIL_MESSAGE_FLAG),
        (struct.pack(">BI", 0, 5001) + b"x", layout.FAIL_MESSAGE_LENGTH),
        (struct.pack(">BI", 0, 2**32 - 1) + b"x", layout.FAIL_MESSAGE_LENGTH),
    ],
)
def test_broken_grpc_framing_fails_the_call(body, reason):
    failed = [Event(layout.EVENT_FAILED, 1, reason)]
    assert Peer(message_bytes=5000).send(headers(1) + data(1, body, END_STREAM)) == failed
    peer = Peer(message_bytes=5000)
    events = peer.send(headers(1))
    for byte in body:
        events += peer.send(data(1, bytes([byte])))
    assert events + peer.send(data(1, b"", END_STREAM)) == failed


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        (b":method", b"GET", layout.FAIL_METHOD),
        (b"content-type", b"text/plain", layout.FAIL_CONTENT_TYPE),
        (b"grpc-timeout", b"soon", layout.FAIL_TIMEOUT),
        (b"grpc-encoding", b"br", layout.FAIL_ENCODING),
        (b"x-long", b"v" * 17_000, layout.FAIL_HEADER_LIST),
    ],
)
def test_a_call_that_cannot_be_served_fails_and_its_data_is_dropped(name, value, reason):
    fields = [field if field[0] != name else (name, value) for field in INFER]
    fields += [(name, value)] if (name, value) not in fields else []
    block = headers(1, fields)[9:]
    chunk = frame(frames.HEADERS, 0, 1, block[:9000]) + frame(frames.CONTINUATION, END_HEADERS, 1, block[9000:])
    peer = Peer()
    assert peer.send(chunk) == [Event(layout.EVENT_FAILED, 1, reason)]
    assert peer.send(data(1, b"dropped") + data(1, b"", END_STREAM)) == []
    assert peer.release(1) == 1


# Section 5.1, 6.4 and 8.1: streams and their errors


@pytest.mark.parametrize(
    "fields",
    [
        [field for field in INFER if field[0] != b":path"],
        [field for field in INFER if field[0] != b":method"],
        [field for field in INFER if field[0] != b":scheme"],
        [*INFER, (b"Upper", b"x")],
        [*INFER, (b"connection", b"close")],
        [*INFER, (b":path", b"/")],
        [*INFER[4:], *INFER[:4]],
    ],
)
def test_a_malformed_request_is_reset(fields):
    assert reset_by(headers(1, fields)) == frames.PROTOCOL_ERROR


@pytest.mark.parametrize(("length", "flags"), [(b"5", 0), (b"7", END_STREAM)])
def test_a_body_that_breaks_its_content_length_is_reset(length, flags):
    fields = [*INFER, (b"content-length", length)]
    assert reset_by(headers(1, fields) + data(1, message(b"m"), flags)) == frames.PROTOCOL_ERROR
    kept = headers(1, [*INFER, (b"content-length", b"6")]) + data(1, message(b"m"), END_STREAM)
    assert Peer().send(kept) == [Event(MODEL_INFER, 1, content=b"m")]


def test_trailers_that_do_not_end_or_have_pseudo_headers_are_reset():
    assert reset_by(headers(1) + headers(1, [(b"x", b"y")])) == frames.PROTOCOL_ERROR
    trailers = headers(1, [(b":path", b"/")], END_HEADERS | END_STREAM)
    assert reset_by(headers(1) + trailers) == frames.PROTOCOL_ERROR


@pytest.mark.parametrize("late", [data(1, b"late"), headers(1, [(b"x", b"y")], END_HEADERS | END_STREAM)])
def test_frames_after_end_stream_are_reset_and_told(late):
    peer = Peer()
    peer.send(request(1))
    assert peer.send(late) == [Event(layout.EVENT_RESET, 1, frames.STREAM_CLOSED)]
    assert resets_of(peer) == [(1, frames.STREAM_CLOSED)]
    assert peer.release(1) == 1


def test_more_streams_than_allowed_are_refused_and_their_headers_decoded():
    peer, encoder = Peer(), hpack.Encoder()
    for stream_id in range(1, 17, 2):
        peer.send(headers(stream_id))
    peer.send(frame(frames.HEADERS, END_HEADERS, 17, encoder.encode([*INFER, (b"x", b"table")])))
    assert resets_of(peer) == [(17, frames.REFUSED_STREAM)]
    peer.send(data(17, b"for nobody"))
    peer.send(frame(frames.RST_STREAM, 0, 1, struct.pack(">I", 8)))
    block = encoder.encode([*OTHER, (b"x", b"table")])
    (event,) = peer.send(frame(frames.HEADERS, END_HEADERS, 19, block))
    assert event.content == [*OTHER, (b"x", b"table")]


def test_a_reset_stream_counts_until_its_row_is_released():
    peer = Peer()
    for stream_id in range(1, 17, 2):
        peer.send(request(stream_id))
        reset = frame(frames.RST_STREAM, 0, stream_id, struct.pack(">I", 8))
        assert peer.send(reset) == [Event(layout.EVENT_RESET, stream_id, 8)]
    peer.send(request(17))
    assert resets_of(peer) == [(17, frames.REFUSED_STREAM)]
    assert peer.release(1) == 1
    assert peer.send(request(19)) == [Event(MODEL_INFER, 19, content=b"request")]


def test_a_stream_reset_before_it_was_handed_out_leaves_nothing_behind():
    peer = Peer()
    chunk = headers(1) + data(1, message(b"m" * 50)[:20]) + frame(frames.RST_STREAM, 0, 1, struct.pack(">I", 8))
    assert peer.send(chunk) == []
    assert peer.column(layout.C_STREAM_COUNT) == 0


def test_a_row_is_released_once_and_only_under_its_generation():
    peer = Peer()
    peer.send(request(1))
    assert peer.release(1) == 1
    assert peer.release(1) == 0
    peer.send(request(3))
    assert peer.release(1) == 0
    assert peer.release(3) == 1


def test_closing_a_connection_releases_its_streams_under_new_generations():
    peer = Peer()
    peer.send(request(1) + headers(3) + data(3, message(b"half")[:6]))
    for side in peer.sides:
        state = side.state
        before = int(state.connections[SLOT, layout.C_GENERATION])
        assert connection.close_connection(state.connections, state.streams, state.shared, SLOT) == 2
        side.check()
        assert state.connections[SLOT, layout.C_GENERATION] == before + 1
        assert state.connections[SLOT, layout.C_STATE] == layout.CONNECTION_FREE
    assert peer.release(1) == 0


def test_frames_of_a_stream_that_is_over_are_ignored():
    peer = Peer()
    peer.send(request(1))
    peer.release(1)
    late = data(1, b"late") + frame(frames.WINDOW_UPDATE, 0, 1, struct.pack(">I", 1))
    late += frame(frames.RST_STREAM, 0, 1, struct.pack(">I", 0)) + headers(1, [(b"x", b"y")], END_HEADERS | END_STREAM)
    assert peer.send(late) == []
    assert peer.answers() == []
    assert not peer.is_closed


def test_streams_above_the_last_accepted_are_ignored():
    peer = Peer()
    for side in peer.sides:
        side.state.connections[SLOT, layout.C_LAST_ACCEPTED] = 1
    assert [event.id for event in peer.send(request(1) + request(3))] == [1]


# Sections 4.2, 5.1.1 and 6: what ends a connection


@pytest.mark.parametrize(
    ("chunk", "code"),
    [
        (frame(frames.DATA, 0, 0, b"x"), frames.PROTOCOL_ERROR),
        (frame(frames.DATA, 0, 1, b"x"), frames.PROTOCOL_ERROR),
        (frame(frames.DATA, 0, 2, b"x"), frames.PROTOCOL_ERROR),
        (headers(1) + frame(frames.DATA, PADDED, 1, b""), frames.PROTOCOL_ERROR),
        (headers(1) + frame(frames.DATA, PADDED, 1, b"\x02x"), frames.PROTOCOL_ERROR),
        (headers(0), frames.PROTOCOL_ERROR),
        (headers(2), frames.PROTOCOL_ERROR),
        (frame(frames.HEADERS, END_HEADERS | PADDED, 1, b""), frames.PROTOCOL_ERROR),
        (frame(frames.HEADERS, END_HEADERS | PADDED, 1, b"\x05abc"), frames.PROTOCOL_ERROR),
        (frame(frames.HEADERS, END_HEADERS | PRIORITY_FLAG, 1, b"\0\0\0\0"), frames.PROTOCOL_ERROR),
        (frame(frames.HEADERS, END_HEADERS, 1, b"\x80"), frames.COMPRESSION_ERROR),
        (frame(frames.HEADERS, 0, 1, b"") + frame(frames.PING, 0, 0, b"12345678"), frames.PROTOCOL_ERROR),
        (frame(frames.HEADERS, 0, 1, b"") + frame(frames.CONTINUATION, 0, 3, b""), frames.PROTOCOL_ERROR),
        (frame(frames.CONTINUATION, END_HEADERS, 1, b""), frames.PROTOCOL_ERROR),
        (frame(frames.PRIORITY, 0, 0, b"\0" * 5), frames.PROTOCOL_ERROR),
        (frame(frames.RST_STREAM, 0, 0, b"\0" * 4), frames.PROTOCOL_ERROR),
        (frame(frames.RST_STREAM, 0, 1, b"\0" * 4), frames.PROTOCOL_ERROR),
        (headers(1) + frame(frames.RST_STREAM, 0, 1, b"\0" * 3), frames.FRAME_SIZE_ERROR),
        (frame(frames.SETTINGS, 0, 1, b""), frames.PROTOCOL_ERROR),
        (frame(frames.SETTINGS, ACK, 0, b"\0" * 6), frames.FRAME_SIZE_ERROR),
        (frame(frames.SETTINGS, 0, 0, b"\0" * 5), frames.FRAME_SIZE_ERROR),
        (settings((2, 2)), frames.PROTOCOL_ERROR),
        (settings((4, 2**31)), frames.FLOW_CONTROL_ERROR),
        (settings((5, 16_383)), frames.PROTOCOL_ERROR),
        (settings((5, 2**24)), frames.PROTOCOL_ERROR),
        (frame(frames.PUSH_PROMISE, END_HEADERS, 1, b"\0\0\0\2"), frames.PROTOCOL_ERROR),
        (frame(frames.PING, 0, 0, b"1234567"), frames.FRAME_SIZE_ERROR),
        (frame(frames.PING, 0, 1, b"12345678"), frames.PROTOCOL_ERROR),
        (frame(frames.GOAWAY, 0, 0, b"1234567"), frames.FRAME_SIZE_ERROR),
        (frame(frames.GOAWAY, 0, 1, b"12345678"), frames.PROTOCOL_ERROR),
        (frame(frames.WINDOW_UPDATE, 0, 0, b"\0" * 4), frames.PROTOCOL_ERROR),
        (frame(frames.WINDOW_UPDATE, 0, 0, b"\0" * 3), frames.FRAME_SIZE_ERROR),
        (frame(frames.WINDOW_UPDATE, 0, 1, b"\0\0\0\1"), frames.PROTOCOL_ERROR),
        (frame(frames.WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff"), frames.FLOW_CONTROL_ERROR),
        (frame(frames.DATA, 0, 1, b"x" * 16_385)[:9], frames.FRAME_SIZE_ERROR),
        (frame(77, 0, 1, b"x" * 16_385)[:9], frames.FRAME_SIZE_ERROR),
        (b"\xff\xff\xff" + frame(frames.DATA, 0, 1)[3:], frames.FRAME_SIZE_ERROR),
        (b"\xff\xff\xff" + frame(frames.HEADERS, 0, 1)[3:], frames.FRAME_SIZE_ERROR),
    ],
)
def test_a_breach_ends_the_connection_with_its_code(chunk, code):
    assert closed_by(chunk) == code


def test_unknown_frames_and_unknown_settings_are_ignored():
    peer = Peer()
    assert peer.send(frame(77, 255, 1, b"extension") + settings((99, 7)) + request(1))[0].content == b"request"


def test_priority_is_checked_and_has_no_effect():
    assert Peer().send(frame(frames.PRIORITY, 0, 1, b"\0" * 5) + request(1))[0].content == b"request"
    assert reset_by(headers(1) + frame(frames.PRIORITY, 0, 1, b"\0" * 4)) == frames.FRAME_SIZE_ERROR


def test_a_ping_is_answered_and_the_answer_to_ours_is_told():
    peer = Peer()
    assert peer.send(frame(frames.PING, 0, 0, b"12345678")) == []
    assert peer.answers() == [(frames.PING, ACK, 0, b"12345678")]
    (event,) = peer.send(frame(frames.PING, ACK, 0, struct.pack(">Q", 7)))
    assert (event.kind, event.detail) == (layout.EVENT_PONG, 7)
    assert peer.answers() == []


def test_a_goaway_is_told_and_requests_go_on():
    peer = Peer()
    first, second = peer.send(frame(frames.GOAWAY, 0, 0, struct.pack(">II", 0, 2) + b"why") + request(1))
    assert (first.kind, first.detail) == (layout.EVENT_GOAWAY, 2)
    assert second.content == b"request"


# Sections 5.2 and 6.9: flow control


def test_settings_move_the_send_windows_of_open_streams():
    peer = Peer()
    peer.send(headers(1) + frame(frames.WINDOW_UPDATE, 0, 1, struct.pack(">I", 1000)) + settings((4, 10), (4, 20)))
    peer.send(headers(3))
    for side in peer.sides:
        windows = side.state.streams[list(side._chain(layout.C_BUCKETS)) + list(side._chain(layout.C_BUCKETS + 1))]
        assert windows[:, layout.S_SEND_WINDOW].tolist() == [1020, 20]
    assert peer.column(layout.C_PEER_WINDOW) == 20


def test_a_stream_window_that_overflows_resets_the_stream():
    update = frame(frames.WINDOW_UPDATE, 0, 1, b"\x7f\xff\xff\xff")
    assert reset_by(headers(1) + update) == frames.FLOW_CONTROL_ERROR
    assert reset_by(headers(1) + frame(frames.WINDOW_UPDATE, 0, 1, b"\0\0\0\0")) == frames.PROTOCOL_ERROR
    grown = headers(1) + frame(frames.WINDOW_UPDATE, 0, 1, struct.pack(">I", 2**31 - 1 - 65_535))
    assert closed_by(grown + settings((4, 65_536))) == frames.FLOW_CONTROL_ERROR


def test_windows_are_given_back_when_half_is_used():
    peer = Peer(stream_window_bytes=1000, connection_window_bytes=100_000)
    peer.send(headers(1, OTHER) + data(1, message(b"x" * 400)))
    assert peer.answers() == []
    peer.send(data(1, message(b"x" * 400)))
    assert peer.answers() == [(frames.WINDOW_UPDATE, 0, 1, struct.pack(">I", 810))]


def test_data_for_nobody_is_given_back_to_the_connection_with_its_padding():
    peer = Peer(connection_window_bytes=70_000)
    peer.send(request(1))
    peer.release(1)
    peer.send(frame(frames.DATA, PADDED, 1, b"\xff" + b"x" * 16_000) * 3)
    assert peer.answers() == [(frames.WINDOW_UPDATE, 0, 0, struct.pack(">I", 12 + 16_001 * 3))]


def test_more_data_than_a_window_allows_is_an_error():
    window = {"stream_window_bytes": 1000, "connection_window_bytes": 66_000}
    assert reset_by(headers(1) + data(1, b"x" * 1001), **window) == frames.FLOW_CONTROL_ERROR
    assert closed_by(headers(1) + data(1, b"x" * 16_000), connection_window_bytes=15_999) == frames.FLOW_CONTROL_ERROR


def test_a_blocked_writer_is_woken_by_each_kind_of_window():
    peer = Peer()
    update = struct.pack(">I", 5000)
    assert peer.send(headers(1) + frame(frames.WINDOW_UPDATE, 0, 1, update)) == []
    for side in peer.sides:
        side.state.connections[SLOT, layout.C_BLOCKED] = 1
    chunk = (
        frame(frames.WINDOW_UPDATE, 0, 1, update) + frame(frames.WINDOW_UPDATE, 0, 0, update) + settings((4, 90_000))
    )
    assert [(event.kind, event.id) for event in peer.send(chunk)] == [
        (layout.EVENT_WRITABLE, 1),
        (layout.EVENT_WRITABLE, 0),
        (layout.EVENT_WRITABLE, 0),
    ]


def test_the_window_of_a_paused_stream_is_not_given_back_and_the_connection_is_not_disturbed():
    peer = Peer(stream_window_bytes=1000, connection_window_bytes=66_000)
    peer.send(headers(1, OTHER) + headers(3, OTHER))
    for side in peer.sides:
        side.state.streams[side.rows[1][0], layout.S_STATE] |= layout.STREAM_PAUSED
    peer.send(data(1, message(b"x" * 900)) + data(3, message(b"x" * 900)))
    assert peer.answers() == [(frames.WINDOW_UPDATE, 0, 3, struct.pack(">I", 905))]
    for side in peer.sides:
        side.state.connections[SLOT, layout.C_RECEIVE_WINDOW] -= 32_000
    peer.send(data(1, message(b"x" * 80)))
    assert [(stream_id, kind) for kind, _, stream_id, _ in peer.answers()] == [(0, frames.WINDOW_UPDATE)]
    assert reset_by_second(peer) == frames.FLOW_CONTROL_ERROR


def reset_by_second(peer: Peer) -> int:
    peer.send(data(1, b"x" * 20))
    ((_, code),) = resets_of(peer)
    return code


# When a request or a message began


def since(peer: Peer, stream_id: int) -> int:
    rows = [side.state.streams[list(side._chain(layout.C_BUCKETS + (stream_id >> 1)))] for side in peer.sides]
    (when,) = {int(row[layout.S_SINCE_NS]) for held in rows for row in held}
    return when


def test_a_request_is_owed_since_its_stream_was_opened():
    peer = Peer()
    peer.send(headers(1) + data(1, message(b"mm")[:6]), now_ns=70)
    peer.send(data(1, message(b"mm")[6:], END_STREAM), now_ns=90)
    assert since(peer, 1) == 70
    assert [side.state.shared[layout.H_NOW_NS] for side in peer.sides] == [90, 90]


def test_a_message_of_another_call_is_owed_since_its_prefix_began():
    peer = Peer()
    peer.send(headers(1, OTHER), now_ns=70)
    assert since(peer, 1) == 0
    for at, now_ns in ((0, 80), (1, 90), (5, 100)):
        peer.send(data(1, message(b"mm")[at : at + 1]), now_ns=now_ns)
    assert since(peer, 1) == 80
    peer.send(data(1, message(b"mm")[2:4]), now_ns=110)
    assert since(peer, 1) == 80


def test_no_message_is_owed_between_two_and_each_counts_anew():
    peer = Peer()
    peer.send(headers(1, OTHER) + data(1, message(b"one") + message(b"")), now_ns=70)
    assert since(peer, 1) == 0
    peer.send(data(1, message(b"two") + message(b"three")[:2]), now_ns=80)
    assert since(peer, 1) == 80
    peer.send(data(1, message(b"three")[2:]), now_ns=90)
    assert since(peer, 1) == 0


def test_output_that_is_full_is_emptied_and_decoding_goes_on():
    peer = Peer(events=3300, control_bytes=300)
    chunk = frame(frames.PING, 0, 0, b"12345678") * 50 + headers(1, OTHER) + data(1, message(b"") * 3200) * 2
    events = peer.send(chunk)
    assert [event.kind for event in events] == [layout.EVENT_OPENED] + [layout.EVENT_MESSAGE] * 6400
    assert len(peer.answers()) == 50
