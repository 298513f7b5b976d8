import pytest

from serving.batching.pace import ASLEEP_NS, CHEAP_RUNS, LONG_NS, Pace, PaddedPace

US = 1_000


def paced(*runs):
    pace = Pace()
    for rows, duration_ns in runs:
        pace.observe(rows, duration_ns)
    return pace


def test_a_servable_is_cheap_after_a_few_short_runs_and_no_more_after_a_long_one():
    pace = Pace()
    for _ in range(CHEAP_RUNS):
        assert not pace.is_cheap
        pace.observe(1, 10 * US)
    assert pace.is_cheap
    pace.observe(1, LONG_NS)
    assert not pace.is_cheap


def test_a_size_not_seen_is_predicted_in_proportion_to_the_nearest_one():
    pace = paced((3, 30 * US))
    assert pace.predicted_ns(1) == pytest.approx(10 * US)
    assert pace.predicted_ns(12) == pytest.approx(120 * US)


def test_the_estimate_follows_the_upper_part_of_the_durations():
    pace = paced(*[(1, (100 if k % 10 == 0 else 20) * US) for k in range(500)])
    assert 28 * US < pace.predicted_ns(1) < 100 * US


def test_rows_within_a_budget_are_as_many_as_fit_it():
    pace = paced((255, 255 * US))
    assert pace.rows_within(255, 1_000 * US) == 255
    rows = pace.rows_within(255, 100 * US)
    assert pace.predicted_ns(rows) <= 100 * US < pace.predicted_ns(rows + 1)
    assert pace.rows_within(1, 0.5 * US) == 0


def test_an_estimate_that_is_not_tried_any_more_is_forgotten():
    pace = paced((1, 900 * US), *[(200, 200 * US)] * 130)
    assert pace.predicted_ns(1) < 10 * US


def test_one_row_is_tried_however_far_off_the_estimate_of_more_is():
    pace = paced((1, 10 * US), (5, 9_000 * US))
    assert pace.rows_within(5, 100 * US) >= 1
    assert pace.predicted_ns(pace.rows_within(5, 100 * US)) <= 100 * US


def test_waiting_for_a_core_costs_nothing_and_a_model_that_waits_costs_what_it_waits():
    pace = Pace()
    assert pace.cost_ns(50 * US, 50 * US + LONG_NS) == 50 * US
    assert pace.cost_ns(50 * US, 60 * US) == 50 * US
    for _ in range(CHEAP_RUNS - 1):
        assert pace.cost_ns(50 * US, 50 * US + LONG_NS) == 50 * US
    assert pace.cost_ns(50 * US, 50 * US + LONG_NS) == 50 * US + LONG_NS
    assert Pace().cost_ns(50 * US, 50 * US + ASLEEP_NS) == 50 * US + ASLEEP_NS


def test_where_batches_are_padded_a_row_takes_what_the_whole_batch_does():
    pace = PaddedPace((4, 16))
    for rows, duration_ns in ((1, 100 * US), (3, 100 * US), (5, 300 * US), (16, 300 * US)):
        pace.observe(rows, duration_ns)
    assert [pace.predicted_ns(rows) for rows in (1, 4)] == [pytest.approx(100 * US)] * 2
    assert [pace.predicted_ns(rows) for rows in (5, 16)] == [pytest.approx(300 * US)] * 2


def test_where_batches_are_padded_less_rows_are_an_allowed_batch_or_none():
    pace = PaddedPace((4, 16))
    for rows, duration_ns in ((4, 100 * US), (16, 300 * US)):
        pace.observe(rows, duration_ns)
    assert [pace.rows_within(rows, 200 * US) for rows in (2, 4, 5, 16)] == [2, 4, 4, 4]
    assert [pace.rows_within(rows, 300 * US) for rows in (5, 16)] == [5, 16]
    assert [pace.rows_within(rows, 50 * US) for rows in (1, 16)] == [0, 0]
