"""Header blocks that grow, split, lie or never end: they cost the offender its call or its connection."""

import hpack
import pytest

from serving.wire import frames
from serving.wire.frames import END_HEADERS, END_STREAM
from serving.wire.layout import Limits
from tests.support.peers import INFER, data, frame, headers, message
from tests.support.raw_client import infer
from tests.support.siege import besieged

LIST_BYTES_MAX = 16_384


@pytest.fixture
def siege(repository):
    with besieged(repository) as siege:
        yield siege


@pytest.fixture
def offender(siege):
    with siege.connect() as offender:
        yield offender


def is_served(siege, peer, stream_id):
    """Say whether a good request on the same connection gets its own answer."""
    peer.send(infer(stream_id, siege.request("affine", value=stream_id)))
    return peer.answer(stream_id).status == 0


def literal(name, value):
    """A field that goes into the header table."""
    text = hpack.hpack.encode_integer(len(name), 7) + name
    return b"\x40" + text + hpack.hpack.encode_integer(len(value), 7) + value


@pytest.mark.parametrize("count", [2, 40, 400])
def test_a_header_list_above_the_bound_fails_its_own_call(siege, offender, count):
    fields = [*INFER, *((b"x-%d" % k, b"v" * (2 * LIST_BYTES_MAX // count)) for k in range(count))]
    block = hpack.Encoder().encode(fields)
    cuts = [block[at : at + LIST_BYTES_MAX] for at in range(0, len(block), LIST_BYTES_MAX)]
    offender.send(frame(frames.HEADERS, 0, 1, cuts[0]))
    for cut in cuts[1:]:
        offender.send(frame(frames.CONTINUATION, 0, 1, cut))
    offender.send(frame(frames.CONTINUATION, END_HEADERS, 1) + data(1, message(b""), END_STREAM))
    assert offender.answer(1).status == 8
    assert is_served(siege, offender, 3)
    assert siege.refused() == {"header_list_too_long": 1}


def test_the_header_table_is_in_step_after_a_list_that_was_too_long(siege, offender):
    encoder = hpack.Encoder()
    offender.send(frame(frames.HEADERS, END_HEADERS, 1, encoder.encode([*INFER, *[(b"x-long", b"v" * 4000)] * 9])))
    assert offender.answer(1).status == 8
    again = frame(frames.HEADERS, END_HEADERS, 3, encoder.encode([*INFER, (b"x-tag", b"1")]))
    offender.send(again + data(3, message(siege.request("affine")), END_STREAM))
    assert offender.answer(3).status == 0


def test_an_expansion_bomb_ends_its_connection(siege, offender):
    offender.send(frame(frames.HEADERS, END_HEADERS, 1, literal(b"a", b"v" * 4000)))
    offender.send(frame(frames.HEADERS, END_HEADERS, 3, b"\xbe" * 16_000))  # 64 MB when it is expanded
    assert offender.goaway()[0] == frames.ENHANCE_YOUR_CALM
    assert siege.refused()["header_list_beyond_bounds"] == 1
    assert siege.exported("header_list_beyond_bounds") == 1


@pytest.mark.parametrize("length", [0, 1, 100])
def test_a_flood_of_continuations_ends_its_connection(siege, offender, length):
    continuation = frame(frames.CONTINUATION, 0, 1, b"x" * length)
    offender.send(frame(frames.HEADERS, 0, 1) + continuation * (Limits().continuations - 1))
    offender.send(continuation)
    assert offender.goaway()[0] == frames.ENHANCE_YOUR_CALM
    assert siege.refused() == {"continuation_flood": 1}


def test_a_header_block_that_only_grows_ends_its_connection_before_it_is_held(siege, offender):
    offender.send(frame(frames.HEADERS, 0, 1, b"x" * 16_000))
    for _ in range(Limits().header_block_bytes // 16_000):
        offender.send(frame(frames.CONTINUATION, 0, 1, b"x" * 16_000))
    assert offender.goaway()[0] == frames.ENHANCE_YOUR_CALM
    assert siege.refused() == {"header_block_too_long": 1}


BROKEN_BLOCKS = {
    "an index of nothing": b"\xff\x80\x01",
    "index 0": b"\x80",
    "a string beyond the block": b"\x00\x7f\xff\xff\xff\x7f",
    "an integer without end": b"\x00\x7f" + b"\xff" * 30,
    "a table larger than allowed": b"\x3f\xe1\x7f",
    "Huffman padding that is no padding": b"\x00\x81\x00\x00",
}


@pytest.mark.parametrize("block", BROKEN_BLOCKS.values(), ids=BROKEN_BLOCKS)
def test_a_block_that_cannot_be_decoded_ends_its_connection(siege, offender, block):
    offender.send(frame(frames.HEADERS, END_HEADERS, 1, block))
    assert offender.goaway()[0] == frames.COMPRESSION_ERROR
    assert siege.refused() == {"compression_error": 1}


MALFORMED = {
    "no method": INFER[1:],
    "no path": [field for field in INFER if field[0] != b":path"],
    "two paths": [*INFER[:3], *INFER[2:]],
    "a capital letter": [*INFER, (b"X-Tag", b"1")],
    "a pseudo-header after others": [*INFER, (b":status", b"200")],
    "connection": [*INFER, (b"connection", b"close")],
    "transfer-encoding": [*INFER, (b"transfer-encoding", b"chunked")],
    "te": [*(field for field in INFER if field[0] != b"te"), (b"te", b"gzip")],
    "a line break in a value": [*INFER, (b"x", b"a\r\nb")],
    "a name without a letter": [*INFER, (b"", b"a")],
}


@pytest.mark.parametrize("fields", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_request_costs_its_own_stream(siege, offender, fields):
    offender.send(headers(1, fields) + data(1, message(b""), END_STREAM))
    assert offender.answer(1).reset == frames.PROTOCOL_ERROR
    assert is_served(siege, offender, 3)
    assert siege.refused() == {"malformed_request": 1}


def with_field(name, value):
    return [*(field for field in INFER if field[0] != name), (name, value)]


NO_CALLS = {
    "another method": ([(b":method", b"GET"), *INFER[1:]], {b":status": b"405"}, "method"),
    "another content type": (with_field(b"content-type", b"text/html"), {b":status": b"415"}, "content_type"),
    "no content type": (INFER[:-1], {b":status": b"415"}, "content_type"),
    "a timeout in no unit": (with_field(b"grpc-timeout", b"10"), {b"grpc-status": b"13"}, "timeout"),
    "a timeout of nine digits": (with_field(b"grpc-timeout", b"123456789S"), {b"grpc-status": b"13"}, "timeout"),
    "a timeout below zero": (with_field(b"grpc-timeout", b"-1S"), {b"grpc-status": b"13"}, "timeout"),
    "an unknown encoding": (with_field(b"grpc-encoding", b"br"), {b"grpc-status": b"12"}, "encoding"),
}


@pytest.mark.parametrize(("fields", "answer", "reason"), NO_CALLS.values(), ids=NO_CALLS)
def test_a_request_that_is_no_call_we_serve_is_told_so(siege, offender, fields, answer, reason):
    offender.send(headers(1, fields) + data(1, message(siege.request("affine")), END_STREAM))
    end = offender.answer(1)
    assert answer.items() <= end.fields.items()
    assert end.reset is None
    assert is_served(siege, offender, 3)
    assert siege.refused() == {reason: 1}


def test_an_enormous_timeout_is_no_timeout(siege, offender):
    for k, unit in enumerate([b"H", b"M", b"S", b"m", b"u", b"n"]):
        chunk = infer(2 * k + 1, siege.request("affine"), [*INFER, (b"grpc-timeout", b"99999999" + unit)])
        offender.send(chunk)
        assert offender.answer(2 * k + 1).status == 0


@pytest.mark.parametrize("late", [data(1, b"x"), headers(1, [(b"x", b"y")], END_HEADERS | END_STREAM)])
def test_what_comes_after_the_end_of_a_stream_costs_the_stream(siege, offender, late):
    offender.send(infer(1, siege.request("waits")) + late)
    assert offender.answer(1).reset == frames.STREAM_CLOSED
    assert is_served(siege, offender, 3)
    assert siege.refused() == {"closed_stream": 1}


@pytest.mark.parametrize("difference", [-1, 1])
def test_a_body_of_another_length_than_announced_costs_its_own_stream(siege, offender, difference):
    body = message(siege.request("affine"))
    fields = [*INFER, (b"content-length", b"%d" % (len(body) + difference))]
    offender.send(headers(1, fields) + data(1, body, END_STREAM))
    assert offender.answer(1).reset == frames.PROTOCOL_ERROR
    assert is_served(siege, offender, 3)
    assert siege.refused() == {"content_length": 1}


BROKEN_FRAMES = {
    "data on no stream": (data(0, b"x"), frames.PROTOCOL_ERROR),
    "data on a stream that was never opened": (data(9, b"x"), frames.PROTOCOL_ERROR),
    "headers on a server's stream": (headers(2), frames.PROTOCOL_ERROR),
    "a frame that is too long": (b"\x00\x40\x01" + bytes(6), frames.FRAME_SIZE_ERROR),
    "a frame of all bits": (b"\xff" * 9, frames.FRAME_SIZE_ERROR),
    "settings of half an entry": (frame(frames.SETTINGS, 0, 0, bytes(5)), frames.FRAME_SIZE_ERROR),
    "an empty window update": (frame(frames.WINDOW_UPDATE, 0, 0, bytes(4)), frames.PROTOCOL_ERROR),
    "a push": (frame(frames.PUSH_PROMISE, END_HEADERS, 1, bytes(9)), frames.PROTOCOL_ERROR),
    "a continuation of nothing": (frame(frames.CONTINUATION, 0, 1), frames.PROTOCOL_ERROR),
    "padding longer than the frame": (headers(1) + data(1, b"\x09abc", frames.PADDED), frames.PROTOCOL_ERROR),
    "a ping of seven bytes": (frame(frames.PING, 0, 0, bytes(7)), frames.FRAME_SIZE_ERROR),
}


@pytest.mark.parametrize(("chunk", "code"), BROKEN_FRAMES.values(), ids=BROKEN_FRAMES)
def test_a_frame_that_breaks_the_protocol_ends_its_connection(siege, offender, chunk, code):
    offender.send(chunk)
    assert offender.goaway()[0] == code
    name = {frames.PROTOCOL_ERROR: "protocol_error", frames.FRAME_SIZE_ERROR: "frame_size_error"}[code]
    assert siege.refused() == {name: 1}
