import math
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.batching.entries import Progress
from serving.errors import BatchFailed, DeadlineExceeded, ModelFailed
from serving.types import DYNAMIC, Datatype, Signature, TensorSpec
from tests.support.clocks import FakeClock
from tests.support.sessions import (
    AFFINE,
    WARM_UP,
    FakeSession,
    HeldSession,
    Posts,
    affine,
    model_config,
    queued,
    servable,
)

BAD = -1.0
"""A row of this value fails its run."""


def affine_or_fail(x):
    if (x == BAD).any():
        raise RuntimeError("one row is bad")
    return affine(x)


@pytest.fixture
def posts():
    return Posts()


@pytest.fixture
def make(posts):
    """Make servables on a fake clock; they are let go and closed at the end."""
    made = []

    def make(session, **batching):
        one = servable(session, FakeClock(), posts, config=model_config(**batching))
        made.append((one, session))
        return one

    yield make
    for one, session in made:
        if isinstance(session, HeldSession):
            session.let_go()
        one.close()


class Asked:
    """A request and its answers."""

    def __init__(self, rows=1, value=1.0, **facts):
        self.answers = []
        self.value = value
        self.queued = queued(rows, settle=self.answers, value=value, **facts)

    @property
    def answer(self):
        assert len(self.answers) == 1, f"answered {len(self.answers)} times"
        return self.answers[0]


def run_together(one, session, posts, asked):
    """Run requests as one batch: the instance is kept busy by another one until all are queued."""
    session.hold()
    plug = Asked()
    one.submit(plug.queued)
    session.wait_until_running()
    del session.runs[:]
    for request in asked:
        one.submit(request.queued)
    session.let_go()
    posts.run(2)
    assert len(plug.answers) == 1
    return session.runs[1:]


# ---- grouping and scattering ---------------------------------------------------------------------------------------


def test_every_request_gets_its_own_rows(make, posts):
    session = HeldSession()
    asked = [Asked(rows, float(rows)) for rows in (2, 1, 0, 3)]
    assert run_together(make(session), session, posts, asked) == [6]
    for request in asked:
        np.testing.assert_array_equal(request.answer[0], np.full((request.queued.rows, 4), 2 * request.value + 1))


def test_a_lone_request_is_not_copied(make, posts):
    session = FakeSession(lambda x: [x])
    one = make(session)
    request = Asked(3)
    one.submit(request.queued)
    posts.run()
    assert request.answer[0] is request.queued.inputs[0]


def test_open_dimensions_are_gathered_too(make, posts):
    spec = (TensorSpec("x", Datatype.FP32, (DYNAMIC, DYNAMIC)),)
    session = HeldSession(signature=Signature(spec, (TensorSpec("y", Datatype.FP32, (DYNAMIC, DYNAMIC)),), True))
    asked = [Asked(2, 1.0), Asked(1, 5.0)]
    assert run_together(make(session), session, posts, asked) == [3]
    np.testing.assert_array_equal(asked[1].answer[0], np.full((1, 4), 11))


def test_the_texts_of_past_requests_are_not_kept(make, posts):
    spec = TensorSpec("x", Datatype.BYTES, (DYNAMIC, 1))
    session = HeldSession(lambda x: [np.zeros(len(x), np.float32)],
                          Signature((spec,), (TensorSpec("y", Datatype.FP32, (DYNAMIC,)),), True))  # fmt: skip
    one = make(session)
    asked, text = [Asked() for _ in range(3)], "".join(["a text", " of one request"])
    for request in asked:
        request.queued.inputs = [np.array([[text]], np.object_)]
    held_before = sys.getrefcount(text) - len(asked)
    assert run_together(one, session, posts, asked) == [3]
    for request in asked:
        request.queued.inputs = []
    assert sys.getrefcount(text) == held_before


# ---- failures ------------------------------------------------------------------------------------------------------


