"""What a server may say to a client, and what it may not: each breach is named, and nothing else ends a connection."""

import struct
import subprocess
import sys

import pytest

from serving.wire import frames
from serving.wire.client import layout
from serving.wire.layout import C_RECEIVE_WINDOW
from tests.support.client_sessions import HEAD, HTTP, RESETS
from tests.support.client_side import ClientSide
from tests.support.peers import data, frame, headers, message, settings, split_frames

END = frames.END_HEADERS | frames.END_STREAM
OK = [(b"grpc-status", b"0")]


def with_call(*, now_ns: int = 0, **options) -> ClientSide:
    """A client with stream 1 open, intended and sent at `now_ns`."""
    side = ClientSide([now_ns], **options)
    side.send(now_ns)
    return side


def answer(body: bytes = message(b"answer"), trailers=OK) -> bytes:
    return headers(1, HEAD) + data(1, body) + headers(1, trailers, END)


def test_an_answer_ends_its_call_and_counts_from_the_intended_moment():
    side = with_call(now_ns=10)
    side.receive(answer(), 510)
    assert side.codes() == {"OK": 1}
    assert (side.shared(layout.X_LIVE), side.shared(layout.X_LIVE_COUNTED)) == (0, 0)
    assert side.shared(layout.X_LATENCY_TOTAL_NS) == side.shared(layout.X_LATENCY_MAX_NS) == 500
    assert side.shared(layout.X_IN_SLO) == 1
    assert side.sides[0].state.counts[layout.LATENCIES, 500] == 1


def test_an_answer_after_the_objective_is_not_in_time():
    side = with_call()
    side.receive(answer(), 1001)
    assert (side.codes(), side.shared(layout.X_IN_SLO)) == ({"OK": 1}, 0)


def test_what_was_intended_before_counting_begins_is_not_counted():
    side = ClientSide([0])
    side.set(count_from_ns=1)
    side.send(5)
    side.receive(answer(), 9)
    assert (side.codes(), side.shared(layout.X_SENT), side.shared(layout.X_LIVE)) == ({}, 0, 0)


@pytest.mark.parametrize(
    ("trailers", "code"),
    [([(b"grpc-status", b"%d" % number)], name) for number, name in ((1, "CANCELLED"), (16, "UNAUTHENTICATED"))]
    + [([(b"grpc-status", text)], "UNKNOWN") for text in (b"17", b"-1", b"", b"x", b"9" * 30)]
    + [([(b"x", b"y")], "UNKNOWN")],
)
def test_a_call_counts_as_its_trailers_say(trailers, code):
    side = with_call()
    side.receive(answer(trailers=trailers))
    assert side.codes() == {code: 1}


@pytest.mark.parametrize(
    "body",
    [b"", b"\0\0", message(b"long")[:-1], message(b"x") + b"y", b"\2" + message(b"x")[1:]],
    ids=["no message", "a cut prefix", "a cut message", "bytes after it", "an unknown flag"],
)
def test_a_success_without_one_whole_message_is_an_internal_error(body):
    side = with_call()
    side.receive(answer(body))
    assert side.codes() == {"INTERNAL": 1}


@pytest.mark.parametrize(("status", "code"), HTTP.items())
def test_an_answer_of_a_proxy_counts_as_grpc_says(status, code):
    side = with_call()
    side.receive(headers(1, [(b":status", b"%d" % status)], END))
    assert side.codes() == {code: 1}


@pytest.mark.parametrize(("number", "code"), RESETS.items())
def test_a_reset_counts_as_grpc_says(number, code):
    side = with_call()
    side.receive(frame(frames.RST_STREAM, 0, 1, struct.pack(">I", number)))
    assert side.codes() == {code: 1}


def test_data_that_ends_a_stream_without_trailers_is_no_success():
    side = with_call()
    side.receive(headers(1, HEAD) + data(1, message(b"answer"), frames.END_STREAM))
    assert side.codes() == {"UNKNOWN": 1}


