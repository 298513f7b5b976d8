"""The output of a connection by example, with h2's client as its reader."""

import struct

import numpy as np
import pytest

from serving.wire import answer_blocks, connection, frames, layout, settling
from serving.wire.outbox import DRAIN_PING, Outbox
from serving.wire.settling import settle_answers
from tests.support.answering import Session, batch, prefixed
from tests.support.peers import OTHER, SLOT, Peer, frame, request, settings, split_frames

OK = [(b"grpc-status", b"0")]
REFUSAL = answer_blocks.error(answer_blocks.RESOURCE_EXHAUSTED, "the queue of this model is full; retry later")


def kinds(chunk: bytes) -> list[tuple[int, int, int]]:
    """Return (stream id, kind, payload bytes) of each frame."""
    return [(stream_id, kind, len(payload)) for kind, _, stream_id, payload in split_frames(chunk)]


def written(session: Session, bytes_max: int = 2**30) -> bytes:
    before = len(session.written)
    session.flush(bytes_max)
    return session.written[before:]


# The common case


def test_small_answers_of_a_batch_are_one_stretch_of_bytes_that_was_never_copied():
    session = Session()
    contents = {session.call(): b"answer %d" % k for k in range(4)}
    session.settle(contents)
    chunk = written(session)
    assert len(chunk) == sum(
        len(prefixed(content)) + settling.BEFORE_BYTES + settling.AFTER_BYTES for content in contents.values()
    )
    for stream_id, content in contents.items():
        seen = session.seen[stream_id]
        assert (seen.body, seen.trailers, seen.ended, seen.reset) == (prefixed(content), OK, True, None)
    assert session.column(layout.C_STREAM_COUNT) == 0


def test_only_the_first_block_of_a_connection_sets_the_table_size():
    for first in ("answer", "refuse"):
        session = Session()
        session.do(first, session.call(), REFUSAL if first == "refuse" else prefixed(b""))
        session.settle({session.call(): b"second"})
        session.refuse_all([session.call()], REFUSAL)
        session.flush()
        blocks = [payload for kind, _, _, payload in split_frames(session.written) if kind == frames.HEADERS]
        assert len(blocks) > 3
        assert [block[:1] == b"\x20" for block in blocks] == [True] + [False] * (len(blocks) - 1)


def test_a_refusal_leaves_a_stream_alone_whose_answer_waits():
    session = Session(window=0)
    answered, waiting = session.call(), session.call()
    session.do("answer", answered, prefixed(b"answer"))
    session.refuse_all([answered, waiting], REFUSAL)
    session.flush()
    assert dict(session.seen[waiting].headers)[b"grpc-status"] == b"8"
    session.finish()
    seen = session.seen[answered]
    assert (seen.body, seen.trailers, seen.ended, seen.reset) == (prefixed(b"answer"), OK, True, None)
    assert session.column(layout.C_STREAM_COUNT) == 0


def test_an_answer_to_a_stream_that_was_reset_is_dropped_and_leaves_no_gap():
    session = Session()
    first, dead, last = (session.call() for _ in range(3))
    session.client.reset_stream(dead)
    session.talk()
    session.settle({first: b"first", dead: b"dropped", last: b"last"})
    chunk = written(session)
    assert {stream_id for stream_id, _, _ in kinds(chunk)} == {first, last}
    assert session.seen[last].body == prefixed(b"last")
    assert session.column(layout.C_STREAM_COUNT) == 0


def test_an_answer_is_never_delivered_to_the_next_owner_of_its_slot_and_stream():
    peer = Peer()
    peer.send(request(1))
    side = peer.sides[0]
    state = side.state
    requests, answers, out = batch(side, {1: b"secret"}, 0)
    connection.close_connection(state.connections, state.streams, state.shared, SLOT)
    connection.open_connection(state.connections, state.shared, state.control, SLOT, 0)
    side.tail = b""
    side.receive(connection.PREFACE.tobytes() + settings() + request(1), 0)
    assert side.rows[1][0] == requests[0, 2]  # the same slot, and the same id
    outbox = Outbox(state, SLOT)
    outbox.settle(requests, np.arange(1), answers, out, 0, 1)
    outbox.answer(side.rows[1][0], side.rows[1][1] - 1, prefixed(b"secret"))
    outbox.refuse(side.rows[1][0], side.rows[1][1] - 1, REFUSAL)
    assert outbox.flush(2**20) == (b"", False, False)
    assert state.connections[SLOT, layout.C_STREAM_COUNT] == 1