@given(bad=st.sets(st.integers(0, 16), min_size=1), count=st.integers(1, 17))
def test_failing_requests_fail_alone_in_a_bounded_number_of_runs(bad, count):
    posts, session = Posts(), HeldSession(affine_or_fail)
    one = servable(session, FakeClock(), posts)
    asked = [Asked(value=BAD if index in bad else float(index)) for index in range(count)]
    runs = run_together(one, session, posts, asked)
    one.close()
    assert len(runs) - 1 <= 2 * math.ceil(math.log2(count)) + 2
    for request in asked:
        assert isinstance(request.answer, ModelFailed) or request.value != BAD
        assert not isinstance(request.answer, ModelFailed) or request.value == BAD or len(bad) > 1
    anybody_answered = any(isinstance(request.answer, list) for request in asked)
    assert one.statistics.rerun_count == (len(runs) - 1 if anybody_answered else 0)


@pytest.mark.parametrize("count", [1, 2, 3, 8, 13])
def test_one_bad_request_fails_alone_wherever_it_is(make, posts, count):
    for bad in range(count):
        session = HeldSession(affine_or_fail)
        asked = [Asked(value=BAD if index == bad else float(index)) for index in range(count)]
        run_together(make(session), session, posts, asked)
        assert [isinstance(request.answer, ModelFailed) for request in asked] == [i == bad for i in range(count)]


def test_a_batch_with_many_bad_requests_is_given_up_and_says_so(make, posts):
    session = HeldSession(affine_or_fail)
    asked = [Asked(value=BAD if index % 2 else float(index)) for index in range(16)]
    runs = run_together(make(session), session, posts, asked)
    assert len(runs) - 1 == 2 * 4 + 2
    kinds = {type(request.answer) for request in asked}
    assert kinds <= {list, ModelFailed, BatchFailed}
    assert BatchFailed in kinds


def test_the_client_learns_that_the_model_failed_and_not_how(make, posts, caplog):
    one = make(FakeSession(affine_or_fail))
    request = Asked(value=BAD)
    one.submit(request.queued)
    posts.run()
    assert request.answer.message == "model 'm' failed to compute this request"
    assert "one row is bad" in caplog.text


def test_failures_are_logged_at_most_once_a_second(make, posts, caplog):
    one = make(FakeSession(affine_or_fail))
    for _ in range(3):
        one.submit(Asked(value=BAD).queued)
        posts.run()
    assert len([record for record in caplog.records if record.levelname == "ERROR"]) == 1


def test_a_failed_batch_is_no_executed_batch(make, posts):
    one = make(FakeSession(affine_or_fail))
    one.submit(Asked(value=BAD).queued)
    posts.run()
    assert (one.statistics.execution_count, one.statistics.inference_count) == (0, 0)


# ---- outputs that do not follow rows -------------------------------------------------------------------------------


def mean_or_rows(x):
    """As many output rows as input rows up to two, as the warm-up sees; the mean of all rows beyond."""
    return [x if len(x) <= 2 else x.mean(axis=0, keepdims=True)]


def test_outputs_that_do_not_follow_rows_switch_batching_off_and_answers_stay_right(make, posts, caplog):
    session = HeldSession(mean_or_rows)
    one = make(session)
    asked = [Asked(value=float(index)) for index in range(4)]
    assert run_together(one, session, posts, asked) == [4, 1, 1, 1, 1]
    for request in asked:
        np.testing.assert_array_equal(request.answer[0], np.full((1, 4), request.value))
    assert "batching is off" in caplog.text
    again = [Asked(value=float(index)) for index in range(3)]
    session.hold()
    one.submit(again[0].queued)
    session.wait_until_running()
    for request in again[1:]:
        one.submit(request.queued)
    session.let_go()
    posts.run(3)
    assert session.runs[-3:] == [1, 1, 1]
    assert all(len(request.answers) == 1 for request in again)


def test_the_warm_up_finds_a_false_batch_dimension(make, posts):
    session = FakeSession(lambda x: [x.sum(axis=0, keepdims=True)])
    one = make(session)
    assert session.runs == [1, 2, 1, 1, 1]
    assert not one.signature.batchable
    assert one.batch_rows_max == 1


