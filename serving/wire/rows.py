"""The copy: takes scanned requests into a batch, their tensors into its arena and their ids into its bytes of ids.

Everything was checked by the scan, so nothing here can fail half way: a request that has no room is not begun. It knows
the plan and the columns of records, and no wire format.
"""

import numpy as np
from numpy.typing import NDArray

from serving.wire.compiler import kernel, part, unsigned
from serving.wire.layout import NO_DEADLINE
from serving.wire.plan import S_INPUT_COUNT, S_INPUTS, S_ROW_BYTES, T_BYTES_BEFORE, T_ROW_BYTES, T_WORDS, entry_of
from serving.wire.protobuf import put_bytes
from serving.wire.records import (
    ACCEPTED,
    ID_BYTES_MAX,
    R_DEADLINE_NS,
    R_ID_AT,
    R_ID_LENGTH,
    R_INPUT,
    R_ROW,
    R_ROWS,
    R_SLOT,
    R_SOURCE,
    R_STREAM,
    R_VERDICT,
    REQUEST_COLUMNS,
)


@part
def copy_tensors(
    buffer: NDArray[np.uint8], record: NDArray[np.int64], numbers: NDArray[np.int64], servable: int, row: int,
    arena: NDArray[np.uint8],
) -> None:  # fmt: skip
    """Copy the contents of every input to its rows of the arena, from `row` on."""
    capacity = arena.size // numbers[servable + S_ROW_BYTES]
    for index in range(numbers[servable + S_INPUT_COUNT]):
        tensor = numbers[servable + S_INPUTS] + index * T_WORDS
        row_bytes = numbers[tensor + T_ROW_BYTES]
        at = capacity * numbers[tensor + T_BYTES_BEFORE] + row * row_bytes
        put_bytes(arena, at, buffer, record[R_INPUT + index], record[R_ROWS] * row_bytes)


@part
def copy_request(
    buffer: NDArray[np.uint8], record: NDArray[np.int64], row: int, at: int, requests: NDArray[np.int64],
    ids: NDArray[np.uint8],
) -> None:  # fmt: skip
    """Copy a record's lasting columns to row `at` of the batch, and its id to where the buffer's next read is not."""
    for column in range(unsigned(REQUEST_COLUMNS)):
        requests[at, column] = record[column]
    requests[at, R_ROW] = row
    requests[at, R_ID_AT] = at * ID_BYTES_MAX
    put_bytes(ids, at * ID_BYTES_MAX, buffer, record[R_ID_AT], record[R_ID_LENGTH])


@kernel(
    "UniTuple(i8, 4)(u1[::1], i8, i8[:, ::1], i8, i8, i8[::1], i8, u1[::1], i8, i8, i8[:, ::1], i8, u1[::1],"
    " i8[::1], i8)"
)
def take_rows(
    buffer: NDArray[np.uint8],
    source: int,
    records: NDArray[np.int64],
    record: int,
    last: int,
    numbers: NDArray[np.int64],
    slot: int,
    arena: NDArray[np.uint8],
    row: int,
    row_end: int,
    requests: NDArray[np.int64],
    request: int,
    ids: NDArray[np.uint8],
    groups: NDArray[np.int64],
    group: int,
) -> tuple[int, int, int, int]:
    """Take the accepted requests of servable `slot` from records[record:last], in order, until one finds no room.

    Only those that lie in `buffer`, which is `source`, are looked at; so another buffer's are taken by another call.
    Their rows go to the arena from `row` to `row_end`, their columns to `requests` from `request` on; `ids` has
    ID_BYTES_MAX bytes for each row of `requests`, and `groups` a word for each stream, where `group` is noted. Returns
    the first record that was not taken care of, the first row that is still free, the first request that is, and the
    earliest deadline of those that were taken.
    """
    servable = entry_of(numbers, slot)
    last, row_end = min(last, records.shape[0]), min(row_end, arena.size // numbers[servable + S_ROW_BYTES])
    room = min(requests.shape[0], ids.size // ID_BYTES_MAX)
    deadline_ns = NO_DEADLINE
    while record < last:
        accepted = records[record, R_VERDICT] == ACCEPTED and records[record, R_SOURCE] == source
        if accepted and records[record, R_SLOT] == slot:
            if request >= room or records[record, R_ROWS] > row_end - row:
                break
            copy_tensors(buffer, records[record], numbers, servable, row, arena)
            copy_request(buffer, records[record], row, request, requests, ids)
            stream = records[record, R_STREAM]
            if 0 <= stream < groups.size:
                groups[stream] = group
            deadline_ns = min(deadline_ns, records[record, R_DEADLINE_NS])
            row += records[record, R_ROWS]
            request += 1
        record += 1
    return record, row, request, deadline_ns