def test_a_list_of_fields_beyond_our_setting_exhausts_what_a_call_may_take():
    side = with_call()
    fields = [*HEAD, *[(b"x" * 100, b"y" * 200)] * 200]
    block = headers(1, fields)[9:]
    pieces = [block[at : at + 16_384] for at in range(0, len(block), 16_384)]
    said = frame(frames.HEADERS, 0, 1, pieces[0])
    for number, piece in enumerate(pieces[1:], 2):
        said += frame(frames.CONTINUATION, frames.END_HEADERS if number == len(pieces) else 0, 1, piece)
    side.receive(said)
    assert (side.breach, side.codes()) == (None, {"RESOURCE_EXHAUSTED": 1})
    side.receive(answer())  # what still comes of it is read and forgotten
    assert side.breach is None


def test_settings_and_pings_are_acknowledged():
    side = ClientSide()
    out = side.receive(settings() + frame(frames.PING, 0, 0, b"12345678") + frame(frames.PING, frames.ACK, 0, bytes(8)))
    assert split_frames(out) == [
        (frames.SETTINGS, frames.ACK, 0, b""),
        (frames.PING, frames.ACK, 0, b"12345678"),
    ]


def test_more_pings_than_the_output_holds_are_answered_in_portions():
    side = ClientSide()
    out = side.receive(frame(frames.PING, 0, 0, bytes(8)) * 5000)
    assert out == frame(frames.PING, frames.ACK, 0, bytes(8)) * 5000


