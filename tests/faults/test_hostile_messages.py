"""Messages that lie about their length, inflate, break off or go on: each costs its own call, and nothing else."""

import gzip
import random
import struct
import zlib

import numpy as np
import pytest

from serving.pb import open_inference_pb2 as pb
from serving.wire import frames
from serving.wire.frames import END_STREAM
from tests.property.test_infer_twin import mutated_bytes
from tests.support.conformance import raw_request, read_outputs
from tests.support.infer_wire import field, padded
from tests.support.peers import INFER, data, frame, headers, message
from tests.support.raw_client import infer
from tests.support.siege import besieged

MESSAGE_MIB = 4
MESSAGE_BYTES_MAX = MESSAGE_MIB << 20
ASSEMBLY_BYTES_MAX = 1 << 20
AT_ONCE = 100
BOMBS = 30
GZIP, DEFLATE = [[*INFER, (b"grpc-encoding", name)] for name in (b"gzip", b"deflate")]
OK, INVALID_ARGUMENT, RESOURCE_EXHAUSTED, INTERNAL = 0, 3, 8, 13


@pytest.fixture
def siege(repository):
    with besieged(repository, max_message_mib=MESSAGE_MIB, assembly_bytes_max=ASSEMBLY_BYTES_MAX) as siege:
        yield siege


@pytest.fixture
def offender(siege):
    with siege.connect() as offender:
        yield offender


def value_of(end):
    """Read the first value of an answer."""
    return float(read_outputs(pb.ModelInferResponse.FromString(end.body[5:]))["y"][0, 0])


