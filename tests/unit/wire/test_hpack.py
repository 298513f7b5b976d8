"""Header blocks by example: the limits, what is malformed, and what a request's headers mean."""

import hpack
import pytest
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.wire_decode import GRPCIO, H2LOAD
from serving.wire import layout
from serving.wire.hpack import COMPRESSION_BROKEN, LIST_BEYOND_BOUNDS, TABLE_SIZE_ZERO, encode_field
from serving.wire.hpack_table import STATIC_FIELDS
from serving.wire.huffman import huffman_encode
from tests.support.wire import HeaderDecoder

REQUEST = [
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", b"/inference.GRPCInferenceService/ModelInfer"),
    (b":authority", b"localhost:8001"),
    (b"te", b"trailers"),
    (b"content-type", b"application/grpc"),
]
WELL_FORMED = layout.FLAG_METHOD | layout.FLAG_PATH | layout.FLAG_SCHEME | layout.FLAG_AUTHORITY
WELL_FORMED |= layout.FLAG_PSEUDO | layout.FLAG_REGULAR
FLAGS, METHOD, PATH, CONTENT_TYPE, ENCODING, TIMEOUT, LENGTH, LIST_BYTES = range(8)


def literal(name: bytes, value: bytes) -> bytes:
    return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value


def plain(*fields: tuple[bytes, bytes]) -> bytes:
    return b"".join(literal(name, value) for name, value in fields)


def head(*fields):
    decoded, facts, _ = HeaderDecoder().decode(plain(*fields))
    assert decoded == list(fields)
    return facts


def is_malformed(*fields) -> bool:
    return bool(head(*fields)[FLAGS] & layout.FLAG_MALFORMED)


def with_value(name: bytes, value: bytes):
    return [*(field for field in REQUEST if field[0] != name), (name, value)]


def test_a_model_infer_request_is_recognised():
    facts = head(*REQUEST)
    assert not facts[FLAGS] & layout.FLAG_MALFORMED
    assert facts[METHOD] == layout.METHOD_POST
    assert facts[PATH] == layout.PATH_MODEL_INFER
    assert facts[CONTENT_TYPE] == layout.CONTENT_TYPE_GRPC
    assert facts[ENCODING] == layout.ENCODING_IDENTITY
    assert facts[TIMEOUT] == layout.TIMEOUT_NONE
    assert facts[LENGTH] == -1


def test_the_meaning_survives_the_dynamic_table():
    encoder, decoder = hpack.Encoder(), HeaderDecoder()
    fields = [*REQUEST, (b"grpc-timeout", b"50m"), (b"grpc-encoding", b"gzip")]
    first = decoder.decode(encoder.encode(fields))
    block = encoder.encode(fields)
    again = decoder.decode(block)
    assert len(block) == len(fields)
    assert again == first
    assert again[1][TIMEOUT] == 50_000_000
    assert again[1][ENCODING] == layout.ENCODING_GZIP


@pytest.mark.parametrize("blocks", [H2LOAD, GRPCIO], ids=["h2load", "grpcio"])
def test_what_real_clients_send_is_a_model_infer_from_the_first_request_on(blocks):
    decoder, twin = HeaderDecoder(), hpack.Decoder()
    for block in [*blocks, blocks[1]]:
        fields, facts, _ = decoder.decode(block)
        assert fields == twin.decode(block, raw=True)
        assert facts[FLAGS] == WELL_FORMED
        assert facts[METHOD] == layout.METHOD_POST
        assert facts[PATH] == layout.PATH_MODEL_INFER
        assert facts[CONTENT_TYPE] == layout.CONTENT_TYPE_GRPC
        assert facts[LIST_BYTES] == sum(len(name) + len(value) + 32 for name, value in fields)
    assert (facts[TIMEOUT], facts[LENGTH]) in {(layout.TIMEOUT_NONE, 157), (5_010_000_000, -1)}


