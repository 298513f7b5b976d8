"""What goes wrong around requests that the kernels have decoded: bounds, deadlines, reloads, drains, lost peers."""

import re

import numpy as np
import pytest

from serving.config import BatchingConfig, ModelConfig
from serving.errors import Code
from serving.pb import open_inference_pb2 as pb
from serving.repository.handle import Handle
from serving.transport.calls import SERVICE
from serving.transport.native import answers, intake
from serving.transport.native.answers import Answers
from serving.transport.status import RETRY_PUSHBACK
from serving.types import DYNAMIC, Datatype, Signature, TensorSpec
from serving.wire import frames
from tests.support import peers
from tests.support.sessions import FakeSession, affine
from tests.support.wired import WIDE_OPEN, FakePeer, ThreadlessServable, Wired, message

OK, INVALID, DEADLINE, EXHAUSTED, INTERNAL, UNAVAILABLE = 0, 3, 4, 8, 13, 14
STREAM_INFER = [*peers.INFER[:2], (b":path", f"/{SERVICE}/ModelStreamInfer".encode()), *peers.INFER[3:]]
BAD = -1.0


def config(**batching):
    return ModelConfig(batching=BatchingConfig(**{"batch_rows_max": 4, "queue_rows_max": 8, **batching}))


def affine_or_fail(x):
    if (x == BAD).any():
        raise RuntimeError("one row is bad")
    return affine(x)


@pytest.fixture
def wired():
    return Wired(config(), FakeSession(affine_or_fail))


def statuses(peer, stream_ids):
    heard = peer.read()
    return [heard[stream_id].status if stream_id in heard else None for stream_id in stream_ids]


def check_answer(heard, rows, value):
    assert heard.status == OK
    np.testing.assert_array_equal(heard.rows, np.full((rows, 4), 2 * value + 1, np.float32))


# ---- bounds --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bounds", [{"queue_rows_max": 12}, {"queue_rows_max": 99, "queue_bytes_max": 250}])
def test_a_full_queue_refuses_both_kinds_by_the_same_words(bounds):
    wired = Wired(config(**bounds))
    peer = wired.connect()
    first = peer.ask(*[message(3)] * 4)
    wired.loop.run()
    refused = [*peer.ask(message(4)), *peer.ask(message(4, id="i" * 65))]
    wired.loop.run()
    compiled, ordinary = (peer.read()[stream_id] for stream_id in refused)
    assert compiled.status == ordinary.status == EXHAUSTED
    pushback = RETRY_PUSHBACK.encode()
    assert compiled.fields[pushback] == ordinary.fields[pushback]
    words = [re.sub(r"\d+ bytes; try", "N bytes; try", heard.message) for heard in (compiled, ordinary)]
    assert words[0] == words[1]
    assert f"{list(bounds)[-1]} = " in words[0]
    wired.servable.run_all()
    wired.loop.run()
    assert statuses(peer, first) == [OK] * 4
    peer.close()
    wired.check_that_nothing_is_held()


def test_requests_of_one_read_fill_the_queue_and_only_the_excess_is_refused(wired):
    peer = wired.connect()
    asked = peer.ask(*[message(rows) for rows in (4, 3, 2, 1, 1)])
    wired.loop.run()
    assert statuses(peer, asked) == [None, None, EXHAUSTED, None, EXHAUSTED]
    wired.servable.run_all()
    wired.loop.run()
    assert statuses(peer, asked) == [OK, OK, EXHAUSTED, OK, EXHAUSTED]


def test_ordinary_and_compiled_requests_of_one_turn_share_the_queue(wired):
    peers_ = [wired.connect(), wired.connect()]
    compiled = peers_[0].ask(message(3), message(3))
    ordinary = peers_[1].ask(message(2, typed=True), message(1, typed=True))
    wired.loop.run()
    assert statuses(peers_[0], compiled) == [None, None]
    assert statuses(peers_[1], ordinary) == [None, EXHAUSTED]
    assert wired.servable.batcher.queued_rows == 8


