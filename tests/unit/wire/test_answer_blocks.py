"""Header blocks of answers: what a decoder that nobody here wrote reads in them."""

from urllib.parse import unquote

import hpack
import pytest

from serving.wire import answer_blocks, layout

START = [(b":status", b"200"), (b"content-type", b"application/grpc")]


def fields(block: bytes) -> list[tuple[bytes, bytes]]:
    return [(bytes(name), bytes(value)) for name, value in hpack.Decoder().decode(block, raw=True)]


def test_the_first_block_of_a_connection_is_as_long_as_all_others_and_leaves_the_table_empty():
    decoder = hpack.Decoder()
    assert len(answer_blocks.FIRST_START) == len(answer_blocks.START)
    assert decoder.decode(answer_blocks.FIRST_START, raw=True) == START
    assert decoder.header_table.maxsize == 0
    assert not decoder.header_table.dynamic_entries
    assert decoder.decode(answer_blocks.START, raw=True) == START


def test_an_error_is_one_block_with_its_metadata():
    block = answer_blocks.error(5, "no such model", [(b"retry", b"7"), (b"why-bin", b"\0\xff")])
    expected = [(b"grpc-status", b"5"), (b"grpc-message", b"no such model"), (b"retry", b"7"), (b"why-bin", b"AP8")]
    assert fields(block) == START + expected
    assert fields(answer_blocks.trailers(0)) == [(b"grpc-status", b"0")]


@pytest.mark.parametrize(
    ("message", "encoded"),
    [
        ("plain ~ text", b"plain ~ text"),
        ("x" * 2048, b"x" * 2048),
        ("", b""),
        ("100% naïve\n", b"100%25 na%C3%AFve%0A"),
        (" spaces at both ends  ", b"%20spaces at both ends%20%20"),
        ("   ", b"%20%20%20"),
        ("\x7f\0", b"%7F%00"),
        ("модель", b"%D0%BC%D0%BE%D0%B4%D0%B5%D0%BB%D1%8C"),
    ],
)
def test_a_message_is_percent_encoded(message, encoded):
    assert answer_blocks.percent_encoded(message) == encoded
    assert unquote(encoded.decode()) == message


def test_a_message_that_is_no_unicode_is_still_sent():
    assert answer_blocks.percent_encoded("a\ud800b") == b"a?b".replace(b"?", b"%3F")


@pytest.mark.parametrize("message", ["x" * 9000, "ж" * 9000, "x ж" * 3000, "x" + "€" * 9000, " " * 9000])
def test_a_long_message_loses_whole_characters_from_its_end(message):
    encoded = answer_blocks.percent_encoded(message)
    assert answer_blocks.MESSAGE_BYTES_MAX - 12 < len(encoded) <= answer_blocks.MESSAGE_BYTES_MAX
    assert message.startswith(unquote(encoded.decode(), errors="strict"))
    assert encoded == encoded.strip()


def test_every_failure_has_its_answer():
    reasons = {value for name, value in vars(layout).items() if name.startswith("FAIL_")}
    assert set(answer_blocks.FAILURES) == reasons
    said = {reason: dict(fields(block)) for reason, block in answer_blocks.FAILURES.items()}
    assert said[layout.FAIL_METHOD] == {b":status": b"405", b"allow": b"POST"}
    assert said[layout.FAIL_CONTENT_TYPE][b":status"] == b"415"
    assert said[layout.FAIL_ENCODING][b"grpc-accept-encoding"] == b"identity, deflate, gzip"
    codes = {reason: int(answer[b"grpc-status"]) for reason, answer in said.items() if b"grpc-status" in answer}
    assert codes.pop(layout.FAIL_ENCODING) == answer_blocks.UNIMPLEMENTED
    too_long = {codes.pop(layout.FAIL_HEADER_LIST), codes.pop(layout.FAIL_MESSAGE_LENGTH)}
    assert too_long == {answer_blocks.RESOURCE_EXHAUSTED}
    assert set(codes.values()) == {answer_blocks.INTERNAL}


def test_http1_is_answered_in_plain_text_and_noise_by_nothing():
    head, _, body = answer_blocks.not_http2(b"G").partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 505 ")
    assert b"content-length: %d\r\n" % len(body) in head
    assert b"connection: close" in head
    for begun in (b"", b"\x16\x03\x01", b"get", b"\0"):
        assert answer_blocks.not_http2(begun) == b""
