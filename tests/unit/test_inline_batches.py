"""Batches that a servable runs on the I/O thread."""

import threading

import numpy as np
import pytest

from serving.batching.inline import InlineRuns
from serving.errors import DeadlineExceeded, Overloaded
from serving.model import Servable, Shared
from serving.types import DYNAMIC, Datatype, Signature, TensorSpec
from tests.support.clocks import FakeClock
from tests.support.sessions import FakeSession, HeldSession, Posts, model_config, queued

OPEN = Signature(
    (TensorSpec("x", Datatype.FP32, (DYNAMIC, DYNAMIC)),),
    (TensorSpec("y", Datatype.FP32, (DYNAMIC, DYNAMIC)),),
    batchable=True,
)


def inline_servable(session, **batching):
    """A servable whose runs take no time, and the inline runs that it adds itself to."""
    clock = FakeClock()
    inline = InlineRuns(clock, budget_us=200, wake=lambda: None)
    one = Servable("m", 1, session, model_config(**batching), clock=clock, post=Posts(), shared=Shared(inline))
    return one, inline


def run_all(inline):
    while inline.run():
        pass


def test_requests_without_rows_are_all_answered_whatever_their_lane():
    one, inline = inline_servable(FakeSession(lambda x: [x], OPEN))
    answers = []
    for width in (3, 5, 7):
        entry = queued(0, lane=((width,),), settle=answers)
        entry.inputs = [np.zeros((0, width), np.float32)]
        one.submit(entry)
    run_all(inline)
    one.close()
    assert [outputs[0].shape for outputs in answers] == [(0, 3), (0, 5), (0, 7)]


def test_requests_without_rows_are_all_answered_one_by_one():
    one, inline = inline_servable(FakeSession())
    one.batcher.stop_grouping()
    answers = []
    for _ in range(3):
        one.submit(queued(0, settle=answers))
    run_all(inline)
    one.close()
    assert len(answers) == 3


def test_all_that_waits_is_run_within_one_call_of_a_cheap_servable():
    session = FakeSession()
    one, inline = inline_servable(session, batch_rows_max=4)
    answers = []
    for value in range(6):
        one.submit(queued(2, settle=answers, value=value))
    del session.runs[:]
    run_all(inline)
    one.close()
    assert session.runs == [4, 4, 4]
    assert [outputs[0][0, 0] for outputs in answers] == [1, 3, 5, 7, 9, 11]


def test_what_waits_is_run_also_when_the_request_that_turned_it_inline_is_refused():
    session = FakeSession()
    one, inline = inline_servable(session, batch_rows_max=2, queue_rows_max=2)
    answers = []
    one.batcher.set_inline(True)  # so that the instance thread leaves it alone until the next request has come
    one.batcher.submit(queued(2, settle=answers))
    with pytest.raises(Overloaded):
        one.submit(queued(1, settle=answers))
    run_all(inline)
    one.close()
    assert len(answers) == 1


def test_a_request_of_more_rows_than_fit_a_turn_is_left_to_an_instance_thread():
    """One row of it takes half a turn."""
    clock, posts = FakeClock(), Posts()

    def slow(x):
        clock.advance(100_000 * max(1, len(x)))
        return [x]

    session = FakeSession(slow)
    inline = InlineRuns(clock, budget_us=200, wake=lambda: None)
    one = Servable("m", 1, session, model_config(), clock=clock, post=posts, shared=Shared(inline))
    answers = []
    one.submit(queued(1, settle=answers))
    run_all(inline)
    assert len(answers) == 1
    one.submit(queued(64, settle=answers))
    assert not inline.run()
    posts.run()
    one.close()
    assert len(answers) == 2


def test_a_request_that_expires_while_it_runs_on_the_io_thread_is_told_so():
    session = FakeSession()
    one, inline = inline_servable(session)
    answers = []
    one._clock.advance(1_000)
    session._function = lambda x: one._clock.advance(5_000) or [x]
    one.submit(queued(1, settle=answers, deadline_ns=one._clock.now_ns() + 2_000))
    run_all(inline)
    one.close()
    assert [type(answer) for answer in answers] == [DeadlineExceeded]
    assert one.statistics.stages["request"].count == 0


@pytest.mark.parametrize("fails", [False, True])
def test_what_takes_long_leaves_the_io_thread_also_when_nobody_gets_outputs(fails):
    session = FakeSession()
    one, inline = inline_servable(session)
    threads = []

    def slow(x):
        threads.append(threading.current_thread())
        one._clock.advance(5_000_000)
        if fails:
            raise ValueError("not these rows")
        return [x]

    session._function = slow
    one.submit(queued(1, settle=[], deadline_ns=one._clock.now_ns() + 2_000_000))
    run_all(inline)
    one.submit(queued(1, settle=[]))
    run_all(inline)
    one.close()
    assert [thread is threading.current_thread() for thread in threads] == [True, False]


def test_a_graph_that_others_compute_never_runs_on_the_io_thread():
    session = FakeSession()
    session.runs_on_caller = False
    one, inline = inline_servable(session)
    one.submit(queued(1, settle=[]))
    assert not inline.run()
    one.close()


def test_what_runs_at_a_lower_rate_in_parts_that_fit_a_turn_is_left_to_an_instance_thread_as_one_batch():
    """A batch takes 100 us and 10 us per row, so ten rows fit a turn, at half the rate of all that wait."""
    clock, posts = FakeClock(), Posts()

    def batch(x):
        clock.advance(100_000 + 10_000 * len(x))
        return [x]

    session = FakeSession(batch)
    inline = InlineRuns(clock, budget_us=200, wake=lambda: None)
    one = Servable("m", 1, session, model_config(), clock=clock, post=posts, shared=Shared(inline))
    one.batcher.seed([(rows, 100_000 + 10_000 * rows) for rows in (1, 2, 4, 8, 16, 32, 64)])
    del session.runs[:]
    answers = []
    one.batcher.set_inline(True)  # so that the instance thread leaves them alone until the last one has come
    for _ in range(63):
        one.batcher.submit(queued(1, settle=answers))
    one.submit(queued(1, settle=answers))
    assert not inline.run()
    posts.run()
    one.close()
    assert session.runs == [64]
    assert len(answers) == 64


def test_what_comes_while_an_instance_runs_waits_for_its_next_batch():
    session = HeldSession()
    one, inline = inline_servable(session)
    session.hold()
    session.runs_on_caller = False
    answers = []
    one.submit(queued(1, settle=answers))
    session.wait_until_running()
    session.runs_on_caller = True
    for _ in range(3):
        one.submit(queued(1, settle=answers))
    run_all(inline)
    session.let_go()
    one.close()
    assert session.served == [1, 3]
