"""Batches of a servable whose model runs some sizes only."""

import numpy as np
import pytest

from serving.batching.calibrations import Calibrations
from serving.batching.inline import InlineRuns
from serving.config import BatchingConfig, DriftConfig, ModelConfig, PipelineConfig
from serving.errors import LoadError, ModelFailed
from serving.execution.padding import PaddedSession
from serving.model import Servable, Shared
from tests.support import graphs
from tests.support.clocks import FakeClock
from tests.support.sessions import FakeSession, HeldSession, Posts, affine, model_config, queued, servable

BAD = -1.0
US, MS = 1_000, 1_000_000


def affine_or_fail(x):
    if (x == BAD).any():
        raise RuntimeError("one row is bad")
    return affine(x)


class Asked:
    def __init__(self, rows=1, value=1.0):
        self.answers, self.rows, self.value = [], rows, value
        self.queued = queued(rows, settle=self.answers, value=value)

    def is_right(self):
        (outputs,) = self.answers
        return np.array_equal(outputs[0], np.full((self.rows, 4), 2 * self.value + 1))


@pytest.fixture
def posts():
    return Posts()


@pytest.fixture
def make(posts):
    """Make servables of a held session whose batches are padded; they are let go and closed at the end."""
    made = []

    def make(*rows_allowed, function=affine, **config):
        session = HeldSession(function)
        batching = BatchingConfig(mode="window", batch_rows_allowed=rows_allowed)  # takes all that waits
        padded = PaddedSession(session, rows_allowed)
        one = servable(padded, FakeClock(), posts, config=ModelConfig(batching=batching, **config))
        made.append((one, session))
        return one, session

    yield make
    for one, session in made:
        session.let_go()
        one.close()


def run_together(one, session, posts, asked):
    session.hold()
    plug = Asked()
    one.submit(plug.queued)
    session.wait_until_running()
    del session.runs[:]
    for request in asked:
        one.submit(request.queued)
    session.let_go()
    while not all(request.answers for request in asked):
        posts.run()
    assert plug.is_right()
    return session.runs[1:]


def test_a_batch_is_padded_and_everybody_gets_their_own_rows(make, posts):
    one, session = make(1, 4, 16)
    asked = [Asked(rows, float(rows)) for rows in (2, 1, 0, 3)]
    assert run_together(one, session, posts, asked) == [16]
    assert all(request.is_right() for request in asked)


def test_padding_is_counted_apart_from_rows(make, posts):
    one, session = make(4, 16)
    run_together(one, session, posts, [Asked(2), Asked(3)])
    view = one.batching()
    assert view.rows_allowed == (4, 16)
    assert view.padding_rows == (4 - 1) + (16 - 5)
    assert one.statistics.inference_count == 6
    assert sorted(one.statistics.batches) == [1, 5]


def test_drift_counts_no_padding(make, posts):
    one, _ = make(8, drift=DriftConfig(overhead_max=1.0, reference_rows=100))
    one.drift.begin(None, None)
    asked = [Asked(3, float(k)) for k in range(4)]
    for request in asked:
        one.submit(request.queued)
        posts.run()
    assert one.drift.report().rows_seen == 12


def test_a_request_that_fails_fails_alone_and_its_padding_with_it(make, posts):
    one, session = make(4, 8, function=affine_or_fail)
    asked = [Asked(value=BAD if k == 2 else float(k)) for k in range(5)]
    runs = run_together(one, session, posts, asked)
    assert set(runs) <= {4, 8}
    assert isinstance(asked[2].answers[0], ModelFailed)
    assert all(request.is_right() for request in asked if request.value != BAD)


def test_only_allowed_sizes_are_measured_and_run_at_load(tmp_path, posts):
    path = graphs.write_model(tmp_path, "m", graphs.affine()) / "model.onnx"
    kept = Shared(calibrations=Calibrations(tmp_path / "kept"))

    def load(**batching):
        one = Servable.load("m", 1, path, model_config(**batching), clock=FakeClock(), post=posts, shared=kept)
        known = [rows for rows, _ in one.batcher.outlook.times.known()]
        one.close()
        return known

    assert load(batch_rows_max=16) == [1, 2, 4, 8, 16]
    for _ in range(2):
        assert load(batch_rows_allowed=(2, 16)) == [2, 16]
        assert len(list((tmp_path / "kept").iterdir())) == 2, "what was kept for other sizes is not for these"


