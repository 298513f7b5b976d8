"""Counting a batch later than it has run."""

import contextlib

import numpy as np
import pytest

from serving.config import DriftConfig
from serving.statistics.drift import counting
from serving.statistics.drift.counter import Counter
from serving.statistics.drift.watch import DriftWatch
from serving.statistics.profile import ReferenceProfile
from serving.types import DYNAMIC, Datatype, Signature, TensorSpec
from tests.support.clocks import FakeClock

DEADLINE_S = 30
SIGNATURE = Signature((TensorSpec("x", Datatype.FP32, (DYNAMIC, 2)),), (), batchable=True)
PROFILE = ReferenceProfile.of_tensors({"x": np.random.default_rng(1).normal(size=(5_000, 2))}, {}).to_bytes()
ROWS = np.random.default_rng(2).normal(size=(100, 2)).astype(np.float32)


@pytest.fixture
def counter():
    watch = DriftWatch("m", 1, SIGNATURE, DriftConfig(overhead_max=1.0), clock=FakeClock())
    one = watch.counter()
    watch.begin(PROFILE)
    yield one
    watch.end()


def counts(block):
    return [part.tolist() for part in block.counts]


def test_a_batch_that_is_kept_is_counted_as_it_was_though_its_inputs_are_overwritten(counter):
    counter.observe([ROWS], [], rows=100, infer_ns=1_000_000)
    expected = counts(counter.swap())
    lent = ROWS.copy()
    counter.keep([lent], [], rows=100, infer_ns=1_000_000)
    lent[:] = np.nan
    counter.count_kept()
    assert counts(counter.swap()) == expected


def test_a_batch_that_is_kept_is_counted_once_and_before_the_next_one(counter):
    for _ in range(2):
        counter.keep([ROWS], [], rows=100, infer_ns=1_000_000)
    counter.count_kept()
    counter.count_kept()
    assert counter.swap().rows == 200


@pytest.fixture
def counted(monkeypatch):
    """How many rows were counted in each call."""
    calls = []

    def count_batch(block, layout, arrays, *, rows, **how):
        calls.append(rows)
        counting.count_batch(block, layout, arrays, rows=rows, **how)

    monkeypatch.setattr("serving.statistics.drift.counter.count_batch", count_batch)
    return calls


def keep_each(counter, rows):
    """Do what an executor does."""
    for row in rows:
        counter.keep([row[None]], [], rows=1, infer_ns=1_000_000)
        if counter.is_due:
            counter.count_kept()


def test_rows_of_small_batches_are_counted_together(counter, counted):
    counter.observe([ROWS], [], rows=100, infer_ns=1_000_000)
    expected = counts(counter.swap())
    keep_each(counter, ROWS)
    assert counted == [100] + [Counter.TOGETHER_ROWS] * (100 // Counter.TOGETHER_ROWS)
    assert counts(counter.swap()) == expected, "who takes the counts away gets what is still kept"
    assert counted[-1] == 100 % Counter.TOGETHER_ROWS


def test_rows_of_tensors_that_differ_are_counted_apart(counter, counted):
    keep_each(counter, ROWS[:3])
    counter.keep([np.ones((1, 3), np.float32)], [], rows=1, infer_ns=1_000_000)
    assert counter.swap().rows == 4
    assert counted == [3, 1]


def test_a_tensor_that_does_not_follow_the_rows_is_passed_over(counter):
    counter.observe([ROWS[:1]], [], rows=2, infer_ns=1_000_000)
    counter.observe([ROWS[:1, :1]], [], rows=2, infer_ns=1_000_000)
    expected = counts(counter.swap())
    counter.keep([ROWS[:1]], [], rows=2, infer_ns=1_000_000)
    counter.keep([ROWS[:1, :1]], [], rows=2, infer_ns=1_000_000)
    counter.count_kept()
    assert counts(counter.swap()) == expected


def test_of_a_batch_only_sampled_rows_are_kept(counter):
    for batch, count in (("observed", counter.observe), ("kept", counter.keep)):
        counter.governor.step = 50
        count([ROWS], [], rows=100, infer_ns=1_000_000)
        counter.count_kept()
        block = counter.swap()
        assert (block.rows, *(part.sum() for part in block.counts[:2])) == (2, 2, 2), batch


def test_the_outputs_of_a_lone_batch_are_counted_where_they_are(counter, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "serving.statistics.drift.counter.count_batch", lambda block, layout, arrays, **_: seen.append(arrays)
    )
    outputs = np.zeros((100, 3), np.float32)
    counter.keep([ROWS], [outputs], rows=100, infer_ns=1_000_000)
    counter.count_kept()
    ((_, counted),) = seen
    assert np.shares_memory(counted, outputs)


def test_texts_are_kept_for_one_batch(counter, counted):
    for _ in range(2):
        with contextlib.suppress(TypeError, ValueError):
            keep_each(counter, object_of_strings()[:1])
    assert counted == [1, 1]


def test_first_rows_that_are_kept_count_for_the_reference():
    watch = DriftWatch("m", 1, SIGNATURE, DriftConfig(overhead_max=1.0, reference_rows=100), clock=FakeClock())
    counter = watch.counter()
    watch.begin(None)
    keep_each(counter, ROWS)
    assert watch.report().phase != "collecting"
    watch.end()


def test_large_inputs_are_counted_at_once(counter, monkeypatch):
    monkeypatch.setattr(Counter, "KEPT_BYTES_MAX", ROWS.nbytes - 1)
    counter.keep([ROWS], [], rows=100, infer_ns=1_000_000)
    assert counter.swap().rows == 100


def test_who_takes_the_counts_away_gets_a_batch_that_is_only_kept(counter):
    counter.keep([ROWS], [], rows=100, infer_ns=1_000_000)
    assert [block.rows for block in (counter.swap(), counter.swap())] == [100, 0]


def test_no_executor_waits_for_who_takes_the_counts_away(counter):
    counter.keep([ROWS], [], rows=100, infer_ns=1_000_000)
    with counter._lock:
        counter.keep([ROWS], [], rows=100, infer_ns=1_000_000)
        counter.count_kept()
        counter.observe([ROWS], [], rows=100, infer_ns=1_000_000)
    assert counter.swap().rows == 100


def test_a_batch_that_cannot_be_counted_keeps_nobody_waiting(counter):
    counter.keep([object_of_strings()], [], rows=100, infer_ns=1_000_000)
    with pytest.raises((TypeError, ValueError)):
        counter.count_kept()
    counter.observe([ROWS], [], rows=100, infer_ns=1_000_000)
    assert counter.swap().rows == 100


def object_of_strings():
    return np.array([["no", "numbers"]] * 100, object)


class Unreachable:
    """An array of another device's memory that cannot be copied."""

    nbytes = ROWS.nbytes

    def __array__(self, dtype=None, copy=None):
        raise MemoryError


def test_a_batch_that_cannot_be_copied_keeps_nobody_waiting(counter):
    with pytest.raises(MemoryError):
        counter.keep([Unreachable()], [], rows=100, infer_ns=1_000_000)
    counter.observe([ROWS], [], rows=100, infer_ns=1_000_000)
    assert counter.swap().rows == 100
