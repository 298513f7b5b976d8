"""The scan: reads one complete ModelInferRequest and either accepts it, knowing where everything lies, or declines.

It checks every rule that `serving.validation` checks and protobuf's parser enforces, for the requests that nearly every
client sends: raw contents of fixed-size elements, no parameters, no typed contents. Whatever else it meets, a mistake
or merely something unusual, makes the message ORDINARY, and the ordinary path gives the answer. It writes only the
message's own record, and reads nothing outside the message.

Three walks over the message, because its fields may come in any order: `outline` notes the strings and counts the rest,
`tensors` matches inputs and outputs by name, `contents` gives each input its bytes.
"""

import numpy as np
from numba import uint8
from numpy.typing import NDArray

from serving.wire.compiler import inlined, int64, kernel, part, unsigned
from serving.wire.plan import (
    S_COMPILED,
    S_INPUT_COUNT,
    S_INPUTS,
    S_OUTPUT_COUNT,
    S_OUTPUTS,
    S_ROWS_MAX,
    S_SLOT,
    T_BOOL,
    T_DATATYPE,
    T_DIMS,
    T_RANK,
    T_ROW_BYTES,
    T_WORDS,
    find_servable,
    find_tensor,
    is_text_of,
)
from serving.wire.protobuf import WIRE_LENGTH, WIRE_VARINT, delimited, is_text, key, varint
from serving.wire.records import (
    ACCEPTED,
    ID_BYTES_MAX,
    ORDINARY,
    R_AT,
    R_CONTENTS_FOUND,
    R_ID_AT,
    R_ID_LENGTH,
    R_INPUT,
    R_INPUTS_FOUND,
    R_LENGTH,
    R_ORDER,
    R_OUTPUT,
    R_OUTPUT_COUNT,
    R_OUTPUTS_FOUND,
    R_ROW,
    R_ROWS,
    R_SLOT,
    R_SOURCE,
    R_TEXT,
    R_VERDICT,
)

MODEL_NAME, MODEL_VERSION, ID, INPUT, OUTPUT, CONTENTS = (key(number, WIRE_LENGTH) for number in (1, 2, 3, 5, 6, 7))
NAME, DATATYPE, DIMS = (key(number, WIRE_LENGTH) for number in (1, 2, 3))
DIM = key(3, WIRE_VARINT)

_MISSING, _MATCHED = -1, -2

SLOTS_DIFFER = -1


@inlined
def outline(buffer: NDArray[np.uint8], at: int, end: int, record: NDArray[np.int64]) -> bool:
    """Walk over the fields: note the strings, the last of each counting, and how many of the others there are."""
    for column in range(R_TEXT, R_OUTPUTS_FOUND + 1):
        record[column] = 0
    while at < end:
        field = int64(buffer[at])
        begin, at = delimited(buffer, at + 1, end)
        if at < 0:
            return False
        if field == INPUT:
            record[R_INPUTS_FOUND] += 1
        elif field == CONTENTS:
            record[R_CONTENTS_FOUND] += 1
        elif field == OUTPUT:
            record[R_OUTPUTS_FOUND] += 1
        elif field == MODEL_NAME or field == MODEL_VERSION or field == ID:
            column = R_TEXT + (field - MODEL_NAME) // 4
            # What is replaced counts for nothing, but protobuf refuses a message with any text that is not UTF-8.
            if not is_text(buffer, record[column], record[column + 1]):
                return False
            record[column], record[column + 1] = begin, at
        else:
            return False
    return True


@inlined
def name_and_datatype(buffer: NDArray[np.uint8], at: int, end: int) -> tuple[bool, tuple[int, int], tuple[int, int]]:
    """Walk over a tensor's fields; returns whether they are the usual ones, and where name and datatype lie."""
    name_at, name_end, datatype_at, datatype_end = 0, 0, 0, 0
    usual = True
    while usual and at < end:
        field = int64(buffer[at])
        if field == DIM:
            _, at = varint(buffer, at + 1, end)
        else:
            begin, at = delimited(buffer, at + 1, end)
            if field == NAME:
                usual = is_text(buffer, name_at, name_end)
                name_at, name_end = begin, at
            elif field == DATATYPE:
                usual = is_text(buffer, datatype_at, datatype_end)
                datatype_at, datatype_end = begin, at
            elif field != DIMS:
                usual = False
        usual = usual and at >= 0
    return usual, (name_at, name_end), (datatype_at, datatype_end)