def test_the_window_of_the_connection_is_given_back_in_batches():
    side = with_call()
    side.receive(headers(1, HEAD))
    whole, piece = layout.RECEIVED_BYTES_BATCH, bytes(16_384)
    out = b"".join(side.receive(data(1, piece) * 16) for _ in range(2 * whole // (16 * len(piece))))
    assert split_frames(out) == [(frames.WINDOW_UPDATE, 0, 0, struct.pack(">I", whole))] * 2
    assert side.connection(C_RECEIVE_WINDOW) == layout.RECEIVE_WINDOW_BYTES


def test_a_goaway_hands_out_its_code_and_the_beginning_of_its_text():
    side = with_call()
    side.receive(frame(frames.GOAWAY, 0, 0, struct.pack(">II", 1, 11) + b"too many" + b"!" * 1000))
    assert side.status == layout.STATUS_GOAWAY
    assert (side.goaway_code, side.text) == (11, b"too many" + b"!" * 192)


PING = frame(frames.PING, 0, 0, bytes(8))
BREACHES = {
    "no HTTP/2": (b"HTTP/1.1 400 Bad Request\r\n\r\n", "does not answer in HTTP/2"),
    "a frame before the settings": (PING, "does not answer in HTTP/2"),
    "an acknowledgement before them": (frame(frames.SETTINGS, 1, 0), "does not answer in HTTP/2"),
}


@pytest.mark.parametrize(("said", "breach"), BREACHES.values(), ids=BREACHES)
def test_a_server_begins_with_its_settings(said, breach):
    side = ClientSide(greet=False)
    side.receive(said)
    assert side.breach == breach


ORDER = "broke the order or the form of HTTP/2 frames"
LENGTH = "sent a frame of a wrong length"
SETTING = "sent a setting with a forbidden value"
WINDOW = "gave a window beyond 2^31 - 1 bytes, or one of nothing"
FIELDS = "sent header fields that cannot be decoded"
BLOCK = "sent a header block beyond all bounds"
REFUSED = {
    "a long frame": (b"\x00\x40\x01\x00\x00\x00\x00\x00\x01", "sent a frame longer than was allowed"),
    "a push": (frame(frames.PUSH_PROMISE, 4, 1, bytes(9)), ORDER),
    "a lone continuation": (frame(frames.CONTINUATION, 4, 1), ORDER),
    "headers of an idle stream": (headers(3, HEAD), ORDER),
    "headers of stream 0": (headers(0, HEAD), ORDER),
    "headers of a server's stream": (headers(2, HEAD), ORDER),
    "data before headers": (data(1, b"x"), ORDER),
    "data of an idle stream": (data(3, b"x"), ORDER),
    "a reset of an idle stream": (frame(frames.RST_STREAM, 0, 3, bytes(4)), ORDER),
    "a window of an idle stream": (frame(frames.WINDOW_UPDATE, 0, 3, b"\0\0\0\1"), ORDER),
    "padding beyond the frame": (frame(frames.DATA, frames.PADDED, 1, b"\5xx"), ORDER),
    "padding without a length": (frame(frames.DATA, frames.PADDED, 1), ORDER),
    "headers shorter than their padding": (frame(frames.HEADERS, 4 | frames.PADDED, 1, b"\5xx"), ORDER),
    "headers shorter than a priority": (frame(frames.HEADERS, 4 | frames.PRIORITY_FLAG, 1, b"xx"), ORDER),
    "no status": (headers(1, [(b"x", b"y")]), ORDER),
    "a status that is no number": (headers(1, [(b":status", b"2x0")]), ORDER),
    "an interim answer that ends": (headers(1, [(b":status", b"100")], END), ORDER),
    "trailers that do not end": (headers(1, HEAD) + headers(1, OK), ORDER),
    "another frame amid a block": (frame(frames.HEADERS, 0, 1) + PING, ORDER),
    "settings of a stream": (frame(frames.SETTINGS, 0, 1), ORDER),
    "a ping of a stream": (frame(frames.PING, 0, 1, bytes(8)), ORDER),
    "a goaway of a stream": (frame(frames.GOAWAY, 0, 1, bytes(8)), ORDER),
    "a ping of 7 bytes": (frame(frames.PING, 0, 0, bytes(7)), LENGTH),
    "a reset of 3 bytes": (frame(frames.RST_STREAM, 0, 1, bytes(3)), LENGTH),
    "a window of 5 bytes": (frame(frames.WINDOW_UPDATE, 0, 0, bytes(5)), LENGTH),
    "a goaway of 7 bytes": (frame(frames.GOAWAY, 0, 0, bytes(7)), LENGTH),
    "settings of 5 bytes": (frame(frames.SETTINGS, 0, 0, bytes(5)), LENGTH),
    "an acknowledgement with settings": (frame(frames.SETTINGS, 1, 0, bytes(6)), LENGTH),
    "a push setting": (settings((frames.SETTINGS_ENABLE_PUSH, 1)), SETTING),
    "a small frame size": (settings((frames.SETTINGS_MAX_FRAME_SIZE, 16_383)), SETTING),
    "a large frame size": (settings((frames.SETTINGS_MAX_FRAME_SIZE, 1 << 24)), SETTING),
    "a large initial window": (settings((frames.SETTINGS_INITIAL_WINDOW_SIZE, 1 << 31)), SETTING),
    "a window of nothing": (frame(frames.WINDOW_UPDATE, 0, 0, bytes(4)), WINDOW),
    "a window too far": (frame(frames.WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff"), WINDOW),
    "an index of nothing": (frame(frames.HEADERS, 4, 1, b"\xff\x30"), FIELDS),
    "too many continuations": (frame(frames.HEADERS, 0, 1) + frame(frames.CONTINUATION, 0, 1) * 17, BLOCK),
    "a block too long": (
        frame(frames.HEADERS, 0, 1, bytes(16_384)) + frame(frames.CONTINUATION, 0, 1, bytes(16_384)) * 4,
        BLOCK,
    ),
}


@pytest.mark.parametrize(("said", "breach"), REFUSED.values(), ids=REFUSED)
def test_what_breaks_the_protocol_is_named(said, breach):
    side = with_call()
    side.receive(said)
    assert side.breach == breach


def test_data_beyond_the_connections_window_is_a_breach():
    side = with_call()
    for state in (side.sides[0].state, side.sides[1].state):
        state.connections[1, C_RECEIVE_WINDOW] = 10
    side.receive(headers(1, HEAD) + data(1, bytes(11)))
    assert side.breach == "sent more than the windows allow"


def test_frames_of_a_stream_that_has_ended_are_read_and_forgotten():
    side = with_call()
    side.receive(answer() * 2 + frame(frames.RST_STREAM, 0, 1, bytes(4)) + frame(frames.PRIORITY, 0, 1, bytes(5)))
    assert (side.breach, side.codes()) == (None, {"OK": 1})


def test_a_server_does_not_load_what_only_a_client_needs():
    program = "import sys; from serving.wire import kernels; kernels.load(); print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = result.stdout.split()
    assert "serving.wire.http2" in loaded
    assert not [name for name in loaded if name.startswith("serving.wire.client.")]