def test_a_coded_path_that_differs_in_one_bit_is_another_one():
    block = H2LOAD[0][3:36]
    assert HeaderDecoder().decode(block)[1][PATH] == layout.PATH_MODEL_INFER
    for bit in range(8 * len(block)):
        other = bytearray(block)
        other[bit // 8] ^= 1 << bit % 8
        fields, facts, _ = HeaderDecoder().decode(bytes(other))
        is_same = not isinstance(fields, int) and fields[0] == (b":path", b"/inference.GRPCInferenceService/ModelInfer")
        assert (facts[PATH] == layout.PATH_MODEL_INFER) == is_same
    for length in range(len(block)):
        assert HeaderDecoder().decode(block[:length])[1][PATH] == layout.PATH_OTHER


def test_a_static_field_means_what_its_text_means():
    for index, field in enumerate(STATIC_FIELDS, 1):
        (fields, facts, _), (same, as_text, _) = (
            HeaderDecoder().decode(block) for block in (bytes([0x80 | index]), literal(*field))
        )
        assert fields == same == [field]
        assert facts == as_text


@given(st.binary(max_size=80))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_constants_are_coded_as_the_twin_codes_them(text):
    assert huffman_encode(text) == HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH).encode(text)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (b"application/grpc", layout.CONTENT_TYPE_GRPC),
        (b"application/grpc+proto", layout.CONTENT_TYPE_GRPC),
        (b"application/grpc;charset=utf-8", layout.CONTENT_TYPE_GRPC),
        (b"application/grpc+json", layout.CONTENT_TYPE_OTHER),
        (b"application/grpc-web", layout.CONTENT_TYPE_OTHER),
        (b"application/grp", layout.CONTENT_TYPE_OTHER),
        (b"", layout.CONTENT_TYPE_OTHER),
    ],
)
def test_content_types(value, kind):
    assert head(*with_value(b"content-type", value))[CONTENT_TYPE] == kind


@pytest.mark.parametrize(
    ("value", "timeout_ns"),
    [
        (b"1n", 1),
        (b"20u", 20_000),
        (b"20m", 20_000_000),
        (b"3S", 3_000_000_000),
        (b"3M", 180_000_000_000),
        (b"2H", 7_200_000_000_000),
        (b"99999999H", layout.NO_DEADLINE),
        (b"0S", 0),
        (b"", layout.TIMEOUT_MALFORMED),
        (b"S", layout.TIMEOUT_MALFORMED),
        (b"10", layout.TIMEOUT_MALFORMED),
        (b"-1S", layout.TIMEOUT_MALFORMED),
        (b"123456789S", layout.TIMEOUT_MALFORMED),
    ],
)
def test_grpc_timeouts_in_every_unit(value, timeout_ns):
    assert head(*REQUEST, (b"grpc-timeout", value))[TIMEOUT] == timeout_ns


@pytest.mark.parametrize(
    "fields",
    [
        [*REQUEST, (b"Upper", b"x")],
        [*REQUEST, (b"", b"x")],
        [*REQUEST, (b"na me", b"x")],
        [*REQUEST, (b"na:me", b"x")],
        [*REQUEST, (b"na\xffme", b"x")],
        [*REQUEST, (b"name", b"a\nb")],
        [*REQUEST, (b"name", b"a\0")],
        [*REQUEST, (b"name", b" a")],
        [*REQUEST, (b"name", b"a\t")],
        [*REQUEST, (b"connection", b"close")],
        [*REQUEST, (b"keep-alive", b"1")],
        [*REQUEST, (b"proxy-connection", b"1")],
        [*REQUEST, (b"transfer-encoding", b"chunked")],
        [*REQUEST, (b"upgrade", b"h2c")],
        [*REQUEST, (b":path", b"/late")],
        [(b":path", b"/"), (b":path", b"/")],
        [(b":status", b"200")],
        [(b":made-up", b"x")],
        [(b":path", b"")],
        with_value(b"te", b"gzip"),
        [*REQUEST, (b"content-length", b"x")],
        [*REQUEST, (b"content-length", b"1"), (b"content-length", b"2")],
    ],
)
def test_a_malformed_header_list_is_noticed(fields):
    assert is_malformed(*fields)