@inlined
def fit_dims(
    buffer: NDArray[np.uint8], at: int, end: int, numbers: NDArray[np.int64], tensor: int, rank: int, rows: int
) -> tuple[int, int]:
    """Compare dimensions from number `rank` on; returns how many there are by now, -1 for a misfit, and the rows."""
    while at < end:
        value, at = varint(buffer, at, end)
        if at < 0 or rank >= numbers[tensor + T_RANK]:
            return -1, rows
        expected = numbers[tensor + T_DIMS + rank]
        if expected < 0:
            rows = value
        elif value != expected:
            return -1, rows
        rank += 1
    return rank, rows


@inlined
def shape_rows(buffer: NDArray[np.uint8], at: int, end: int, numbers: NDArray[np.int64], tensor: int) -> int:
    """Compare a tensor's shape, packed or not, with the model's; returns its rows, 1 without any, -1 for a misfit."""
    rank, rows = 0, 1
    while at < end and rank >= 0:
        field = int64(buffer[at])
        begin = at + 1
        if field == DIM:
            _, at = varint(buffer, begin, end)
        else:
            begin, at = delimited(buffer, begin, end)
        if field == DIM or field == DIMS:
            rank, rows = fit_dims(buffer, begin, at, numbers, tensor, rank, rows)
    return rows if rank == numbers[tensor + T_RANK] else -1


@inlined
def match_input(
    buffer: NDArray[np.uint8], at: int, end: int, numbers: NDArray[np.int64], text: NDArray[np.uint8],
    servable: int, wire_order: int, record: NDArray[np.int64],
) -> bool:  # fmt: skip
    """Find the model's input that a message's input is, once each, of its datatype and shape and of common rows."""
    usual, name, datatype = name_and_datatype(buffer, at, end)
    if not usual:
        return False
    index = find_tensor(numbers, text, servable + S_INPUTS, wire_order, buffer, name)
    if index < 0 or record[R_INPUT + index] != _MISSING:
        return False
    tensor = numbers[servable + S_INPUTS] + index * T_WORDS
    if not is_text_of(numbers, text, tensor + T_DATATYPE, buffer, datatype[0], datatype[1]):
        return False
    rows = shape_rows(buffer, at, end, numbers, tensor)
    if not 0 < rows <= numbers[servable + S_ROWS_MAX] or (record[R_ROWS] != 0 and record[R_ROWS] != rows):
        return False
    record[R_INPUT + index] = _MATCHED
    record[R_ORDER + wire_order] = index
    record[R_ROWS] = rows
    return True


@part
def lone_name(buffer: NDArray[np.uint8], at: int, end: int) -> tuple[bool, tuple[int, int]]:
    """Walk over the fields of a requested output; returns whether it has a name and nothing else, and where it lies."""
    name_at, name_end = 0, 0
    while at < end:
        field = int64(buffer[at])
        begin, at = delimited(buffer, at + 1, end)
        if at < 0 or field != NAME or not is_text(buffer, name_at, name_end):
            return False, (0, 0)
        name_at, name_end = begin, at
    return True, (name_at, name_end)


@inlined
def note_output(numbers: NDArray[np.int64], servable: int, index: int, record: NDArray[np.int64]) -> bool:
    """Note one more asked output; False when it was asked for before or has no fixed length."""
    count = record[R_OUTPUT_COUNT]
    if index < 0 or numbers[numbers[servable + S_OUTPUTS] + index * T_WORDS + T_ROW_BYTES] == 0:
        return False
    for column in range(R_OUTPUT, R_OUTPUT + count):
        if record[column] == index:
            return False
    record[R_OUTPUT + count] = index
    record[R_OUTPUT_COUNT] = count + 1
    return True


@inlined
def tensors(
    buffer: NDArray[np.uint8], at: int, end: int, numbers: NDArray[np.int64], text: NDArray[np.uint8],
    servable: int, record: NDArray[np.int64],
) -> bool:  # fmt: skip
    """Match every input and every asked output with the model's; none asked means all. `outline` checked the fields."""
    inputs = 0
    while at < end:
        field = int64(buffer[at])
        begin, at = delimited(buffer, at + 1, end)
        if field == INPUT:
            if not match_input(buffer, begin, at, numbers, text, servable, inputs, record):
                return False
            inputs += 1
        elif field == OUTPUT:
            usual, name = lone_name(buffer, begin, at)
            guess = record[R_OUTPUT_COUNT]
            index = find_tensor(numbers, text, servable + S_OUTPUTS, guess, buffer, name) if usual else -1
            if not note_output(numbers, servable, index, record):
                return False
    if record[R_OUTPUTS_FOUND] == 0:
        for index in range(numbers[servable + S_OUTPUT_COUNT]):
            if not note_output(numbers, servable, index, record):
                return False
    return True