def test_an_answer_earns_control_frames():
    session = Session(control_frames=50)
    stream_id = session.call()
    for side in session.peer.sides:
        side.state.connections[SLOT, layout.C_BUDGET] = 3
    session.settle({stream_id: b"answer"})
    assert session.column(layout.C_BUDGET) > 3


@pytest.mark.parametrize("messages", [0, 1, 500])
def test_messages_pay_for_the_window_updates_that_return_them_and_for_little_more(messages):
    session = Session(control_frames=50)
    stream_id = session.call(OTHER, end=False)
    session.do("open", stream_id)
    for _ in range(messages):
        session.do("send", stream_id, prefixed(b"message"))
        session.flush()
    update, count = frame(frames.WINDOW_UPDATE, 0, stream_id, struct.pack(">I", 1)), 0
    while not session.peer.is_closed:
        session.peer.send(update)
        count += 1
    assert 2 * messages + 40 <= count <= 4 * messages + 51
    assert session.peer.refusals() == {"control_flood": 1}


def test_answers_without_gaps_are_our_mistake():
    session = Session()
    side = session.peer.sides[0]
    ids = [session.call(), session.call()]
    state = side.state
    for damage in (0, 1):
        requests, answers, out = batch(side, dict.fromkeys(ids, b"x"), 0)
        answers[1, 0] -= 1 - damage
        cut_off = out[: len(out) - 8 * damage].copy()
        with pytest.raises(AssertionError, match="bug: no gap"):
            settle_answers(
                *(requests, np.arange(2), answers, state.connections, state.streams, state.shared),
                *(cut_off, SLOT, 0, 2),
            )


def test_segments_of_a_batch_are_settled_as_one_by_one():
    ids, contents = [1, 3, 5, 7, 9], [b"a", bytes(300), b"ccc", b"", b"e" * 40]
    outcomes = []
    for together in (True, False):
        session = Session(window=100)  # so that the second answer has to wait
        assert [session.call() for _ in ids] == ids
        side = session.peer.sides[0]
        requests, answers, out = batch(side, dict(zip(ids, contents, strict=True)), 0)
        state, found = side.state, []
        arrays = (requests, np.arange(5), answers, state.connections, state.streams, state.shared, out)
        segments = np.zeros((4, settling.SEGMENT_COLUMNS), np.int64)
        segments[:, : settling.G_STOPPED] = [(SLOT, 0, 3), (-1, 3, 4), (SLOT, 3, 5), (-7, -7, -7)]
        if together:
            settling.settle_segments(*arrays, segments, 3)
            found = [tuple(row[settling.G_STOPPED :]) for row in segments[:3].tolist()]
        else:
            found = [settle_answers(*arrays, SLOT, 0, 3), (4, 0, 0), settle_answers(*arrays, SLOT, 3, 5)]
        assert found[0][0] == 1
        outcomes.append((found, [out[begin:end].tobytes() for _, begin, end in found], state.streams.tolist()))
    assert outcomes[0] == outcomes[1]


# Flow control


def test_an_answer_is_cut_at_the_largest_frame_that_the_peer_takes():
    session = Session(window=100_000)
    stream_id = session.call()
    session.settle({stream_id: bytes(40_000)})
    data = [length for _, kind, length in kinds(written(session)) if kind == frames.DATA]
    assert data == [16_384, 16_384, 7_237]
    assert session.seen[stream_id].trailers == OK


def test_an_answer_waits_for_the_window_of_its_stream_and_goes_on_where_it_stopped():
    session = Session(window=10)
    stream_id = session.call()
    session.settle({stream_id: bytes(range(100))})
    assert kinds(written(session)) == [(stream_id, frames.HEADERS, 20), (stream_id, frames.DATA, 10)]
    assert session.column(layout.C_UNSENT) == 95
    assert session.outboxes[0].is_waiting
    session.client.increment_flow_control_window(50, stream_id)
    assert layout.EVENT_WRITABLE in [event.kind for event in session.talk()]
    assert kinds(written(session)) == [(stream_id, frames.DATA, 50)]
    session.finish()
    assert session.seen[stream_id].body == prefixed(bytes(range(100)))
    assert not session.outboxes[0].is_waiting


def test_streams_take_turns_frame_by_frame_and_small_answers_do_not_wait_behind_large_ones():
    session = Session(window=2**20)
    large, larger, small = (session.call() for _ in range(3))
    session.do("answer", large, prefixed(bytes(30_000)))
    session.do("answer", larger, prefixed(bytes(40_000)))
    session.settle({small: b"small"})
    order = [(stream_id, kind) for stream_id, kind, _ in kinds(written(session)) if kind == frames.DATA]
    assert [stream_id for stream_id, _ in order] == [small, large, larger, large, larger, larger]
    session.finish()
    assert all(session.seen[stream_id].ended for stream_id in (large, larger, small))


