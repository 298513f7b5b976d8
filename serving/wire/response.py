"""The answers of a batch: ModelInferResponse messages in raw form, byte for byte as protobuf would write them.

Two steps. `encode` writes each answer, behind gRPC's prefix, except for the contents of its outputs, and notes where
those belong; `fill` is then called once for each output array of the model. Between the answers it leaves room for
whatever frames the transport puts around them. It knows the plan and the columns of records, and no stream.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from serving.types import Array
from serving.wire.compiler import inlined, int64, kernel
from serving.wire.layout import PREFIX_BYTES
from serving.wire.plan import S_BATCHABLE, S_HEAD, S_OUTPUTS, T_HEAD, T_WORDS, entry_of
from serving.wire.protobuf import MESSAGE_BYTES_MAX, WIRE_LENGTH, key, put_bytes, put_varint, varint_bytes
from serving.wire.records import (
    OUTPUTS_MAX,
    R_ID_AT,
    R_ID_LENGTH,
    R_OUTPUT,
    R_OUTPUT_COUNT,
    R_ROW,
    R_ROWS,
    R_SLOT,
)

ID, OUTPUT, CONTENTS, SHAPE = (key(number, WIRE_LENGTH) for number in (3, 5, 6, 3))

A_AT, A_LENGTH, A_ROW, A_ROWS, A_CONTENTS = range(5)
"""An answer's place: where its prefix begins, its length with the prefix, its rows of the outputs, and from A_CONTENTS
on, per output of the signature, where its contents belong, -1 for an output that was not asked for."""
ANSWER_COLUMNS = A_CONTENTS + OUTPUTS_MAX

D_RANK, D_ROW_BYTES, D_DIMS = range(3)
"""The shape of an output of a batch: its rank, the bytes of one row, its dimensions."""

TOO_LONG = -1


def output_shapes(outputs: Sequence[Array], rows: int) -> NDArray[np.int64]:
    """Describe the outputs of a batch of `rows` rows, 1 for a model that is not batchable. Cheap to keep per shape."""
    shapes = np.zeros((len(outputs), D_DIMS + max(array.ndim for array in outputs)), np.int64)
    for words, array in zip(shapes, outputs, strict=True):
        words[D_RANK] = array.ndim
        words[D_ROW_BYTES] = array.nbytes // rows
        words[D_DIMS : D_DIMS + array.ndim] = array.shape
    return shapes


@inlined
def dimension(shape: NDArray[np.int64], index: int, rows: int) -> int:
    """Return one dimension of an answer's output; `rows` stands for the first one, unless it is 0."""
    return rows if index == 0 and rows else int64(shape[D_DIMS + index])


@inlined
def shape_bytes(shape: NDArray[np.int64], rows: int) -> int:
    """Return the length of a packed shape."""
    count = 0
    for index in range(shape[D_RANK]):
        count += varint_bytes(dimension(shape, index, rows))
    return count


@inlined
def field_bytes(length: int) -> int:
    """Return the length of a field that holds `length` bytes."""
    return 1 + varint_bytes(length) + length


@inlined
def put_field(out: NDArray[np.uint8], at: int, field: int, length: int) -> int:
    """Write the key and the length of a field; returns where its bytes begin."""
    out[at] = field
    return put_varint(out, at + 1, length)


@inlined
def tensor_bytes(numbers: NDArray[np.int64], output: int, shape: NDArray[np.int64], rows: int) -> int:
    """Return the length of an InferOutputTensor; a scalar's shape is left out."""
    head = int64(numbers[output + T_HEAD + 1])
    return head + field_bytes(shape_bytes(shape, rows)) if shape[D_RANK] else head


@inlined
def put_tensor(
    out: NDArray[np.uint8], at: int, numbers: NDArray[np.int64], text: NDArray[np.uint8], output: int,
    shape: NDArray[np.int64], rows: int,
) -> int:  # fmt: skip
    """Write the field of one InferOutputTensor; returns the next position."""
    at = put_field(out, at, OUTPUT, tensor_bytes(numbers, output, shape, rows))
    at = put_bytes(out, at, text, numbers[output + T_HEAD], numbers[output + T_HEAD + 1])
    if shape[D_RANK]:
        at = put_field(out, at, SHAPE, shape_bytes(shape, rows))
        for index in range(shape[D_RANK]):
            at = put_varint(out, at, dimension(shape, index, rows))
    return at


@inlined
def message_bytes(request: NDArray[np.int64], numbers: NDArray[np.int64], shapes: NDArray[np.int64]) -> int:
    """Return the length of a request's answer, without the prefix."""
    servable = entry_of(numbers, request[R_SLOT])
    rows = request[R_ROWS] if numbers[servable + S_BATCHABLE] else 0
    count = int64(numbers[servable + S_HEAD + 1])
    if request[R_ID_LENGTH]:
        count += field_bytes(request[R_ID_LENGTH])
    for k in range(request[R_OUTPUT_COUNT]):
        index = request[R_OUTPUT + k]
        output = numbers[servable + S_OUTPUTS] + index * T_WORDS
        count += field_bytes(tensor_bytes(numbers, output, shapes[index], rows))
        count += field_bytes(request[R_ROWS] * shapes[index, D_ROW_BYTES])
    return count