def test_a_model_that_does_not_take_zeros_is_served_all_the_same(make, posts):
    def reciprocal(x):
        if not x.all():
            raise ZeroDivisionError
        return [1 / x]

    one = make(FakeSession(reciprocal))
    assert one.signature == AFFINE
    request = Asked(value=2.0)
    one.submit(request.queued)
    posts.run()
    np.testing.assert_array_equal(request.answer[0], np.full((1, 4), 0.5))


# ---- cancelled and expired -----------------------------------------------------------------------------------------


def test_a_request_dropped_while_it_runs_is_not_answered_and_its_batchmates_are(make, posts):
    session = HeldSession()
    one = make(session)
    gone, stays = Asked(2), Asked(3)
    session.hold()
    one.submit(Asked().queued)
    session.wait_until_running()
    for request in (gone, stays):
        one.submit(request.queued)
    session.let_one_go()
    session.wait_until_running()
    one.drop(gone.queued)
    session.let_go()
    posts.run(2)
    assert session.runs[-1] == 5
    assert gone.answers == []
    assert len(stays.answer[0]) == 3


def test_an_expired_request_is_answered_and_never_run(make, posts):
    session = FakeSession()
    one = make(session)
    request = Asked(deadline_ns=0)
    one.submit(request.queued)
    posts.run()
    assert isinstance(request.answer, DeadlineExceeded)
    assert session.runs == WARM_UP  # the warm-up's
    assert one.statistics.execution_count == 0
    assert request.queued.progress is Progress.SETTLED


# ---- instances, closing, counting ----------------------------------------------------------------------------------


def test_instances_run_side_by_side(make, posts):
    session = HeldSession()
    one = make(session, instances=2, batch_rows_max=1)
    session.hold()
    for _ in range(2):
        one.submit(Asked().queued)
    session.wait_until_running()
    session.wait_until_running()
    session.let_go()
    posts.run(2)


def test_closing_finishes_what_waits_and_frees_the_session(posts):
    session = HeldSession()
    one = servable(session, FakeClock(), posts, config=model_config(batch_rows_max=1))
    session.hold()
    asked = [Asked() for _ in range(3)]
    for request in asked:
        one.submit(request.queued)
    session.wait_until_running()
    session.let_go()
    one.close()
    assert session.closed
    posts.run(3)
    assert all(len(request.answers) == 1 for request in asked)


def test_rows_and_batches_are_counted(make, posts):
    session = HeldSession()
    one = make(session)
    run_together(one, session, posts, [Asked(2), Asked(3)])
    counted = one.statistics
    assert (counted.inference_count, counted.execution_count) == (6, 2)
    assert sorted(counted.batches) == [1, 5]
    assert counted.stages["request"].count == 3


def test_a_mistake_of_ours_costs_nobody_an_answer_and_no_thread(make, posts, monkeypatch):
    one = make(FakeSession())

    def fail(*_arguments, **_facts):
        raise RuntimeError("our own mistake")

    monkeypatch.setattr(one.statistics, "batch_done", fail)
    monkeypatch.setattr(one.batcher, "done", fail)
    for value in (1.0, 2.0):
        asked = Asked(value=value)
        one.submit(asked.queued)
        posts.run()
        np.testing.assert_array_equal(asked.answer[0], [[2 * value + 1] * 4])


def test_a_mirror_that_is_taken_away_while_answers_are_given_costs_nobody_an_answer(make, posts, monkeypatch):
    class Seen(list):
        def reflect(self, _servable, answered):
            self.extend(answered)

    one, seen, asked = make(FakeSession()), Seen(), Asked()
    looks = iter([seen])
    monkeypatch.setattr(type(one), "mirror", property(lambda _: next(looks, None)))
    one.submit(asked.queued)
    posts.run()
    np.testing.assert_array_equal(asked.answer[0], [[3.0] * 4])
    assert [entry for entry, _ in seen] == [asked.queued]
