"""What batches have taught between two loads of the same files."""

import pytest

from serving.batching.calibrations import Calibrations, differ
from serving.batching.entries import Batch
from serving.model import Servable, Shared
from tests.support import graphs
from tests.support.clocks import FakeClock
from tests.support.sessions import Posts, model_config, queued

MS = 1_000_000


@pytest.fixture
def load(tmp_path):
    model = tmp_path / "m" / "1" / "model.onnx"
    model.parent.mkdir(parents=True)
    model.write_bytes(graphs.affine())
    shared = Shared(calibrations=Calibrations(tmp_path / "kept"))

    def load(took_ms):
        """Load, let batches of one row take so long, close; return what the load began with."""
        clock = FakeClock()
        one = Servable.load("m", 1, model, model_config(batch_rows_max=4), clock=clock, post=Posts(), shared=shared)
        began_with = dict(one.batcher.outlook.times.known())
        for _ in range(300 if took_ms else 0):
            clock.advance(20 * MS)
            one.batcher.done(Batch([queued(1)], 1, clock.now_ns()), int(took_ms * MS))
        one.close()
        return began_with

    return load


def test_a_load_begins_with_what_batches_have_taught_since_the_last_one(load):
    assert load(took_ms=5)[1] < MS
    assert load(took_ms=0)[1] > MS


def test_a_servable_that_ran_nothing_leaves_what_was_measured(load, tmp_path):
    load(took_ms=0)
    (file,) = (tmp_path / "kept").iterdir()
    before = file.read_text()
    load(took_ms=0)
    assert file.read_text() == before


@pytest.mark.parametrize(
    ("learnt", "is_other"),
    [
        ([(1, 110.0), (2, 180.0)], False), ([(1, 130.0)], True), ([(2, 140.0)], True), ([(4, 300.0)], True),
        ([], False),
    ],
)  # fmt: skip
def test_what_was_learnt_is_kept_when_it_differs_by_more_than_a_quarter(learnt, is_other):
    assert differ([(1, 100.0), (2, 200.0)], learnt) is is_other
