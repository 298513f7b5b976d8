"""What a servable answers when rows of a batch cannot be taken: the requests that sent them fail, and no others."""

import numpy as np
import pytest

from serving.config import ModelConfig, PipelineConfig
from serving.errors import InvalidRequest
from serving.model import Servable
from tests.support.clocks import FakeClock
from tests.support.pipelines import pipeline
from tests.support.sessions import AFFINE, HeldSession, Posts, queued

CONFIG = PipelineConfig(
    preprocess=({"step": "log1p", "input": "x"}, {"step": "finite", "input": "x"}),
    postprocess=({"step": "sigmoid", "input": "y"},),
)


@pytest.fixture
def served():
    session, posts = HeldSession(), Posts()
    one = Servable(
        "m", 1, session, ModelConfig(pipeline=CONFIG), clock=FakeClock(), post=posts,
        pipeline=pipeline(CONFIG, AFFINE.inputs, AFFINE.outputs),
    )  # fmt: skip
    yield one, session, posts
    session.let_go()
    one.close()


def test_what_rehearsed_the_model_leaves_no_buffers_of_its_own(served):
    one, session, _ = served
    assert len(session.runs) > 2
    assert len(one.pipeline._buffers) == 1
    (settled,) = run_together(served, [[1.0]])
    assert not isinstance(settled, Exception)
    assert len(one.pipeline._buffers) == 2  # the instance's beside those of the I/O thread


def run_together(served, values):
    """Run one request for each list of row values as one batch; return the answers."""
    one, session, posts = served
    session.hold()
    plug = []
    one.submit(queued(1, settle=plug))
    session.wait_until_running()
    del session.runs[:]
    answers = [[] for _ in values]
    for rows, settle in zip(values, answers, strict=True):
        request = queued(len(rows), settle=settle)
        request.inputs = [np.repeat(np.array(rows, np.float32)[:, None], 4, axis=1)]
        one.submit(request)
    session.let_go()
    posts.run(2)
    assert all(len(answer) == 1 for answer in answers)
    return [answer[0] for answer in answers]


def right(values):
    x = 2 * np.log1p(np.array(values, np.float64)) + 1
    return np.repeat((1 / (1 + np.exp(-x)))[:, None], 4, axis=1)


def test_the_request_with_a_bad_row_fails_alone_and_is_told_which_row(served):
    first, bad, last = run_together(served, [[1.0, 2.0], [3.0, -4.0, 5.0], [6.0]])
    assert isinstance(bad, InvalidRequest)
    assert bad.message == "row 1: log1p of 'x': -4.0 came in column 0, expected numbers above -1"
    np.testing.assert_allclose(first[0], right([1.0, 2.0]), rtol=1e-5)
    np.testing.assert_allclose(last[0], right([6.0]), rtol=1e-5)
    assert served[1].runs[1:] == [3]


def test_bad_rows_of_several_requests_and_steps_cost_one_further_run(served):
    one, two, three, four = run_together(served, [[-2.0, -3.0], [np.nan], [0.5], [np.inf]])
    assert one.message.endswith("(and 1 more rows)")
    assert "finite of 'x': nan came" in two.message or "log1p of 'x': nan came" in two.message
    assert "inf came in column 0, expected finite numbers" in four.message
    np.testing.assert_allclose(three[0], right([0.5]), rtol=1e-5)
    assert served[1].runs[1:] == [1]


def test_a_batch_of_bad_requests_alone_never_reaches_the_model(served):
    assert all(isinstance(answer, InvalidRequest) for answer in run_together(served, [[-2.0], [-3.0]]))
    assert served[1].runs[1:] == []


def test_requests_without_rows_are_answered_beside_bad_ones(served):
    empty, bad = run_together(served, [[], [-2.0]])
    assert empty[0].shape == (0, 4)
    assert isinstance(bad, InvalidRequest)


def test_a_request_of_a_model_that_is_not_batched_is_told_its_own_row(served):
    one, _, posts = served
    one.batcher.stop_grouping()
    answers = []
    request = queued(1, settle=answers)  # which counts as one row, whatever its shape
    request.inputs = [np.array([[1.0] * 4, [2.0] * 4, [-3.0] * 4], np.float32)]
    one.submit(request)
    posts.run()
    assert answers[0].message.startswith("row 2: log1p of 'x': -3.0 came in column 0")


def test_outputs_that_do_not_follow_rows_turn_batching_off_before_they_are_postprocessed(served):
    _, session, _ = served
    session._function = lambda x: [np.zeros((len(x) if len(x) == 1 else 7, 4), np.float32)]
    first, second = run_together(served, [[1.0], [2.0]])
    np.testing.assert_array_equal(first[0], np.full((1, 4), 0.5))
    np.testing.assert_array_equal(second[0], np.full((1, 4), 0.5))
    assert session.runs[1:] == [2, 1, 1]


def test_only_some_numbers_of_a_batch_are_looked_at_to_explain_it(served):
    answers = run_together(served, [[-2.0]] * 200)
    named = [answer for answer in answers if "-2.0 came" in answer.message]
    assert 0 < len(named) <= 512 // 4
    assert all("log1p of 'x': " in answer.message for answer in answers)
    assert all(answer.message.endswith("expected numbers above -1") for answer in answers)