def test_steps_around_a_padded_model_see_no_padding(tmp_path, posts):
    path = tmp_path / "model.onnx"
    path.write_bytes(graphs.affine(rows=8))
    softmax = {"step": "softmax", "input": "y", "output": "p"}
    config = ModelConfig(
        batching=BatchingConfig(batch_rows_allowed=(8,)), pipeline=PipelineConfig(postprocess=(softmax,))
    )
    one = Servable.load("m", 1, path, config, clock=FakeClock(), post=posts)
    seen, postprocess = [], one.pipeline.postprocess
    one.pipeline.postprocess = lambda outputs, *rest: seen.append(len(outputs[0])) or postprocess(outputs, *rest)
    asked = Asked(3)
    one.submit(asked.queued)
    posts.run()
    one.close()
    assert seen == [3]
    np.testing.assert_allclose(asked.answers[0][0], np.full((3, 4), 0.25))


@pytest.mark.parametrize(
    ("graph", "sizes", "reason"),
    [
        (graphs.centred(8), (8,), "rows of this model do not stand alone"),
        (graphs.centred(), (2, 8), "rows of this model do not stand alone"),
        (graphs.affine(rows=8), (4,), r"fixes the first dimension of 'x' at 8; give \[8\]"),
        (graphs.identity("FP32", ()), (4,), "inputs have rows"),
    ],
    ids=["fixed, rows mixed", "open, rows mixed", "fixed at another size", "no rows"],
)
def test_a_model_that_cannot_be_padded_does_not_load(tmp_path, posts, graph, sizes, reason):
    path = tmp_path / "model.onnx"
    path.write_bytes(graph)
    with pytest.raises(LoadError, match=reason):
        Servable.load("m", 1, path, model_config(batch_rows_allowed=sizes), clock=FakeClock(), post=posts)


def test_a_model_whose_outputs_do_not_follow_rows_does_not_load(posts):
    session = PaddedSession(FakeSession(lambda x: [x.mean(axis=0, keepdims=True)]), (4,))
    with pytest.raises(LoadError, match="does not follow rows"):
        servable(session, FakeClock(), posts, config=model_config(batch_rows_allowed=(4,)))


def test_a_graph_that_fixes_its_rows_is_served_as_it_is_without_the_option_and_says_that_there_is_one(
    tmp_path, posts, caplog
):  # fmt: skip
    path = tmp_path / "model.onnx"
    path.write_bytes(graphs.affine(rows=8))
    caplog.set_level("INFO")
    one = Servable.load("m", 1, path, model_config(), clock=FakeClock(), post=posts)
    one.close()
    assert (one.signature.batchable, one.batch_rows_max) == (False, 1)
    assert one.signature.inputs[0].shape == (8, 4)
    assert "m/1: a request brings 8 of the first dimension;" in caplog.text
    assert "batch_rows_allowed = [8]" in caplog.text
    assert (one.batching().rows_allowed, one.batching().padding_rows) == ((), 0)


# ---- on the I/O thread ---------------------------------------------------------------------------------------------


def inline_servable(posts, run_ns, *rows_allowed):
    """A servable whose runs take `run_ns(rows)`, what it ran, and the I/O thread's turns of 200 us."""
    clock = FakeClock()

    def run(x):
        clock.advance(run_ns(len(x)))
        return affine(x)

    session = FakeSession(run)
    inline = InlineRuns(clock, budget_us=200, wake=lambda: None)
    config = model_config(batch_rows_allowed=rows_allowed)
    one = Servable(
        "m", 1, PaddedSession(session, rows_allowed), config, clock=clock, post=posts, shared=Shared(inline)
    )  # fmt: skip
    one.batcher.seed([(rows, run_ns(rows)) for rows in rows_allowed])
    del session.runs[:]
    return one, session, inline


def submit_together(one, asked):
    one.batcher.set_inline(True)  # so that the instance thread leaves them alone until the last one has come
    for request in asked[:-1]:
        one.batcher.submit(request.queued)
    one.submit(asked[-1].queued)


def test_a_cheap_model_is_padded_on_the_io_thread_too(posts):
    one, session, inline = inline_servable(posts, lambda rows: 10 * US, 4, 16)
    asked = [Asked(1, float(k)) for k in range(5)]
    submit_together(one, asked)
    while inline.run():
        pass
    one.close()
    assert session.runs == [16]
    assert all(request.is_right() for request in asked)
    assert one.batching().padding_rows == 11


def test_what_takes_a_turn_when_padded_runs_in_smaller_batches_there_if_these_are_as_good(posts):
    one, session, inline = inline_servable(posts, lambda rows: 30 * US * rows, 4, 16)
    asked = [Asked(1, float(k)) for k in range(8)]
    submit_together(one, asked)
    while inline.run():
        pass
    one.close()
    assert session.runs == [4, 4]
    assert all(request.is_right() for request in asked)


def test_one_row_that_takes_longer_than_a_turn_when_padded_is_left_to_an_instance_thread(posts):
    one, session, inline = inline_servable(posts, lambda rows: 400 * US, 16)
    asked = Asked()
    one.submit(asked.queued)
    assert not inline.run()
    posts.run()
    one.close()
    assert session.runs == [16]
    assert asked.is_right()
