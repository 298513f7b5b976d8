"""Laws of header decoding, against the hpack package as the slow twin."""

import random

import hpack
from hpack.exceptions import HPACKError
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.wire import HeaderDecoder

SETTINGS = settings(max_examples=150, deadline=None, derandomize=True)
NAMES = st.one_of(
    st.sampled_from([b":method", b":path", b"grpc-timeout", b"te", b"content-type", b"x", b"user-agent", b"cookie"]),
    st.binary(min_size=0, max_size=40),
)
VALUES = st.one_of(
    st.sampled_from([b"", b"POST", b"trailers", b"gzip", b"/inference.GRPCInferenceService/ModelInfer", b"50m"]),
    st.binary(max_size=60),
    st.binary(min_size=900, max_size=1500),
)
LISTS = st.lists(st.tuples(NAMES, VALUES), max_size=12)


def twin_table(decoder: hpack.Decoder) -> list[tuple[bytes, bytes]]:
    return [(bytes(name), bytes(value)) for name, value in decoder.header_table.dynamic_entries]


def twin_decode(decoder: hpack.Decoder, block: bytes):
    try:
        return [(bytes(name), bytes(value)) for name, value in decoder.decode(block, raw=True)]
    except HPACKError:
        return None


def encode_freely(encoder: hpack.Encoder, fields, choice: random.Random) -> bytes:
    """Encode as an unusual client would: table sizes, Huffman and sensitive fields by chance."""
    block = b""
    if choice.random() < 0.2:
        encoder.header_table_size = choice.choice([0, 100, 1000, 4096])
    tuples = [hpack.NeverIndexedHeaderTuple(*f) if choice.random() < 0.2 else hpack.HeaderTuple(*f) for f in fields]
    return block + encoder.encode(tuples, huffman=choice.random() < 0.6)


@SETTINGS
@given(st.lists(LISTS, min_size=1, max_size=8), st.integers(0, 2**32))
def test_blocks_of_a_connection_decode_as_the_twin_decodes_them(lists, seed):
    choice = random.Random(seed)
    encoder, decoder, twin = hpack.Encoder(), HeaderDecoder(), hpack.Decoder()
    for fields in lists:
        block = encode_freely(encoder, fields, choice)
        decoded, _, table = decoder.decode(block)
        assert decoded == fields == twin_decode(twin, block)
        assert table == twin_table(twin)


@SETTINGS
@given(LISTS, st.data())
def test_a_mutated_block_is_accepted_exactly_when_the_twin_accepts_it(fields, data):
    block = bytearray(hpack.Encoder().encode(fields, huffman=data.draw(st.booleans())) or b"\x82")
    for _ in range(data.draw(st.integers(1, 3))):
        block[data.draw(st.integers(0, len(block) - 1))] = data.draw(st.integers(0, 255))
    check_like_the_twin(bytes(block[: data.draw(st.integers(0, len(block)))]))


@SETTINGS
@given(st.binary(max_size=200))
def test_any_bytes_are_accepted_exactly_when_the_twin_accepts_them(block):
    check_like_the_twin(block)


def check_like_the_twin(block: bytes) -> None:
    twin = hpack.Decoder()
    expected = twin_decode(twin, block)
    decoded, _, table = HeaderDecoder().decode(block)
    if expected is None:
        assert isinstance(decoded, int)
    else:
        assert decoded == expected
        assert table == twin_table(twin)


def test_every_symbol_and_every_pair_of_symbols_survives_huffman():
    encoder = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH)
    for first in range(256):
        text = bytes(byte for second in range(0, 256, 3) for byte in (first, second))
        packed = encoder.encode(text)
        size = len(packed) - 127
        block = b"\x00\x01x\xff" + bytes([size & 127 | 128, size >> 7]) + packed
        assert HeaderDecoder().decode(block)[0] == [(b"x", text)]
