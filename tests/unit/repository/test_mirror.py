"""Copies of answered requests go to a shadow: few, never while the model itself is busy, and nobody waits for them."""

import numpy as np
import pytest

from serving.batching.entries import QueuedRequest
from serving.errors import ModelFailed, Overloaded
from serving.repository import mirror as mirrors
from serving.repository.handle import Handle
from serving.repository.mirror import REQUESTS_MAX, Mirror
from serving.types import Datatype, Signature, TensorSpec
from tests.support.clocks import FakeClock

SPEC = (TensorSpec("x", Datatype.FP32, (-1, 2)),)
SIGNATURE = Signature(SPEC, SPEC, batchable=True)


class Batcher:
    queued_rows = 0


class Answering:
    """Stands for a servable: keeps what is submitted, or refuses it."""

    name, version, signature = "m", 1, SIGNATURE

    def __init__(self):
        self.batcher, self.submitted, self.refusal = Batcher(), [], None

    def submit(self, entry):
        if self.refusal is not None:
            raise self.refusal
        self.submitted.append(entry)


class World:
    def __init__(self):
        self.clock, self.later, self.model, self.shadow = FakeClock(), [], Answering(), Answering()
        self.handle = Handle(self.shadow)
        self.mirror = Mirror(self.handle, self.clock, self.later.append, requests_per_s=10, tolerance=1e-3)

    def answer(self, value=1.0, rows=2):
        """Let the model answer one request, and some time pass."""
        inputs = [np.full((rows, 2), value, np.float32)]
        entry = QueuedRequest(inputs, rows=rows, lane=((2,),), input_bytes=8, arrival_ns=0, deadline_ns=None,
                              settle=lambda _: None)  # fmt: skip
        self.mirror.reflect(self.model, [(entry, [inputs[0] * 2])])
        self.clock.advance(200_000_000)

    def submit(self):
        for work in self.later:
            work()
        self.later.clear()


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
    world.shadow.refusal = Overloaded("full", retry_after_ms=0)
    world.answer()
    world.submit()
    assert (world.mirror.requests, world.mirror.errors) == (1, 1)


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