def test_a_well_formed_list_is_not_called_malformed():
    assert not is_malformed(*REQUEST, (b"content-length", b"12"), (b"content-length", b"12"), (b"x-bin", b"AA=="))
    assert not is_malformed(*(field for field in REQUEST if field[0] != b"te"))


@pytest.mark.parametrize(
    "block",
    [
        b"\x80",  # index 0
        b"\xbe",  # the first dynamic entry of an empty table
        b"\xff\x80\x80\x80\x80\x80\x01",  # an integer without an end
        b"\xff\xff\xff\xff\xff\x7f",
        b"\x00",  # no name
        b"\x00\x03ab",  # a name that is cut off
        b"\x00\x01a",  # no value
        b"\x00\x01a\x05xx",
        b"\x7f",  # an index that is cut off
        b"\x3f\xe2\x1f",  # a table size of 4097
        b"\x82\x20",  # a size update after a field
        b"\x20\x20\x20",  # three of them
        b"\x00\x81\xff\x01a",  # eight bits of padding
        b"\x00\x81\x00\x01a",  # padding that is not ones
        b"\x00\x84\xff\xff\xff\xff\x01a",  # the end-of-string symbol
        b"\x00\x82\x1f\xff\x01a",  # more than seven bits of padding
    ],
)
def test_a_broken_block_is_named(block):
    assert HeaderDecoder().decode(block)[0] == COMPRESSION_BROKEN


def test_every_prefix_of_a_block_is_decoded_or_refused():
    block = hpack.Encoder().encode([*REQUEST, (b"x-long", b"value" * 30)])
    for length in range(len(block)):
        fields = HeaderDecoder().decode(block[:length])[0]
        assert fields == COMPRESSION_BROKEN or len(fields) <= len(REQUEST)


def test_a_list_over_the_limit_is_decoded_to_its_end_without_storing():
    decoder = HeaderDecoder(header_list_bytes=300)
    twin = hpack.Encoder()
    fields = [*REQUEST, *((b"x-filler-%d" % k, b"v" * 50) for k in range(30))]
    decoded, facts, _ = decoder.decode(twin.encode(fields))
    assert facts[FLAGS] & layout.FLAG_LIST_TOO_LONG
    assert len(decoded) < len(fields)
    assert facts[LIST_BYTES] == sum(len(name) + len(value) + 32 for name, value in fields)
    # The table is still in step, so that the next block decodes.
    again, facts, _ = decoder.decode(twin.encode([*REQUEST[:3], fields[-1]]))
    assert again == [*REQUEST[:3], fields[-1]]
    assert not facts[FLAGS] & layout.FLAG_LIST_TOO_LONG


def test_an_expansion_bomb_ends_at_the_hard_bound():
    decoder = HeaderDecoder()
    entry = b"\x40\x01a" + b"\x7f" + (4000 - 127).to_bytes(2, "little")[:0]
    size = 4000 - 127
    entry += bytes([size & 127 | 128, size >> 7]) + b"v" * 4000
    assert decoder.decode(entry)[0] == [(b"a", b"v" * 4000)]
    assert decoder.decode(b"\xbe" * 60_000)[0] == LIST_BEYOND_BOUNDS


def test_a_field_larger_than_the_table_empties_it():
    decoder = HeaderDecoder()
    assert decoder.decode(b"\x40\x01a\x01b")[2] == [(b"a", b"b")]
    size = 5000 - 127
    huge = b"\x40\x01c\x7f" + bytes([size & 127 | 128, size >> 7]) + b"v" * 5000
    fields, _, table = decoder.decode(huge)
    assert fields == [(b"c", b"v" * 5000)]
    assert table == []


def test_answers_are_encoded_so_that_every_decoder_reads_them():
    fields = [
        (b":status", b"200"),
        (b"content-type", b"application/grpc"),
        (b"grpc-status", b"0"),
        (b"grpc-message", b"m" * 200),
        *STATIC_FIELDS,
    ]
    block = TABLE_SIZE_ZERO + b"".join(encode_field(*field) for field in fields)
    assert hpack.Decoder().decode(block, raw=True) == fields
    assert HeaderDecoder().decode(block)[0] == fields