def test_exactly_the_excess_over_requests_in_flight_max_is_refused():
    wired = Wired(config(), requests_in_flight_max=3)
    peer = wired.connect()
    asked = peer.ask(*[message()] * 5)
    wired.loop.run()
    assert statuses(peer, asked) == [None, None, None, EXHAUSTED, EXHAUSTED]
    assert wired.admission.in_flight == 3
    refused = peer.read()[asked[4]]
    (ordinary,) = peer.ask(message(typed=True))
    wired.loop.run()
    assert (refused.message, refused.fields) == (peer.read()[ordinary].message, peer.read()[ordinary].fields)
    wired.servable.run_all()
    wired.loop.run()
    assert statuses(peer, asked) == [OK, OK, OK, EXHAUSTED, EXHAUSTED]
    assert wired.counters.outcomes.total() == 6
    peer.close()
    wired.check_that_nothing_is_held()


def test_a_request_that_can_never_fit_is_told_so():
    wired = Wired(config(queue_bytes_max=50))
    peer = wired.connect()
    (asked,) = peer.ask(message(4))
    wired.loop.run()
    heard = peer.read()[asked]
    assert heard.status == INVALID
    assert "send fewer rows at a time" in heard.message


def test_the_excess_of_a_read_is_refused_in_one_go(wired, monkeypatch):
    peer = wired.connect()
    asked = peer.ask(message(4), message(4))
    wired.loop.run()
    refusals = []
    intake = wired.intake
    refuse = intake._refuse_records
    monkeypatch.setattr(intake, "_refuse_records", lambda *given: refusals.append(len(given[2])) or refuse(*given))
    asked = peer.ask(*[message(1)] * 20, *[message(2)] * 3, message(1))
    wired.loop.run()
    assert statuses(peer, asked) == [EXHAUSTED] * 24
    assert refusals == [20, 3, 1]


# ---- deadlines -----------------------------------------------------------------------------------------------------


def test_a_deadline_that_passes_in_the_queue_is_answered_at_once_and_costs_no_run(wired):
    peer = wired.connect()
    late = peer.ask(message(1), message(2), timeout=b"50u")
    timely = peer.ask(message(1, 5.0))
    later = peer.ask(message(1), timeout=b"80u")
    wired.loop.run()
    wired.clock.advance(50_000)
    wired.loop.run()
    assert statuses(peer, [*late, *timely, *later]) == [DEADLINE, DEADLINE, None, None]
    assert wired.servable.batcher.queued_rows == 2
    wired.clock.advance(30_000)
    wired.loop.run()
    assert statuses(peer, later) == [DEADLINE]
    wired.servable.run_all()
    wired.loop.run()
    check_answer(peer.read()[timely[0]], 1, 5.0)
    assert wired.servable._session.runs == [1]
    peer.close()
    wired.check_that_nothing_is_held()


def test_a_deadline_that_passes_in_a_run_is_told_and_batchmates_keep_their_answers(wired):
    peer = wired.connect()
    late, timely = peer.ask(message(2), timeout=b"50u") + peer.ask(message(1, 5.0))
    wired.loop.run()
    batch = wired.servable.batcher.take_now(4)
    wired.clock.advance(50_000)
    wired.servable.finish(batch)
    wired.loop.run()
    assert statuses(peer, [late]) == [DEADLINE]
    check_answer(peer.read()[timely], 1, 5.0)


def test_requests_that_die_and_expire_in_one_group_all_leave_it(wired):
    peer = wired.connect()
    dead, late, alive = [*peer.ask(message()), *peer.ask(message(), timeout=b"50u"), *peer.ask(message(1, 5.0))]
    gone = peer.ask(message())
    wired.loop.run()
    peer.cancel(dead)
    peer.cancel(gone[0])
    wired.clock.advance(50_000)
    wired.loop.run()
    assert statuses(peer, [late]) == [DEADLINE]
    wired.servable.run_all()
    wired.loop.run()
    check_answer(peer.read()[alive], 1, 5.0)
    peer.close()
    wired.check_that_nothing_is_held()


# ---- reloads -------------------------------------------------------------------------------------------------------