@inlined
def put_message(
    out: NDArray[np.uint8], at: int, request: NDArray[np.int64], ids: NDArray[np.uint8], numbers: NDArray[np.int64],
    text: NDArray[np.uint8], shapes: NDArray[np.int64], answer: NDArray[np.int64],
) -> int:  # fmt: skip
    """Write a request's answer, and note where the contents of its outputs belong; returns the next position."""
    servable = entry_of(numbers, request[R_SLOT])
    rows = request[R_ROWS] if numbers[servable + S_BATCHABLE] else 0
    at = put_bytes(out, at, text, numbers[servable + S_HEAD], numbers[servable + S_HEAD + 1])
    if request[R_ID_LENGTH]:
        at = put_field(out, at, ID, request[R_ID_LENGTH])
        at = put_bytes(out, at, ids, request[R_ID_AT], request[R_ID_LENGTH])
    for k in range(request[R_OUTPUT_COUNT]):
        index = request[R_OUTPUT + k]
        output = numbers[servable + S_OUTPUTS] + index * T_WORDS
        at = put_tensor(out, at, numbers, text, output, shapes[index], rows)
    for k in range(request[R_OUTPUT_COUNT]):
        index = request[R_OUTPUT + k]
        length = request[R_ROWS] * shapes[index, D_ROW_BYTES]
        at = put_field(out, at, CONTENTS, length)
        answer[A_CONTENTS + index] = at
        at += length
    return at


@inlined
def put_prefix(out: NDArray[np.uint8], at: int, length: int) -> None:
    """Write gRPC's prefix: a zero, for a message that is not compressed, and its length."""
    out[at] = 0
    for k in range(1, PREFIX_BYTES):
        out[at + k] = length >> (8 * (PREFIX_BYTES - 1 - k)) & 0xFF


@inlined
def needed_bytes(
    requests: NDArray[np.int64], chosen: NDArray[np.int64], numbers: NDArray[np.int64], shapes: NDArray[np.int64],
    gap: int,
) -> int:  # fmt: skip
    """Return the length of all answers with their prefixes and gaps, TOO_LONG when protobuf could not write one."""
    needed = 0
    for k in range(chosen.size):
        length = message_bytes(requests[chosen[k]], numbers, shapes)
        if length > MESSAGE_BYTES_MAX:
            return TOO_LONG
        needed += length + PREFIX_BYTES + gap
    return needed


@kernel("i8(i8[:, ::1], i8[::1], u1[::1], i8[::1], u1[::1], i8[:, ::1], i8, u1[::1], i8, i8, i8, i8[:, ::1])")
def encode(
    requests: NDArray[np.int64],
    chosen: NDArray[np.int64],
    ids: NDArray[np.uint8],
    numbers: NDArray[np.int64],
    text: NDArray[np.uint8],
    shapes: NDArray[np.int64],
    row: int,
    out: NDArray[np.uint8],
    at: int,
    before: int,
    after: int,
    answers: NDArray[np.int64],
) -> int:
    """Write the answers of the `chosen` requests, in that order; row k of `answers` is the place of the k-th.

    `row` is the arena row of the outputs' first row. Answers are written from `at` on, `before` and `after` bytes left
    as they are around each. Returns how many bytes that takes, or TOO_LONG; when `out` or `answers` have no room for
    them, nothing was written.
    """
    needed = needed_bytes(requests, chosen, numbers, shapes, before + after)
    if needed < 0 or at < 0 or needed > out.size - at or chosen.size > answers.shape[0]:
        return needed
    for k in range(chosen.size):
        request, answer = requests[chosen[k]], answers[k]
        begin = at + before
        answer[A_AT] = begin
        answer[A_ROW], answer[A_ROWS] = request[R_ROW] - row, request[R_ROWS]
        for column in range(A_CONTENTS, ANSWER_COLUMNS):
            answer[column] = -1
        end = put_message(out, begin + PREFIX_BYTES, request, ids, numbers, text, shapes, answer)
        put_prefix(out, begin, end - begin - PREFIX_BYTES)
        answer[A_LENGTH] = end - begin
        at = end + after
    return needed


@kernel("b1(i8[:, ::1], i8, i8, i8, u1[::1], u1[::1])")
def fill(
    answers: NDArray[np.int64],
    count: int,
    index: int,
    row_bytes: int,
    contents: NDArray[np.uint8],
    out: NDArray[np.uint8],
) -> bool:
    """Copy output `index` of a batch, as bytes, to the first `count` answers; False, without a copy, if rows lack."""
    for k in range(count):
        row, rows = answers[k, A_ROW], answers[k, A_ROWS]
        if row < 0 or (row + rows) * row_bytes > contents.size:
            return False
    for k in range(count):
        at = answers[k, A_CONTENTS + index]
        if at >= 0:
            put_bytes(out, at, contents, answers[k, A_ROW] * row_bytes, answers[k, A_ROWS] * row_bytes)
    return True
