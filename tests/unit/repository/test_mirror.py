"""Copies of answered requests go to a shadow: few, never while the model itself is busy, and nobody waits for them."""

from types import SimpleNamespace

import numpy as np
import pytest

from serving.batching.entries import QueuedRequest
from serving.errors import ModelFailed, Overloaded
from serving.repository import mirror as mirrors
from serving.repository.handle import Handle
from serving.repository.mirror import BYTES_PER_S, REQUESTS_MAX, Mirror
from serving.types import Datatype, Signature, TensorSpec
from tests.support.clocks import FakeClock

SPEC = (TensorSpec("x", Datatype.FP32, (-1, 2)),)
SIGNATURE = Signature(SPEC, SPEC, batchable=True)


class Batcher:
    queued_rows = 0


class Answering:
    """Stands for a servable: keeps what is submitted, or refuses it."""

    name, version, signature, pipeline = "m", 1, SIGNATURE, None

    def __init__(self):
        self.batcher, self.submitted, self.refusal = Batcher(), [], None

    def submit(self, entry):
        if self.refusal is not None:
            raise self.refusal
        self.submitted.append(entry)


class World:
    def __init__(self):
        self.clock, self.later, self.model, self.shadow = FakeClock(), [], Answering(), Answering()
        self.elsewhere = []
        self.handle = Handle(self.shadow)
        self.mirror = Mirror(self.handle, self.clock, self.later.append, self.elsewhere.append,
                             requests_per_s=10, tolerance=1e-3)  # fmt: skip

    def answer(self, value=1.0, rows=2, columns=2, outputs=None, passed_s=0.2):
        """Let the model answer one request, and some time pass."""
        inputs = [np.full((rows, columns), value, np.float32)]
        entry = QueuedRequest(inputs, rows=rows, lane=((columns,),), input_bytes=8, arrival_ns=0, deadline_ns=None,
                              settle=lambda _: None)  # fmt: skip
        self.mirror.reflect(self.model, [(entry, [inputs[0] * 2] if outputs is None else outputs)])
        self.clock.advance(int(passed_s * 1e9))

    def submit(self):
        for work in self.later:
            work()
        self.later.clear()


def is_idle(handle):
    """Whether nobody uses it; it is used no more then."""
    idle = []
    handle.retire(lambda: idle.append(True))
    return bool(idle)


@pytest.fixture
def world():
    return World()


def test_a_copy_is_submitted_later_and_does_not_change_with_its_original(world):
    world.answer(3.0)
    assert world.shadow.submitted == []
    world.submit()
    (copy,) = world.shadow.submitted
    np.testing.assert_array_equal(copy.inputs[0], np.full((2, 2), 3.0))
    assert copy.inputs[0].base is None
    copy.settle([copy.inputs[0] * 2])
    assert (world.mirror.requests, world.mirror.errors, world.mirror.differing) == (1, 0, 0)


def test_failures_and_other_answers_are_counted(world):
    for outcome in (ModelFailed("no"), [np.zeros((2, 2), np.float32)], [np.zeros((1, 2), np.float32)]):
        world.answer()
        world.submit()
        world.shadow.submitted.pop().settle(outcome)
    assert (world.mirror.requests, world.mirror.errors, world.mirror.differing) == (3, 1, 2)


def test_no_more_copies_are_made_than_asked_for(world):
    for _ in range(5):
        world.mirror.reflect(world.model, [])
    world.answer()
    world.clock.advance(-150_000_000)  # too early for another one
    world.answer()
    assert len(world.later) == 1


def test_while_rows_wait_for_the_model_nothing_is_copied(world):
    world.model.batcher.queued_rows = 1
    world.answer()
    assert (len(world.later), world.mirror.dropped["load"]) == (0, 1)


def test_a_slow_shadow_gets_no_more_than_a_few(world):
    for _ in range(REQUESTS_MAX + 3):
        world.answer()
    assert (len(world.later), world.mirror.dropped["busy"]) == (REQUESTS_MAX, 3)
    world.submit()
    world.shadow.submitted.pop().settle(ModelFailed("no"))
    world.answer()
    assert len(world.later) == 1


def test_a_shadow_that_refuses_has_failed(world):
    world.shadow.refusal = ModelFailed("no")
    world.answer()
    world.submit()
    assert (world.mirror.requests, world.mirror.errors) == (1, 1)


def test_a_shadow_whose_queue_is_full_of_copies_has_not_failed(world):
    world.shadow.refusal = Overloaded("full", retry_after_ms=0)
    for _ in range(2 * REQUESTS_MAX):
        world.answer()
        world.submit()
    assert (world.mirror.requests, world.mirror.errors) == (0, 0)
    assert world.mirror.dropped["busy"] == 2 * REQUESTS_MAX
    assert is_idle(world.handle)


def test_a_mistake_of_ours_in_submitting_holds_nothing_for_ever(world, caplog):
    world.shadow.refusal = ZeroDivisionError()
    world.answer()
    world.submit()
    assert (world.mirror.requests, world.mirror.errors) == (1, 1)
    assert "could not be submitted" in caplog.text
    assert is_idle(world.handle)