@inlined
def only_bools(buffer: NDArray[np.uint8], at: int, end: int) -> bool:
    """Say whether every byte is 0 or 1; the ordinary path makes other ones 1."""
    seen = uint8(0)
    for k in range(unsigned(at), unsigned(end)):
        seen |= buffer[k]
    return bool(seen <= 1)


@inlined
def contents(
    buffer: NDArray[np.uint8], at: int, end: int, numbers: NDArray[np.int64], servable: int, record: NDArray[np.int64]
) -> bool:
    """Give each input its bytes, in the order of the message, and check their number."""
    found = 0
    while at < end:
        field = int64(buffer[at])
        begin, at = delimited(buffer, at + 1, end)
        if field != CONTENTS:
            continue
        index = record[R_ORDER + found]
        tensor = numbers[servable + S_INPUTS] + index * T_WORDS
        if at - begin != record[R_ROWS] * numbers[tensor + T_ROW_BYTES]:
            return False
        if numbers[tensor + T_BOOL] and not only_bools(buffer, begin, at):
            return False
        record[R_INPUT + index] = begin
        found += 1
    return True


@inlined
def start(servable: int, numbers: NDArray[np.int64], record: NDArray[np.int64]) -> bool:
    """Prepare a record for the servable that was found; False when the counts alone decline the message."""
    id_at, id_end = record[R_TEXT + 4], record[R_TEXT + 5]
    record[R_SLOT] = numbers[servable + S_SLOT]
    record[R_ROWS], record[R_ROW], record[R_OUTPUT_COUNT] = 0, 0, 0
    record[R_ID_AT], record[R_ID_LENGTH] = id_at, id_end - id_at
    inputs = numbers[servable + S_INPUT_COUNT]
    for column in range(R_INPUT, R_INPUT + inputs):
        record[column] = _MISSING
    if not numbers[servable + S_COMPILED] or id_end - id_at > ID_BYTES_MAX:
        return False
    found = record[R_INPUTS_FOUND] == inputs and record[R_CONTENTS_FOUND] == inputs
    return bool(found)


@inlined
def scan(
    buffer: NDArray[np.uint8], at: int, end: int, numbers: NDArray[np.int64], text: NDArray[np.uint8],
    record: NDArray[np.int64],
) -> int:  # fmt: skip
    """Read the message at buffer[at:end]; the caller has checked that it lies inside. Returns ACCEPTED or ORDINARY."""
    if not outline(buffer, at, end, record):
        return ORDINARY
    name, version = (record[R_TEXT], record[R_TEXT + 1]), (record[R_TEXT + 2], record[R_TEXT + 3])
    servable = find_servable(numbers, text, buffer, name, version)
    if servable == 0 or not start(servable, numbers, record):
        return ORDINARY
    accepted = (
        is_text(buffer, record[R_TEXT + 4], record[R_TEXT + 5])
        and tensors(buffer, at, end, numbers, text, servable, record)
        and contents(buffer, at, end, numbers, servable, record)
    )
    return ACCEPTED if accepted else ORDINARY


@kernel("UniTuple(i8, 2)(u1[::1], i8, i8[:, ::1], i8, i8, i8[::1], u1[::1])")
def scan_requests(
    buffer: NDArray[np.uint8],
    source: int,
    records: NDArray[np.int64],
    first: int,
    last: int,
    numbers: NDArray[np.int64],
    text: NDArray[np.uint8],
) -> tuple[int, int]:
    """Scan the messages of records[first:last] that lie in `buffer`, which is `source`.

    Returns how many it accepted, and the slot of the one servable that all of these ask for, SLOTS_DIFFER when they ask
    for several. Messages in another source keep whatever verdict they have.
    """
    accepted, slot = 0, SLOTS_DIFFER
    for k in range(max(first, 0), min(last, records.shape[0])):
        if records[k, R_SOURCE] != source:
            continue
        at, length = records[k, R_AT], records[k, R_LENGTH]
        verdict = ORDINARY
        if 0 <= at <= buffer.size and 0 <= length <= buffer.size - at:
            verdict = scan(buffer, at, at + length, numbers, text, records[k])
        records[k, R_VERDICT] = verdict
        if verdict == ACCEPTED:
            slot = records[k, R_SLOT] if accepted == 0 or slot == records[k, R_SLOT] else SLOTS_DIFFER
            accepted += 1
    return accepted, slot