def test_a_stream_whose_window_is_closed_does_not_hold_up_the_others():
    session = Session(window=0)
    stuck, free = session.call(), session.call()
    for stream_id in (stuck, free):
        session.do("answer", stream_id, prefixed(b"answer"))
    session.flush()
    session.client.increment_flow_control_window(100, free)
    session.talk()
    session.flush()
    assert (session.seen[free].ended, session.seen[stuck].ended) == (True, False)


def test_a_flush_writes_no_more_than_it_was_told_to():
    session = Session(window=2**20)
    session.do("answer", session.call(), prefixed(bytes(60_000)))
    assert session.flush(20_000)
    assert session.column(layout.C_UNSENT) == 40_005
    assert not session.flush(50_000)
    assert session.column(layout.C_UNSENT) == 0


def test_acknowledged_smaller_windows_follow_the_data_of_larger_ones():
    session = Session(window=1000)
    stream_id = session.call()
    session.settle({stream_id: bytes(900)})
    session.client.update_settings({4: 10})
    session.talk()
    assert session.seen[stream_id].ended


# Bounds


def test_beyond_the_bound_answers_are_errors_and_new_streams_refused():
    session = Session(window=0, unsent_bytes=1000, unsent_bytes_in_all=1000)
    kept, failed = session.call(), session.call()
    session.do("answer", kept, prefixed(bytes(5000)))
    session.do("answer", failed, prefixed(b"small"))
    session.flush()
    assert session.outboxes[0].is_full
    assert dict(session.seen[failed].headers)[b"grpc-status"] == b"8"
    refused = session.call()
    assert session.seen[refused].reset == frames.REFUSED_STREAM
    session.finish()
    assert session.seen[kept].body == prefixed(bytes(5000))
    session.do("answer", session.call(), prefixed(b""))
    session.flush()


def test_what_was_asked_before_the_bound_was_reached_is_answered_while_there_is_memory_for_it():
    session = Session(window=0, unsent_bytes=1000)
    ids = [session.call() for _ in range(4)]
    for stream_id in ids:
        session.do("answer", stream_id, prefixed(bytes(5000)))
    session.flush()
    refused = session.call()
    assert session.seen[refused].reset == frames.REFUSED_STREAM
    session.finish()
    assert [session.seen[stream_id].body for stream_id in ids] == [prefixed(bytes(5000))] * 4


def test_an_answer_that_becomes_an_error_is_told_and_counted_and_one_for_nobody_is_not():
    session = Session(window=0, unsent_bytes=1000, unsent_bytes_in_all=1000)
    large, small, settled, dead = (session.call() for _ in range(4))
    session.client.reset_stream(dead)
    session.talk()
    for side, outbox in zip(session.peer.sides, session.outboxes, strict=True):
        assert outbox.answer(*side.rows[large], prefixed(bytes(5000)))
        assert not outbox.answer(*side.rows[small], prefixed(b"small"))
        assert outbox.answer(*side.rows[dead], prefixed(b"for nobody"))
        requests, answers, out = batch(side, {settled: b"small"}, 0)
        assert outbox.settle(requests, np.arange(1), answers, out, 0, 1) == 1
        assert side.state.shared[layout.H_COUNTS + layout.REFUSED_TOO_MUCH_UNSENT] == 2
    session.finish()
    assert [dict(session.seen[k].headers)[b"grpc-status"] for k in (small, settled)] == [b"8"] * 2


@pytest.mark.parametrize("is_paused", [False, True])
def test_answers_that_the_windows_let_through_do_not_count_unless_the_socket_takes_nothing(is_paused):
    session = Session(unsent_bytes=1000, unsent_bytes_in_all=1000)
    ids = [session.call() for _ in range(3)]
    for outbox in session.outboxes:
        outbox.is_paused = is_paused
    for stream_id in ids:
        session.do("answer", stream_id, prefixed(bytes(20_000)))
    session.flush()
    bodies = [len(session.seen[stream_id].body) for stream_id in ids]
    assert bodies == ([20_005, 0, 0] if is_paused else [20_005] * 3)
    assert all(session.seen[stream_id].ended for stream_id in ids)