def replace(wired, scale):
    """Put another servable in place of the one that serves, as a reload does; return the old one's list of ends."""
    ends = []
    old = wired.handle
    wired.servable = ThreadlessServable(FakeSession(lambda x: [scale * x]), wired.clock, config(), version=2)
    wired.handle = Handle(wired.servable)
    wired.transport.follow([wired.handle])
    old.retire(lambda: ends.append(1))
    return old.servable, ends


def test_a_model_reloaded_between_read_and_turn_answers_what_was_read_before(wired):
    peer = wired.connect()
    before = peer.ask(message(2, 5.0))
    old, ends = replace(wired, 10.0)
    after = peer.ask(message(1, 5.0))
    wired.loop.run()
    assert ends == []
    for servable in (old, wired.servable):
        servable.run_all()
    wired.loop.run()
    check_answer(peer.read()[before[0]], 2, 5.0)
    assert peer.read()[after[0]].rows.tolist() == [[50.0] * 4]
    assert ends == [1]
    peer.close()
    wired.check_that_nothing_is_held()


def test_a_model_unloaded_while_requests_wait_ends_behind_them(wired):
    peer = wired.connect()
    compiled, ordinary = peer.ask(message(1, 5.0)), peer.ask(message(1, 6.0, typed=True))
    wired.loop.run()
    ends = []
    wired.handle.retire(lambda: ends.append(1))
    (told,) = peer.ask(message())  # the transport has not heard yet
    wired.loop.run()
    wired.transport.follow([])
    assert ends == []
    assert peer.read()[told].status is not None
    assert peer.read()[told].status != OK
    wired.servable.run_all()
    wired.loop.run()
    check_answer(peer.read()[compiled[0]], 1, 5.0)
    check_answer(peer.read()[ordinary[0]], 1, 6.0)
    assert ends == [1]
    peer.close()
    wired.check_that_nothing_is_held()


def test_requests_that_die_or_expire_while_they_run_are_counted_as_on_the_ordinary_path():
    counted = []
    for typed in (False, True):
        wired = Wired(config(), FakeSession(affine))
        peer = wired.connect()
        stays = peer.ask(message(typed=typed))
        expires = peer.ask(message(typed=typed), timeout=b"5S")
        dies = peer.ask(message(typed=typed))
        wired.loop.run()
        batch = wired.servable.batcher.take_now(4)
        peer.send(peers.frame(frames.RST_STREAM, 0, dies[0], (8).to_bytes(4, "big")))
        wired.loop.run()
        wired.clock.advance(5_000_000_000)
        wired.loop.run()
        wired.servable.finish(batch)
        wired.loop.run()
        assert statuses(peer, [*stays, *expires]) == [OK, DEADLINE]
        statistics = wired.servable.statistics
        outcomes = sorted((key[2], count) for key, count in wired.counters.outcomes.items())
        counted.append(
            (outcomes, statistics.stages["request"].count, statistics.fail.count, statistics.inference_count)
        )
        peer.close()
        wired.check_that_nothing_is_held()
    assert counted[0] == counted[1]
    assert counted[0][1:] == (1, 2, 1)


# ---- what serves ---------------------------------------------------------------------------------------------------

VOLUME = Signature(
    (TensorSpec("volume", Datatype.FP32, (DYNAMIC, 1024, 1024, 150)),),
    (TensorSpec("y", Datatype.FP32, (DYNAMIC, 1)),),
    batchable=True,
)


def other_servable(wired, name, session):
    servable = ThreadlessServable(session, wired.clock, config())
    servable.name = name
    return servable


def check_that_models_answer_for_themselves(wired, other):
    peer = wired.connect()
    (asked,) = peer.ask(message(1, 3.0))
    wired.loop.run()
    wired.servable.run_all()
    other.run_all()
    wired.loop.run()
    heard = peer.read()[asked]
    assert pb.ModelInferResponse.FromString(heard.body[5:]).model_name == "m"
    check_answer(heard, 1, 3.0)


