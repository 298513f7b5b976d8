"""One read in one call: what it gives is what its three steps give one after the other."""

import numpy as np
import pytest

from serving.wire import connection, frames, http2, infer, layout, rows
from serving.wire.arrivals import note_requests
from serving.wire.reads import take_read
from serving.wire.records import ACCEPTED, ID_BYTES_MAX, R_VERDICT, RECORD_COLUMNS, REQUEST_COLUMNS
from tests.support.infer_wire import Reader, arena_of, request
from tests.support.peers import INFER, PREFACE, data, headers, message, settings
from tests.support.peers import request as call

SLOT, SERVABLE = 1, 1
PLAN = Reader().plan
ASKED = [b"".join(request(count=count, named=f"id {count}")) for count in (1, 2, 3)]
PLAIN = b"".join(call(1 + 2 * k, asked) for k, asked in enumerate(ASKED))
IN_TWO_FRAMES = headers(7, INFER) + data(7, message(ASKED[1])[:40]) + data(7, message(ASKED[1])[40:], frames.END_STREAM)
ODD = call(7, b"no request")


class Batch:
    """Where requests are taken to."""

    def __init__(self, streams):
        self.arena, _ = arena_of(PLAN, SERVABLE, 64)
        self.columns = np.zeros((8, REQUEST_COLUMNS), np.int64)
        self.ids = np.zeros(8 * ID_BYTES_MAX, np.uint8)
        self.groups = np.full(streams, -1, np.int64)

    def same(self, other):
        return all(np.array_equal(getattr(self, name), getattr(other, name)) for name in vars(self))


def decoded(session):
    state = layout.State(layout.Limits(connections=3, streams=12, blocks=3, block_bytes=1000, streams_per_connection=8))
    connection.open_connection(state.connections, state.shared, state.control, SLOT, 0)
    source = np.frombuffer(PREFACE + settings() + session, np.uint8).copy()
    arrays = (source, state.connections, state.streams, state.pool, state.events, state.control, state.headers)
    status, used, events, _, _ = http2.decode(*arrays, state.shared, SLOT, 0, source.size, 1_000)
    assert (status, used) == (layout.STATUS_HUNGRY, source.size)
    return state, source, events


def read(session, *, servable=SERVABLE, row_end=64, requests_max=100):
    """Return what the call returns, its batch and its records."""
    state, source, count = decoded(session)
    batch, records = Batch(state.limits.streams), np.zeros((count, RECORD_COLUMNS), np.int64)
    result = take_read(
        state.events, count, SLOT, records, source, PLAN.numbers, PLAN.text, servable, batch.arena, 0, row_end,
        batch.columns, 0, batch.ids, batch.groups, 7, requests_max,
    )  # fmt: skip
    return result, batch, records


def in_steps(session, row_end=64):
    state, source, count = decoded(session)
    batch, records = Batch(state.limits.streams), np.zeros((count, RECORD_COLUMNS), np.int64)
    noted = note_requests(state.events, count, SLOT, records, 0)
    scanned = infer.scan_requests(source, layout.SOURCE_BUFFER, records, 0, noted, PLAN.numbers, PLAN.text)
    taken = rows.take_rows(
        source, layout.SOURCE_BUFFER, records, 0, noted, PLAN.numbers, SERVABLE, batch.arena, 0, row_end,
        batch.columns, 0, batch.ids, batch.groups, 7,
    )  # fmt: skip
    return (noted, *scanned, *taken), batch, records


@pytest.mark.parametrize(("row_end", "taken"), [(64, 3), (5, 2), (1, 1), (0, 0)])
def test_requests_of_one_servable_are_taken_as_far_as_there_is_room(row_end, taken):
    result, batch, records = read(PLAIN, row_end=row_end)
    expected, twin, twin_records = in_steps(PLAIN, row_end)
    assert result == expected
    assert result[:4] == (3, 3, SERVABLE, taken)
    assert batch.same(twin)
    assert np.array_equal(records, twin_records)


@pytest.mark.parametrize(
    ("session", "accepted", "options"),
    [
        pytest.param(PLAIN + IN_TWO_FRAMES, 3, {}, id="one lies in the pool"),
        pytest.param(PLAIN + ODD, 3, {}, id="one is for the ordinary path"),
        pytest.param(PLAIN, 3, {"servable": 0}, id="they are for another servable"),
        pytest.param(PLAIN, 3, {"requests_max": 2}, id="there are too many"),
    ],
)
def test_what_is_less_simple_is_scanned_and_not_taken(session, accepted, options):
    result, batch, records = read(session, **options)
    assert result[1:] == (accepted, SERVABLE, 0, 0, 0, layout.NO_DEADLINE)
    assert (records[: result[0], R_VERDICT] == ACCEPTED).sum() == accepted
    assert not batch.arena.any()
    assert not batch.columns.any()
    assert (batch.groups == -1).all()


def test_a_read_without_requests_takes_nothing():
    result, batch, _ = read(b"")
    assert result == (0, 0, infer.SLOTS_DIFFER, 0, 0, 0, layout.NO_DEADLINE)
    assert not batch.columns.any()