def test_a_peer_that_leaves_the_last_bytes_of_large_answers_does_not_keep_them_in_memory():
    session = Session(window=50_000)
    ids = [session.call() for _ in range(3)]
    for stream_id in ids:
        session.do("answer", stream_id, prefixed(bytes(50_000)))
        session.client.increment_flow_control_window(50_000)
        session.talk()
        session.flush()
    held = [piece.obj for answer in session.outboxes[0]._answers.values() for piece in answer.pieces]
    assert session.column(layout.C_UNSENT) == 5 * len(ids)
    assert sum(len(chunk) for chunk in held) <= 2 * 5 * len(ids)
    session.finish()
    assert all(session.seen[stream_id].body == prefixed(bytes(50_000)) for stream_id in ids)


def test_what_a_reset_stream_had_unsent_is_dropped_and_its_row_released():
    session = Session(window=0)
    stream_id = session.call()
    session.do("answer", stream_id, prefixed(bytes(500)))
    session.flush()
    session.client.reset_stream(stream_id)
    session.talk()
    assert session.column(layout.C_STREAM_COUNT) == 1
    assert written(session) == b""
    assert (session.column(layout.C_STREAM_COUNT), session.column(layout.C_UNSENT)) == (0, 0)


def test_the_row_of_a_streaming_call_that_was_reset_is_kept_until_its_handler_is_done():
    session = Session(window=0)
    stream_id = session.call(OTHER)
    session.do("open", stream_id)
    session.do("send", stream_id, prefixed(bytes(500)))
    session.client.reset_stream(stream_id)
    session.talk()
    session.flush()
    assert (session.column(layout.C_STREAM_COUNT), session.column(layout.C_UNSENT)) == (1, 0)
    session.do("send", stream_id, prefixed(b"for nobody"))
    session.do("finish", stream_id, answer_blocks.trailers(0))
    assert session.column(layout.C_STREAM_COUNT) == 0


def test_a_closed_connection_is_written_nothing_more():
    session = Session()
    first, second = session.call(), session.call()
    session.peer.send(frame(frames.DATA, 0, 0, b"broken"))
    session.settle({first: b"x"})
    session.do("answer", second, prefixed(b"x"))
    assert written(session) == b""


# Calls beside ModelInfer, and errors


def test_a_streaming_call_gets_its_messages_as_they_come_and_then_its_trailers():
    session = Session()
    stream_id = session.call(OTHER, end=False)
    session.do("open", stream_id)
    for content in (b"one", b"two"):
        session.do("send", stream_id, prefixed(content))
        session.flush()
    assert session.seen[stream_id].body == prefixed(b"one") + prefixed(b"two")
    session.client.end_stream(stream_id)
    session.talk()
    session.do("finish", stream_id, answer_blocks.trailers(13, "broke"))
    session.flush()
    seen = session.seen[stream_id]
    assert (seen.trailers, seen.reset) == ([(b"grpc-status", b"13"), (b"grpc-message", b"broke")], None)


@pytest.mark.parametrize("window", [0, 1000])
def test_an_answer_before_the_peer_has_ended_is_followed_by_a_reset_without_error(window):
    session = Session(window=window)
    answered, refused = session.call(OTHER, end=False), session.call(OTHER, end=False)
    session.do("answer", answered, prefixed(b"early"))
    session.refuse_all([refused], REFUSAL)
    session.flush()
    session.finish()
    for stream_id in (answered, refused):
        assert session.seen[stream_id].ended
        assert session.seen[stream_id].reset == frames.NO_ERROR


def test_a_failed_call_is_answered_by_its_block():
    session = Session()
    fields = [field if field[0] != b"content-type" else (field[0], b"text/plain") for field in OTHER]
    stream_id = session.call(fields, end=False)
    session.do("refuse", stream_id, answer_blocks.FAILURES[layout.FAIL_CONTENT_TYPE])
    session.flush()
    assert session.seen[stream_id].headers == [(b":status", b"415"), (b"accept", b"application/grpc")]
    assert session.seen[stream_id].reset == frames.NO_ERROR


def test_a_long_header_block_goes_on_in_continuations():
    session = Session()
    stream_id = session.call()
    session.client.decoder.max_header_list_size = 2**20
    metadata = [(b"x-%d" % k, b"v" * 9000) for k in range(5)]
    session.do("refuse", stream_id, answer_blocks.error(3, "long", metadata))
    assert [kind for _, kind, _ in kinds(written(session))] == [frames.HEADERS] + [frames.CONTINUATION] * 2
    assert session.seen[stream_id].headers[-5:] == metadata