def test_a_model_whose_rows_no_message_holds_has_no_arena(wired):
    other = other_servable(wired, "n", FakeSession(lambda x: [-1000 * x]))
    volume = other_servable(wired, "a", FakeSession(affine, VOLUME))
    wired.transport.follow([Handle(volume), wired.handle, Handle(other)])
    assert [door is None for door in wired.intake._doors] == [True, False, False]
    check_that_models_answer_for_themselves(wired, other)


def test_a_model_for_whose_arena_there_is_no_memory_is_served_on_the_ordinary_path(wired, monkeypatch, caplog):
    def no_memory(signature, rows):
        raise MemoryError

    other = other_servable(wired, "n", FakeSession(lambda x: [-1000 * x]))
    monkeypatch.setattr(intake, "Place", no_memory)
    wired.transport.follow([Handle(other), wired.handle])
    assert [door is None for door in wired.intake._doors] == [True, False]
    assert "no memory for its arena" in caplog.text
    check_that_models_answer_for_themselves(wired, other)


def test_a_mistake_while_models_are_followed_leaves_those_of_before(wired, monkeypatch):
    def mistake(models):
        raise ZeroDivisionError

    other = other_servable(wired, "n", FakeSession(lambda x: [-1000 * x]))
    wired.transport.follow([wired.handle, Handle(other)])
    monkeypatch.setattr(intake, "build", mistake)
    with pytest.raises(ZeroDivisionError):
        wired.transport.follow([Handle(other), wired.handle])
    check_that_models_answer_for_themselves(wired, other)


def test_a_mistake_with_one_servable_does_not_strand_the_requests_of_others(wired, monkeypatch, caplog):
    other = other_servable(wired, "n", FakeSession(affine))
    wired.transport.follow([wired.handle, Handle(other)])
    submit = wired.intake._submit

    def submit_others(door):
        if door.handle is wired.handle:
            raise ZeroDivisionError
        submit(door)

    monkeypatch.setattr(wired.intake, "_submit", submit_others)
    peer = wired.connect()
    _, asked = peer.ask(message(), message(name="n"))
    wired.loop.run()
    other.run_all()
    wired.loop.run()
    assert statuses(peer, [asked]) == [OK]
    assert "could not be submitted" in caplog.text


# ---- the ring ------------------------------------------------------------------------------------------------------


def test_the_ring_goes_round_under_sustained_load(wired):
    """A batch always runs while the next requests are read, so the ring is never empty and has to go round."""
    random, peer, begins, asked = np.random.default_rng(3), wired.connect(), [], {}
    running = None
    for _ in range(150):
        for rows in [(4,), (1, 3), (3, 1), (2, 2), (1, 1, 2)][random.integers(5)]:
            value = float(len(asked))
            (stream_id,) = peer.ask(message(rows, value))
            asked[stream_id] = rows, value
        wired.loop.run()
        begins += [lease.begin for lease in wired.arena._leases]
        taken = wired.servable.batcher.take_now(4)
        if running is not None:
            wired.servable.finish(running)
        running = taken
    wired.servable.finish(running)
    wired.servable.run_all()
    wired.loop.run()
    assert max(begins) + 4 > wired.arena.capacity - 4
    assert begins.count(0) > 5
    heard = peer.read()
    for stream_id, (rows, value) in asked.items():
        check_answer(heard[stream_id], rows, value)
    peer.close()
    wired.check_that_nothing_is_held()


# ---- failing batches -----------------------------------------------------------------------------------------------


def test_a_failing_request_takes_no_batchmate_of_either_kind_with_it(wired):
    peer = wired.connect()
    values = [1.0, BAD, 3.0, 4.0]
    asked = [peer.ask(message(1, value, typed=k % 2 == 1))[0] for k, value in enumerate(values)]
    wired.loop.run()
    wired.servable.run_all()
    wired.loop.run()
    for stream_id, value in zip(asked, values, strict=True):
        heard = peer.read()[stream_id]
        if value == BAD:
            assert (heard.status, heard.message) == (INTERNAL, "model 'm' failed to compute this request")
        else:
            check_answer(heard, 1, value)
    peer.close()
    wired.check_that_nothing_is_held()


