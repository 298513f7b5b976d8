"""From the bytes of a connection to rows in an arena and bytes of answers, through every step in between."""

import numpy as np
import pytest

from serving.pb import open_inference_pb2 as pb
from serving.wire import connection, frames, http2, infer, layout, response, rows
from serving.wire.arrivals import note_requests
from serving.wire.records import (
    ACCEPTED,
    ID_BYTES_MAX,
    ORDINARY,
    R_CONNECTION,
    R_DEADLINE_NS,
    R_SOURCE,
    R_STREAM,
    R_STREAM_GENERATION,
    R_VERDICT,
    RECORD_COLUMNS,
    REQUEST_COLUMNS,
    SOURCE_NONE,
)
from tests.support.infer_wire import Reader, arena_of, request
from tests.support.peers import INFER, OTHER, PREFACE, data, headers, message, settings
from tests.support.peers import request as call

SLOT, ARRIVAL_NS = 1, 1_000
ASKED = [b"".join(request(count=count, named=f"id {count}")) for count in (1, 2, 3)]
PLAN = Reader().plan


def decoded():
    """Return the state after a connection's bytes, and these: a plain call, one in two frames, and some others."""
    session = PREFACE + settings() + call(1, ASKED[0])
    session += headers(3, [*INFER, (b"grpc-timeout", b"1u")])
    session += data(3, message(ASKED[1])[:40]) + data(3, message(ASKED[1])[40:], frames.END_STREAM)
    session += headers(5, OTHER) + data(5, message(ASKED[0]))
    session += headers(7, [*INFER, (b"grpc-encoding", b"gzip")]) + data(7, message(ASKED[0], 1), frames.END_STREAM)
    session += call(9, b"no request") + call(11, ASKED[2])
    state = layout.State(layout.Limits(connections=3, streams=12, blocks=3, block_bytes=1000, streams_per_connection=8))
    connection.open_connection(state.connections, state.shared, state.control, SLOT, 0)
    source = np.frombuffer(session, np.uint8).copy()
    arrays = (source, state.connections, state.streams, state.pool, state.events, state.control, state.headers)
    status, used, events, _, _ = http2.decode(*arrays, state.shared, SLOT, 0, source.size, ARRIVAL_NS)
    assert (status, used) == (layout.STATUS_HUNGRY, source.size)
    return state, source, events


def noted(state, count):
    records = np.zeros((count + 1, RECORD_COLUMNS), np.int64)
    end = note_requests(state.events, count, SLOT, records, 1)
    return records, end


def test_each_complete_call_of_model_infer_has_a_record_and_nothing_else_has():
    state, _, count = decoded()
    records, end = noted(state, count)
    found = records[1:end]
    assert len(found) == 5
    assert not records[0].any()
    assert state.streams[found[:, R_STREAM], layout.S_ID].tolist() == [1, 3, 7, 9, 11]
    told = state.events[:count][state.events[:count, layout.E_KIND] == layout.EVENT_REQUEST]
    assert found[:, R_STREAM_GENERATION].tolist() == told[:, layout.E_GENERATION].tolist()
    assert (found[:, R_CONNECTION] == SLOT).all()
    assert found[:2, R_DEADLINE_NS].tolist() == [layout.NO_DEADLINE, ARRIVAL_NS + 1_000]
    assert (found[:, R_VERDICT] == ORDINARY).all()


def test_records_without_room_are_our_mistake():
    events = np.zeros((4, layout.EVENT_COLUMNS), np.int64)
    records = np.zeros((3, RECORD_COLUMNS), np.int64)
    for count, at in ((4, 0), (3, 1), (1, -1), (5, 0)):
        with pytest.raises(AssertionError, match="bug"):
            note_requests(events, count, SLOT, records, at)


def test_a_compressed_message_lies_in_no_buffer_and_stays_ordinary():
    state, source, count = decoded()
    records, end = noted(state, count)
    buffer, pool = layout.SOURCE_BUFFER, layout.SOURCE_POOL
    assert records[1:end, R_SOURCE].tolist() == [buffer, pool, SOURCE_NONE, buffer, buffer]
    scanned(records, end, source, state.pool)
    assert records[1:end, R_VERDICT].tolist() == [ACCEPTED, ACCEPTED, ORDINARY, ORDINARY, ACCEPTED]


def scanned(records, end, source, pool):
    for number, buffer in ((layout.SOURCE_BUFFER, source), (layout.SOURCE_POOL, pool)):
        infer.scan_requests(buffer, number, records, 1, end, PLAN.numbers, PLAN.text)


def test_requests_of_a_connection_are_answered_out_of_one_batch():
    state, source, count = decoded()
    records, end = noted(state, count)
    scanned(records, end, source, state.pool)
    arena, (x, _) = arena_of(PLAN, 1, 64)
    batch, ids = np.zeros((8, REQUEST_COLUMNS), np.int64), np.zeros(8 * ID_BYTES_MAX, np.uint8)
    taken = (1, 0, 0, 0)
    groups = np.zeros(state.limits.streams, np.int64)
    for number, buffer in ((layout.SOURCE_BUFFER, source), (layout.SOURCE_POOL, state.pool)):
        _, row, at, _ = taken
        taken = rows.take_rows(
            buffer, number, records, 1, end, PLAN.numbers, 1, arena, row, 64, batch, at, ids, groups, 7
        )
    _, row, at, deadline_ns = taken
    assert deadline_ns == ARRIVAL_NS + 1_000
    assert (row, at) == (6, 3)
    assert sorted(np.flatnonzero(groups == 7)) == sorted(batch[:3, R_STREAM])
    assert sorted(batch[:3, R_STREAM]) == sorted(records[1:end, R_STREAM][[0, 1, 4]])
    outputs = [np.arange(row), x[:row, :2].copy()]
    for answer, (asked, first, rows_of) in zip(answered(batch, at, ids, outputs), taken_order(), strict=True):
        assert (answer.id, answer.model_version) == (f"id {asked}", "12")
        labels, scores = (
            np.frombuffer(raw, t) for raw, t in zip(answer.raw_output_contents, ("i8", "f4"), strict=True)
        )
        assert labels.tolist() == list(range(first, first + rows_of))
        sent = np.frombuffer(pb.ModelInferRequest.FromString(ASKED[asked - 1]).raw_input_contents[0], "f4")
        assert scores.tolist() == sent.reshape(-1, 3)[:, :2].ravel().tolist()


def taken_order():
    """Return (id, first row, rows) of the three requests: those of the read buffer, then the one put together."""
    return [(1, 0, 1), (3, 1, 3), (2, 4, 2)]


def answered(batch, count, ids, outputs):
    shapes = response.output_shapes(outputs, len(outputs[0]))
    out, answers = np.zeros(4096, np.uint8), np.zeros((count, response.ANSWER_COLUMNS), np.int64)
    needed = response.encode(
        *(batch, np.arange(count), ids, PLAN.numbers, PLAN.text, shapes, 0), *(out, 0, 0, 0, answers)
    )
    assert 0 < needed <= out.size
    for index, array in enumerate(outputs):
        contents = array.reshape(-1).view(np.uint8)
        assert response.fill(answers, count, index, shapes[index, response.D_ROW_BYTES], contents, out)
    spans = answers[:, [response.A_AT, response.A_LENGTH]].tolist()
    return [pb.ModelInferResponse.FromString(out[at + 5 : at + length].tobytes()) for at, length in spans]
