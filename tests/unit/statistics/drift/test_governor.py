"""Looking at rows costs no more than its share, and which rows are looked at says nothing about them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.statistics.drift.governor import FREE_NS, INDIRECT, Governor


def run(governor, batches, *, rows, infer_ns, row_ns, call_ns=3_000):
    """Run batches through a governor; return how many rows were sampled."""
    sampled = 0
    for _ in range(batches):
        if count := len(governor.sample(rows, infer_ns)):
            sampled += count
            governor.spent(call_ns + count * row_ns, count)
    return sampled


@given(st.integers(1, 64), st.integers(5_000, 2_000_000), st.integers(50, 20_000), st.sampled_from([0.001, 0.01, 0.1]))
def test_what_is_spent_stays_within_the_share_and_what_is_free(rows, infer_ns, row_ns, share):
    governor = Governor(share)
    run(governor, 400, rows=rows, infer_ns=infer_ns, row_ns=row_ns)
    batch_ns = 3_000 + rows * row_ns
    assert governor.spent_ns <= 1.2 * share * governor.infer_ns / INDIRECT + FREE_NS + 20 * batch_ns


def test_a_model_of_one_millisecond_has_every_row_counted():
    assert run(Governor(0.01), 2_000, rows=1, infer_ns=1_000_000, row_ns=300) == 2_000


def test_the_first_rows_are_all_counted_whatever_the_model_costs():
    assert run(Governor(0.01), 1_000, rows=16, infer_ns=10_000, row_ns=200) == 16_000


def test_a_share_of_one_bounds_nothing():
    governor = Governor(1.0)
    assert run(governor, 1_000, rows=16, infer_ns=10_000, row_ns=20_000) == 16_000
    assert governor.spent_ns > 2 * FREE_NS


def test_a_cheap_model_is_sampled_at_about_its_share_in_the_long_run():
    governor = Governor(0.01)
    run(governor, 400_000, rows=8, infer_ns=50_000, row_ns=200)
    assert governor.spent_ns - FREE_NS == pytest.approx(0.01 * governor.infer_ns / INDIRECT, rel=0.1)
    assert governor.step > 1


@pytest.mark.parametrize("period", [2, 5, 8])
def test_rows_that_come_in_turns_are_sampled_alike(period):
    governor, sampled = Governor(0.01), [0] * period
    governor.step = period
    for row in range(20_000):
        sampled[row % period] += len(governor.sample(1, 0))
    expected = 20_000 / period / period
    assert max(abs(count - expected) for count in sampled) < 5 * expected**0.5


def test_an_interruption_is_not_taken_for_work():
    governor = Governor(0.01)
    run(governor, 100, rows=8, infer_ns=1_000_000, row_ns=200)
    before = governor.spent_ns
    governor.spent(50_000_000, 8)
    assert governor.spent_ns - before < 100_000


def test_a_batch_without_rows_is_not_sampled():
    governor = Governor(0.01)
    for governor.step in (1, 2):
        assert not governor.sample(0, 1_000)


def test_of_a_batch_every_step_th_row_is_sampled_from_one_of_the_first_on():
    governor = Governor(0.01)
    assert governor.sample(5, 0) == range(5)
    governor.step = 3
    assert {tuple(governor.sample(7, 0)) for _ in range(100)} == {(0, 3, 6), (1, 4), (2, 5)}
    assert (governor.rows, governor.step) == (705, 3)