def test_an_answer_that_cannot_be_made_is_an_error_and_nothing_is_held(wired, caplog):
    peer = wired.connect()
    asked = peer.ask(message(), message())
    wired.loop.run()
    batch = wired.servable.batcher.take_now(4)
    wired.servable._compute(batch, wired.servable._inline_workplace)
    batch.entries[0].outputs = [None]
    wired.servable._settle(batch)
    wired.loop.run()
    assert statuses(peer, asked) == [INTERNAL, INTERNAL]
    assert "a group could not be answered" in caplog.text
    peer.close()
    wired.check_that_nothing_is_held()


def without_windows(wired):
    """A connection whose answers all wait until it sends `OPEN`."""
    peer = FakePeer(wired)
    peer.send(peers.PREFACE + peers.settings((4, 0)) + peers.frame(frames.SETTINGS, frames.ACK, 0) + WIDE_OPEN)
    return peer


OPEN = peers.settings((4, 2**20))


def test_an_error_for_the_rest_of_a_group_leaves_answers_alone_that_wait_for_a_window(wired, monkeypatch, caplog):
    peer = without_windows(wired)
    asked = peer.ask(message(1, 5.0), message(2))
    wired.loop.run()
    encoders = iter([answers.encode_answer])

    def encode_once(answer):
        return next(encoders)(answer)

    monkeypatch.setattr(answers, "LARGE_ANSWER_BYTES", 0)
    monkeypatch.setattr(answers, "encode_answer", encode_once)
    wired.servable.run_all()
    wired.loop.run()
    assert statuses(peer, asked) == [None, INTERNAL]
    peer.send(OPEN)
    wired.loop.run()
    check_answer(peer.read()[asked[0]], 1, 5.0)
    assert "a group could not be answered" in caplog.text
    peer.close()
    wired.check_that_nothing_is_held()


def test_a_group_that_cannot_even_be_refused_lets_its_requests_out(wired, monkeypatch, caplog):
    peer = wired.connect()
    peer.ask(message(), message())
    wired.loop.run()

    def fail(error):
        raise RuntimeError(f"no block for {error}")

    monkeypatch.setattr(answers, "error_block", fail)
    monkeypatch.setattr(Answers, "_encode", lambda *_, **__: False)
    wired.servable.run_all()
    assert "a request could not be settled" in caplog.text
    peer.close()
    wired.check_that_nothing_is_held()


@pytest.mark.parametrize("are_large", [False, True])
def test_answers_that_become_errors_because_too_much_waits_are_counted_as_errors(monkeypatch, are_large):
    if are_large:
        monkeypatch.setattr(answers, "LARGE_ANSWER_BYTES", 0)
    wired = Wired(
        config(batch_rows_max=1024, queue_rows_max=10_000), unsent_bytes_max=65_536, assembly_bytes_max=65_536
    )
    peer = without_windows(wired)
    asked = peer.ask(*[message(128, 5.0)] * 40)  # of 2 KiB each
    wired.loop.run()
    wired.servable.run_all()
    wired.loop.run()
    found = statuses(peer, asked)
    refused = found.count(EXHAUSTED)
    assert 0 < refused == 40 - found.count(None)
    assert wired.counters.outcomes["m", "1", Code.RESOURCE_EXHAUSTED, "overloaded"] == refused
    assert wired.counters.outcomes["m", "1", Code.OK, ""] == 40 - refused
    assert wired.transport.refusals()["too_much_unsent"] == refused
    peer.send(OPEN)
    wired.loop.run()
    assert statuses(peer, asked).count(OK) == 40 - refused
    peer.close()
    wired.check_that_nothing_is_held()


# ---- the drain -----------------------------------------------------------------------------------------------------


