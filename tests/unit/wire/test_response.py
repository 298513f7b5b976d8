"""Answers at the edges: no room, no rows, nothing chosen, a scalar, more than protobuf can write."""

import numpy as np
import pytest

from serving.transport.codec import encode_answer
from serving.types import DYNAMIC, Datatype, InferAnswer, OutputTensor, Signature, TensorSpec
from serving.wire import response
from serving.wire.records import R_OUTPUT_COUNT, R_ROWS, REQUEST_COLUMNS
from tests.support.infer_wire import FOREST, WHOLE, Writer, model

LABELS = np.arange(6, dtype=np.int64)
SCORES = np.linspace(0, 1, 12, dtype=np.float32).reshape(6, 2)
REQUESTS = [("a", 0, 2, [0, 1]), ("", 2, 1, [1]), ("c", 3, 3, [1, 0])]
WRITER = Writer(model("forest", 3, FOREST))


def answer(name, first, count, asked):
    arrays = [("label", Datatype.INT64, LABELS), ("scores", Datatype.FP32, SCORES)]
    outputs = tuple(OutputTensor(arrays[k][0], arrays[k][1], arrays[k][2][first : first + count]) for k in asked)
    return b"".join(encode_answer(InferAnswer("forest", 3, name, outputs, raw=True)))


def write(chosen, **places):
    return WRITER.write(REQUESTS, [LABELS, SCORES], chosen, **{"row": 0, "before": 0, "after": 0, **places})


def test_answers_hold_their_own_rows_in_the_asked_order():
    assert write([0, 1, 2]) == [answer(*request) for request in REQUESTS]


def test_only_the_chosen_are_answered_in_the_order_of_the_choice():
    assert write([2, 0]) == [answer(*REQUESTS[2]), answer(*REQUESTS[0])]
    assert write([]) == []


def test_frames_find_their_room_around_each_answer():
    assert write([0, 1, 2], before=38, after=24, row=1000) == write([0, 1, 2])


def test_a_scalar_has_no_shape():
    scalar = np.array(7, np.float32)
    expected = b"".join(encode_answer(InferAnswer("m", 1, "i", (OutputTensor("y", Datatype.FP32, scalar),), raw=True)))
    writer = Writer(model("m", 1, WHOLE))
    assert writer.write([("i", 0, 1, [0])], [scalar], [0], row=5, before=1, after=2) == [expected]


def test_an_output_with_open_dimensions_has_those_of_the_batch():
    signature = Signature(FOREST.inputs, (TensorSpec("y", Datatype.UINT8, (DYNAMIC, DYNAMIC, 2)),), batchable=True)
    array = np.arange(12, dtype=np.uint8).reshape(2, 3, 2)
    expected = b"".join(
        encode_answer(InferAnswer("m", 1, "", (OutputTensor("y", Datatype.UINT8, array[1:]),), raw=True))
    )
    writer = Writer(model("m", 1, signature))
    assert writer.write([("", 1, 1, [0]), ("", 0, 1, [0])], [array], [0], row=0, before=0, after=0) == [expected]


def encode(count, rows, *, slot_shapes, out_bytes=0, answers=1):
    batch = np.zeros((1, REQUEST_COLUMNS), np.int64)
    batch[0, R_ROWS], batch[0, R_OUTPUT_COUNT] = rows, 1
    places = np.zeros((answers, response.ANSWER_COLUMNS), np.int64)
    numbers, text = WRITER.plan.numbers, WRITER.plan.text
    out = np.zeros(out_bytes, np.uint8)
    order, ids = np.zeros(count, np.int64), np.zeros(0, np.uint8)
    return response.encode(batch, order, ids, numbers, text, slot_shapes, 0, out, 0, 0, 0, places), out


def test_an_answer_longer_than_any_message_is_not_begun():
    shapes = np.array([[1, 2**20, 0], [2, 0, 0]])
    needed, out = encode(1, 2**11 - 1, slot_shapes=shapes)
    assert 2**31 - 2**20 < needed < 2**31
    assert not out.any()
    assert encode(1, 2**11, slot_shapes=shapes)[0] == response.TOO_LONG


@pytest.mark.parametrize("answers", [0, 1])
def test_nothing_is_written_when_there_are_fewer_places_than_answers(answers):
    shapes = np.array([[1, 8, 0], [2, 0, 0]])
    needed, out = encode(2, 1, slot_shapes=shapes, out_bytes=1000, answers=answers)
    assert 0 < needed < 1000
    assert not out.any()


@pytest.mark.parametrize(("row", "rows"), [(-1, 1), (0, 7), (6, 1), (5, 2)])
def test_contents_without_the_rows_are_not_copied(row, rows):
    places = np.zeros((2, response.ANSWER_COLUMNS), np.int64)
    places[:, response.A_ROW], places[:, response.A_ROWS] = (0, row), (1, rows)
    out = np.zeros(100, np.uint8)
    assert not response.fill(places, 2, 0, 8, LABELS.view(np.uint8), out)
    assert not out.any()