def test_of_a_large_request_some_rows_are_copied(world):
    world.answer(rows=1000, columns=1000)
    world.submit()
    (copy,) = world.shadow.submitted
    assert copy.inputs[0].shape == (131, 1000)
    assert copy.rows == 131


def test_of_rows_that_are_large_one_is_copied_and_answers_that_follow_no_rows_are_copied_whole(world):
    world.answer(rows=2, columns=1_000_000)
    world.answer(rows=3, columns=4, outputs=[np.zeros((300_000, 1), np.float32)])
    world.submit()
    assert [copy.inputs[0].shape for copy in world.shadow.submitted] == [(1, 1_000_000)]
    world.clock.advance(int(1e9))
    world.answer(rows=3, columns=4, outputs=[np.zeros((300_000, 1), np.float32)])
    world.submit()
    assert world.shadow.submitted[-1].inputs[0].shape == (3, 4)


def test_answers_that_are_others_for_fewer_rows_are_copied_whole(world):
    world.model.pipeline = SimpleNamespace(has_ragged_answers=True)
    world.answer(rows=1000, columns=1000)
    world.submit()
    assert world.shadow.submitted[0].rows == 1000


def test_copying_takes_no_more_than_its_share_of_the_io_thread(world):
    columns = 1_000_000
    for _ in range(60):
        world.answer(rows=1, columns=columns, passed_s=0.1)
        world.submit()
        if world.shadow.submitted:
            world.shadow.submitted.pop().settle(ModelFailed("no"))
    assert 0 < world.mirror.requests * columns * 8 <= 6 * BYTES_PER_S
    assert world.mirror.requests < 60


def test_what_is_too_large_is_not_copied(world, monkeypatch):
    monkeypatch.setattr(mirrors, "BYTES_MAX", 1000)
    world.answer(rows=1, columns=1000)
    assert (len(world.later), world.mirror.dropped["large"]) == (0, 1)


def test_large_answers_are_compared_elsewhere_and_count_as_under_way_until_then(world):
    for _ in range(REQUESTS_MAX + 1):
        world.answer(rows=100, columns=1000, passed_s=10)
        world.submit()
        for copy in world.shadow.submitted:
            copy.settle([copy.inputs[0] * 3])
    assert world.mirror.requests == 0
    assert world.mirror.dropped["busy"] == 1
    for compare in world.elsewhere:
        compare()
    assert world.mirror.requests == 0, "it is counted on the I/O thread"
    world.submit()
    assert (world.mirror.requests, world.mirror.differing) == (REQUESTS_MAX, REQUESTS_MAX)
    assert is_idle(world.handle)


@pytest.mark.parametrize("columns", [2, 1000])
def test_answers_that_cannot_be_compared_count_as_none_and_hold_nothing(world, monkeypatch, caplog, columns):
    def no_memory(*_arguments):
        raise MemoryError("no room for a comparison")

    monkeypatch.setattr(mirrors, "_differ", no_memory)
    world.answer(rows=100, columns=columns)
    world.submit()
    copy = world.shadow.submitted.pop()
    copy.settle([copy.inputs[0]])
    for compare in world.elsewhere:
        compare()
    world.submit()
    assert (world.mirror.requests, world.mirror._under_way) == (0, 0)
    assert is_idle(world.handle)
    assert "could not be compared" in caplog.text


def test_a_server_that_stops_compares_nothing_more(world):
    def stopped(_):
        raise RuntimeError("cannot schedule new futures after shutdown")

    world.mirror._aside = stopped
    world.answer(rows=100, columns=1000)
    world.submit()
    copy = world.shadow.submitted.pop()
    copy.settle([copy.inputs[0]])
    assert world.mirror.requests == 0
    assert is_idle(world.handle)


@pytest.mark.parametrize(
    ("expected", "found"),
    [
        ([], [np.zeros(2, np.float32)]),
        ([np.zeros(2, np.float32)], [np.zeros(2, np.float64)]),
        ([np.array(["a"], object)], [np.array(["b"], object)]),
        ([np.array([6e4], np.float16)], [np.array([-6e4], np.float16)]),
        ([np.array([np.inf], np.float32)], [np.array([1], np.float32)]),
        ([np.array([3], np.int64)], [np.array([4], np.int64)]),
    ],
)
def test_answers_of_whatever_shape_are_compared(expected, found):
    assert mirrors._differ(expected, found, 1e-3)
    assert not mirrors._differ(found, found, 1e-3)


def test_a_shadow_that_has_retired_gets_nothing_and_holds_nothing(world):
    world.answer()
    idle = []
    world.handle.retire(lambda: idle.append(True))
    world.submit()
    assert (world.shadow.submitted, world.mirror.requests, idle) == ([], 0, [True])


def test_a_mistake_of_ours_costs_nobody_an_answer(world, monkeypatch, caplog):
    monkeypatch.setattr(mirrors, "QueuedRequest", None)
    world.answer()
    assert "could not be mirrored" in caplog.text