def test_a_drain_answers_what_is_in_flight_and_turns_away_what_comes(wired):
    peer, idle = wired.connect(), []
    in_flight = [*peer.ask(message(1, 5.0)), *peer.ask(message(1, 6.0, typed=True))]
    wired.loop.run()
    wired.admission.drain(lambda: idle.append(1))
    wired.transport.begin_drain()
    late = [*peer.ask(message()), *peer.ask(message(typed=True))]
    wired.loop.run()
    newcomer = wired.connect()
    turned_away = [*newcomer.ask(message()), *newcomer.ask(message(typed=True))]
    wired.loop.run()
    assert peer.goaways == []
    assert statuses(peer, late) == [UNAVAILABLE] * 2
    assert statuses(newcomer, turned_away) == [UNAVAILABLE] * 2
    assert peer.goaways == [2**31 - 1]
    peer.send(peers.frame(frames.PING, frames.ACK, 0, b"draining"))
    wired.loop.run()
    peer.read()
    assert peer.goaways == [2**31 - 1, late[-1]]
    assert not peer.is_over
    wired.servable.run_all()
    wired.loop.run()
    for stream_id, value in zip(in_flight, (5.0, 6.0), strict=True):
        check_answer(peer.read()[stream_id], 1, value)
    assert (idle, peer.is_over) == ([1], True)


# ---- lost peers ----------------------------------------------------------------------------------------------------


def streamed(*messages):
    return b"".join(peers.message(content) for content in messages)


def test_a_connection_that_closes_with_calls_of_every_kind_leaves_nothing_behind(wired):
    peer, stays = wired.connect(), wired.connect()
    peer.ask(message(1))
    wired.loop.run()
    running = [wired.servable.batcher.take_now(1)]
    peer.ask(message(1, typed=True))
    wired.loop.run()
    running.append(wired.servable.batcher.take_now(1))  # one of each kind runs
    peer.ask(message(1))
    peer.ask(message(1, typed=True))
    (kept,) = stays.ask(message(1, 5.0))
    wired.loop.run()  # one of each kind waits
    stream_id, _ = peer.request(b"")
    peer.send(peers.headers(stream_id, STREAM_INFER) + peers.data(stream_id, streamed(message(1), message(1))))
    wired.loop.run()  # a stream has requests in flight
    unanswered_bytes = wired.core.held_bytes  # the message of the call that waits on the ordinary path
    stream_id, _ = peer.request(b"")
    peer.send(peers.headers(stream_id) + peers.data(stream_id, b"\0\0\x04\0\0" + bytes(16_000)))
    stream_id, _ = peer.request(b"")
    peer.send(peers.headers(stream_id) + peers.data(stream_id, b"\0\0\0\x10\0" + bytes(500)))
    assert wired.core.held_bytes == unanswered_bytes + 16_000  # of the long incomplete one; the short is in a block
    peer.ask(message(1), message(1, typed=True))  # one of each kind is read, and no turn has run
    _, chunk = peer.request(message(1))
    peer.send(chunk[:-5])  # a frame is incomplete
    peer.close()
    assert wired.servable.batcher.queued_rows == 1
    for batch in running:
        wired.servable.finish(batch)
    wired.servable.run_all()
    wired.loop.run()
    check_answer(stays.read()[kept], 1, 5.0)
    stays.close()
    wired.check_that_nothing_is_held()


def test_the_next_owner_of_a_connection_gets_none_of_the_last_ones_answers(wired):
    peer = wired.connect()
    peer.ask(message(1, 5.0))
    wired.loop.run()
    batch = wired.servable.batcher.take_now(4)
    peer.close()
    heir = wired.connect()
    assert heir.connection.slot == peer.connection.slot
    (asked,) = heir.ask(message(2, 6.0))
    wired.loop.run()
    wired.servable.finish(batch)
    wired.loop.run()
    assert statuses(heir, [asked]) == [None]
    wired.servable.run_all()
    wired.loop.run()
    check_answer(heir.read()[asked], 2, 6.0)
    heir.close()
    wired.check_that_nothing_is_held()


def test_the_answers_name_the_requests_that_they_answer(wired):
    peer = wired.connect()
    asked = peer.ask(*[message(id=f"number {k}") for k in range(4)])
    wired.loop.run()
    wired.servable.run_all()
    wired.loop.run()
    answers = [pb.ModelInferResponse.FromString(peer.read()[stream_id].body[5:]) for stream_id in asked]
    assert [answer.id for answer in answers] == [f"number {k}" for k in range(4)]