def statuses(siege, offender, chunks, first=1):
    """Send a call for each chunk, some at a time; return how each ended. The connection must outlive them all."""
    found = []
    for begin in range(0, len(chunks), AT_ONCE):
        ids = range(first + 2 * begin, first + 2 * min(begin + AT_ONCE, len(chunks)), 2)
        offender.send(b"".join(infer(stream_id, chunks[(stream_id - first) // 2]) for stream_id in ids))
        found += [offender.answer(stream_id).status for stream_id in ids]
        offender.forget()
    last = first + 2 * len(chunks)
    offender.send(infer(last, siege.request("affine", value=last)))
    assert value_of(offender.answer(last)) == 2 * last + 1
    return found


@pytest.mark.parametrize("length", [MESSAGE_BYTES_MAX + 1, 2**31 - 1, 2**31, 2**32 - 1])
def test_a_length_above_the_bound_fails_its_own_call_before_the_message_comes(siege, offender, length):
    offender.send(headers(1) + data(1, struct.pack(">BI", 0, length)) + infer(3, siege.request("affine")))
    assert offender.answer(1).status == RESOURCE_EXHAUSTED
    assert offender.answer(3).status == OK
    assert siege.refused() == {"message_length": 1}


BODIES = {
    "nothing": (b"", "no_message"),
    "a part of a prefix": (b"\0\0\0", "cut_off"),
    "a prefix that promises more": (message(bytes(100))[:50], "cut_off"),
    "two messages": (message(b"") * 2, "second_message"),
    "a message and a byte": (message(b"") + b"\0", "second_message"),
    "a flag that is none": (message(b"", 2), "message_flag"),
    "a compressed one without an encoding": (message(b"", 1), "compressed_flag"),
}


@pytest.mark.parametrize(("body", "reason"), BODIES.values(), ids=BODIES)
@pytest.mark.parametrize("in_pieces", [False, True], ids=["at once", "in pieces"])
def test_a_body_that_is_not_one_message_fails_its_own_call(siege, offender, body, reason, in_pieces):
    pieces = [body[k : k + 1] for k in range(len(body))] if in_pieces else [body]
    offender.send(headers(1) + b"".join(data(1, piece) for piece in pieces) + data(1, b"", END_STREAM))
    assert offender.answer(1).status == INTERNAL
    offender.send(infer(3, siege.request("affine")))
    assert offender.answer(3).status == OK
    assert siege.refused() == {reason: 1}
    assert siege.exported(reason) == 1


def test_a_message_cut_off_anywhere_is_answered(siege, offender):
    whole = siege.request("affine", value=3)
    found = statuses(siege, offender, [whole[:end] for end in range(len(whole))])
    assert set(found) <= {INVALID_ARGUMENT, 5}  # without the end of its name it asks for another model
    assert len(found) == len(whole)
    assert siege.refused() == {}


LIES = {
    "a length beyond the message": field(1, "affine") + b"\x2a\x7f" + b"x" * 9,
    "a length of 2^63": field(1, "affine") + b"\x2a" + b"\x80" * 9 + b"\x01",
    "a length of eleven bytes": field(1, "affine") + b"\x2a" + b"\x81" * 10 + b"\x01" + b"x",
    "a length of ten bytes that overflows": field(1, "affine") + b"\x2a" + b"\xff" * 9 + b"\x7f",
    "a tag of eleven bytes": field(1, "affine") + b"\x80" * 10 + b"\x01",
    "field number 0": field(1, "affine") + b"\x02\x01x",
    "a group that is not closed": field(1, "affine") + b"\x2b",
    "a group's end alone": field(1, "affine") + b"\x2c",
    "a wire type that is none": field(1, "affine") + b"\x2f",
    "a tensor that ends within a field": field(1, "affine") + field(5, b"\x0a\x09x"),
    "a name that is no text": field(1, b"\xff\xfe") + field(5, b""),
    "nothing but zeros": bytes(100),
    "nothing but ones": b"\xff" * 100,
    "garbage behind it": None,
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_a_message_that_is_no_protobuf_fails_its_own_call(siege, offender, lie):
    content = siege.request("affine") + b"\xff\xff\xff" if lie is None else lie
    assert statuses(siege, offender, [content] * 3) == [INVALID_ARGUMENT] * 3
    assert siege.answered(code="INVALID_ARGUMENT") == 3


def test_lengths_that_are_longer_than_needed_are_read(siege, offender):
    raw = np.ones(4, np.float32).tobytes()
    tensor = field(1, "x") + field(2, "FP32") + field(3, b"\x01\x04")
    content = b"".join(field(number, text, padding=3) for number, text in ((1, "affine"), (5, tensor), (7, raw)))
    assert padded(4, 3) != padded(4, 0)
    assert statuses(siege, offender, [content]) == [OK]


def test_damaged_messages_are_all_answered(siege, offender):
    choice, whole = random.Random(1), siege.request("affine", value=3)
    chunks = [mutated_bytes(choice, mutated_bytes(choice, whole)) for _ in range(1000)]
    found = statuses(siege, offender, chunks)
    assert len(found) == len(chunks)
    assert {OK, INVALID_ARGUMENT} < set(found) <= {OK, INVALID_ARGUMENT, 5}
    assert siege.answered(code="INVALID_ARGUMENT") == found.count(INVALID_ARGUMENT)


# ---- compressed ones -------------------------------------------------------------------------------------------------


def compressed(stream_id, body, fields=GZIP):
    return headers(stream_id, fields) + data(stream_id, message(body, 1), END_STREAM)


def test_a_bomb_is_inflated_no_further_than_a_message_may_be_long(siege, offender):
    bomb = gzip.compress(bytes(50 * MESSAGE_BYTES_MAX), 9)[:16_000]  # what is left inflates to 15 times the bound
    for stream_id in range(1, 2 * BOMBS, 2):
        offender.send(compressed(stream_id, bomb))
    ends = [offender.answer(stream_id) for stream_id in range(1, 2 * BOMBS, 2)]
    assert {end.status for end in ends} == {RESOURCE_EXHAUSTED}
    assert siege.refused() == {"inflated_length": BOMBS}
    assert siege.exported("inflated_length") == BOMBS


@pytest.mark.parametrize(("fields", "compress"), [(GZIP, gzip.compress), (DEFLATE, zlib.compress)])
def test_a_compressed_message_that_is_damaged_fails_its_own_call(siege, offender, fields, compress):
    choice, good = random.Random(2), compress(siege.request("affine", value=3))
    damaged = [good[:end] for end in range(len(good))]
    for _ in range(100):
        changed = bytearray(good)
        changed[choice.randrange(len(changed))] ^= 1 << choice.randrange(8)
        damaged.append(bytes(changed))
    for k, body in enumerate([*damaged, good]):
        offender.send(compressed(2 * k + 1, body, fields))
    ends = [offender.answer(2 * k + 1) for k in range(len(damaged) + 1)]
    assert ends[-1].status == OK
    assert {end.status for end in ends} <= {OK, INVALID_ARGUMENT}
    assert [end.status for end in ends].count(INVALID_ARGUMENT) > len(good) * 9 // 10


def test_an_encoding_that_nobody_knows_is_refused_with_those_that_are(siege, offender):
    offender.send(compressed(1, b"x", [*INFER, (b"grpc-encoding", b"snappy")]))
    end = offender.answer(1)
    assert end.status == 12
    assert set(end.fields[b"grpc-accept-encoding"].replace(b" ", b"").split(b",")) == {b"identity", b"gzip", b"deflate"}
    assert siege.refused() == {"encoding": 1}


# ---- unfinished ones -------------------------------------------------------------------------------------------------


def test_unfinished_messages_hold_no_more_than_the_bound_together(siege, offender):
    large = message(bytes(MESSAGE_BYTES_MAX - 5))
    ids = range(1, 61, 2)
    for stream_id in ids:
        offender.send(headers(stream_id) + b"".join(data(stream_id, large[:16_384]) for _ in range(8)))
        offender.sync()
        assert siege.server.call(lambda: siege.core.held_bytes) <= ASSEMBLY_BYTES_MAX
    offender.sync()  # the answers of a turn follow the answer to a ping
    refused = siege.refused()["assembly_bytes"]
    assert refused == siege.exported("assembly_bytes")
    failed = {seen.stream_id for seen in offender.seen if seen.kind == frames.HEADERS}
    assert len(failed) == refused
    assert all(offender.answer(stream_id).status == RESOURCE_EXHAUSTED for stream_id in failed)
    assert len(ids) - refused <= ASSEMBLY_BYTES_MAX // (8 * 16_384)
    for stream_id in set(ids) - failed:
        offender.send(frame(frames.RST_STREAM, 0, stream_id, struct.pack(">I", 8)))
    offender.sync()
    assert siege.server.call(lambda: siege.core.held_bytes) == 0


def test_a_large_message_is_taken_again_when_the_unfinished_ones_are_gone(siege):
    row = np.arange(200_000, dtype=np.float32).reshape(1, -1)
    large = raw_request("echo", x=("FP32", row)).SerializeToString()
    with siege.connect() as offender:
        offender.send(
            b"".join(headers(k) + data(k, message(bytes(MESSAGE_BYTES_MAX - 5))[:16_000]) * 9 for k in (1, 3, 5))
        )
        offender.sync()
        offender.send(infer(7, large))
        assert offender.answer(7).status == RESOURCE_EXHAUSTED
        offender.reset()
    siege.wait_until_forgotten()
    with siege.connect() as client:
        client.send(infer(1, large))
        np.testing.assert_array_equal(
            read_outputs(pb.ModelInferResponse.FromString(client.answer(1).body[5:]))["y"], row
        )