def test_an_answer_in_pieces_is_written_as_one_and_never_joined_before():
    session = Session(window=100_000)
    stream_id = session.call()
    tensor = np.arange(7000, dtype=np.float32)
    pieces = [prefixed(bytes(4 + tensor.nbytes))[:9], memoryview(tensor).toreadonly(), b"", memoryview(b"")]
    session.do("answer", stream_id, pieces)
    held = session.outboxes[0]._answers[session.peer.sides[0].rows[stream_id][0]].pieces
    assert [piece.obj for piece in held] == [pieces[0], tensor]
    session.flush()
    assert session.seen[stream_id].body == pieces[0] + tensor.tobytes()
    assert session.seen[stream_id].trailers == OK


def test_pieces_that_hold_nothing_are_no_data():
    session = Session()
    stream_id = session.call(OTHER)
    session.do("open", stream_id)
    for nothing in ([], b"", [b"", b""]):
        session.do("send", stream_id, nothing)
    assert session.column(layout.C_QUEUE_FIRST) == -1
    session.do("finish", stream_id, answer_blocks.trailers(0))
    session.flush()
    assert session.seen[stream_id].body == b""


def test_an_outbox_is_ready_when_something_is_to_be_written_whatever_the_windows_are():
    session = Session(window=0)
    session.flush()
    (outbox, _) = session.outboxes
    assert not outbox.is_ready
    outbox.write(b"")
    assert not outbox.is_ready
    session.do("answer", session.call(), prefixed(b"late"))
    assert outbox.is_ready
    session.flush()
    assert (outbox.is_ready, outbox.is_waiting) == (False, True)


def test_a_flush_without_unsent_data_counts_no_windows(monkeypatch):
    session = Session(window=100)
    session.do("open", session.call(OTHER))
    session.settle({session.call(): b"small"})
    monkeypatch.setattr("serving.wire.outbox.cut", None)
    session.flush()
    session.do("answer", session.call(), prefixed(b"queued"))
    with pytest.raises(TypeError):
        session.outboxes[0].flush(100)


# Back-pressure: a call whose handler does not keep up


def test_a_paused_call_gets_its_window_back_when_it_goes_on():
    session = Session(stream_window_bytes=1000)
    stream_id, other = session.call(OTHER, end=False), session.call(OTHER, end=False)
    session.do("pause", stream_id)
    for call in (stream_id, other):
        session.client.send_data(call, prefixed(bytes(800)))
    session.talk()
    assert session.client.local_flow_control_window(stream_id) < 200
    assert session.client.local_flow_control_window(other) == 1000
    session.do("resume", stream_id)
    session.flush()
    assert session.client.local_flow_control_window(stream_id) == 1000
    for _ in range(2):
        session.client.send_data(stream_id, prefixed(bytes(800)))
        session.talk()
        assert session.client.local_flow_control_window(stream_id) == 1000


def test_going_on_gives_nothing_back_that_is_not_owed():
    session = Session(stream_window_bytes=1000)
    ended, little, dead = session.call(OTHER), session.call(OTHER, end=False), session.call(OTHER, end=False)
    used = session.call(OTHER, content=bytes(900))
    session.client.reset_stream(dead)
    session.talk()
    session.flush()
    for stream_id in (ended, little, dead, used):
        session.do("resume", stream_id)
        session.do("pause", stream_id)
        session.do("resume", stream_id)
    assert written(session) == b""


# Drain


def test_a_drain_answers_what_is_in_flight_and_ignores_what_comes_after():
    peer = Peer()  # h2 takes a GOAWAY for the end of the connection, so nobody reads along here
    peer.send(request(1))
    outboxes = [Outbox(side.state, SLOT) for side in peer.sides]
    for outbox in outboxes:
        outbox.begin_drain()
    (goaway, ping) = split_frames(read(outboxes))
    assert goaway == (frames.GOAWAY, 0, 0, struct.pack(">II", 2**31 - 1, frames.NO_ERROR))
    peer.send(request(3))
    (event,) = peer.send(frame(frames.PING, frames.ACK, 0, ping[3]))
    assert (event.kind, event.detail) == (layout.EVENT_PONG, DRAIN_PING)
    for outbox in outboxes:
        outbox.end_drain()
    assert peer.send(request(5)) == []
    for side, outbox in zip(peer.sides, outboxes, strict=True):
        for stream_id in (1, 3):
            outbox.answer(*side.rows[stream_id], prefixed(b"answer"))
    last, *answers = split_frames(read(outboxes))
    assert last == (frames.GOAWAY, 0, 0, struct.pack(">II", 3, frames.NO_ERROR))
    assert {stream_id for _, _, stream_id, _ in answers} == {1, 3}
    assert peer.column(layout.C_STREAM_COUNT) == 0


def read(outboxes: list[Outbox]) -> bytes:
    first, second = (outbox.flush(2**20)[0] for outbox in outboxes)
    assert first == second
    return first
