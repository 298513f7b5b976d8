"""Who is let in with a target. All moments are in ms here, and from now."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.batching.door import Door, rows_in_time, steady_rows, wait_ns
from serving.batching.service_time import ServiceTimes, rows_within, upper_ns

SIZES = (1, 2, 4, 8, 16, 32, 64)


def curve_of(first_ms, row_ms, sizes=SIZES):
    times = ServiceTimes(sizes)
    for _ in range(60):  # until the upper quantile lies on the mean
        for rows in sizes:
            times.observe(rows, (first_ms + row_ms * rows) * 1e6, 0)
    return times.curve


AFFINE = curve_of(4.0, 0.2)


def door(**facts):
    return Door(**({
        "busy_ns": 0.0, "first_ns": 60e6, "slack_ns": 60e6, "rows_max": 64, "instances": 1, "stretch": 1.0,
        "overhead_ns": 0.0, "is_full": True,
    } | facts))  # fmt: skip


def test_rows_wait_for_as_many_batches_as_leave_the_last_one_in_time():
    assert rows_in_time(AFFINE, door(rows_max=16, slack_ns=60e6)) == 16 + 7 * 16  # 7 batches of 7.2 ms before the last


def test_two_batches_that_follow_each_other_take_what_a_row_has():
    assert steady_rows(AFFINE, door(slack_ns=20e6 * 1.03)) == 30  # 10 ms each


def test_two_instances_leave_a_row_to_wait_for_half_a_batch():
    assert steady_rows(AFFINE, door(slack_ns=18e6 * 1.03, instances=2)) == 40  # 12 ms each


def test_under_full_load_no_more_rows_wait_than_a_batch_holds_that_leaves_time_to_those_that_come_while_it_runs():
    tight = door(slack_ns=20e6 * 1.03, first_ns=20e6)
    assert rows_in_time(AFFINE, tight) == 30
    assert wait_ns(AFFINE, tight, 31) > 0.0
    assert rows_in_time(AFFINE, tight._replace(is_full=False)) == 64


def test_a_first_row_that_has_little_time_keeps_the_batch_small():
    assert rows_in_time(AFFINE, door(slack_ns=20e6, busy_ns=8e6, first_ns=5.6e6)) == 8


def test_who_comes_while_a_batch_runs_that_leaves_no_time_waits_until_it_is_done():
    assert wait_ns(AFFINE, door(slack_ns=20e6, first_ns=2e6, busy_ns=18e6), 1) == pytest.approx(18e6)


def test_a_machine_that_needs_time_between_batches_lets_in_fewer():
    assert rows_in_time(AFFINE, door(rows_max=16, stretch=1.5)) < rows_in_time(AFFINE, door(rows_max=16))


@given(
    first_ms=st.floats(0.1, 20), row_ms=st.floats(0.0, 2), slack_ms=st.floats(1, 400), busy_ms=st.floats(0, 100),
    head_ms=st.floats(-50, 400), rows_max=st.integers(1, 64), instances=st.integers(1, 4), stretch=st.floats(1, 2),
    is_full=st.booleans(),
)  # fmt: skip
def test_all_rows_for_which_there_is_room_are_in_time_and_no_further_one_is(
    first_ms, row_ms, slack_ms, busy_ms, head_ms, rows_max, instances, stretch, is_full
):
    curve = curve_of(first_ms, row_ms)
    facts = door(
        slack_ns=slack_ms * 1e6, busy_ns=busy_ms * 1e6, first_ns=head_ms * 1e6, rows_max=rows_max,
        instances=instances, stretch=stretch, is_full=is_full,
    )  # fmt: skip
    rows = rows_in_time(curve, facts)
    assert all(wait_ns(curve, facts, fewer) <= 2.0 for fewer in {1, rows // 2, rows} if 0 < fewer <= rows)
    assert wait_ns(curve, facts, rows + 1) > 0.0


@given(first_ms=st.floats(0.1, 20), row_ms=st.floats(0.01, 2), time_ms=st.floats(0.1, 200), runs=st.floats(1, 3))
def test_the_rows_within_a_time_are_the_most_that_are_done_by_then(first_ms, row_ms, time_ms, runs):
    curve = curve_of(first_ms, row_ms)
    rows = rows_within(curve, time_ms * 1e6, 64, runs=runs)
    assert not rows or upper_ns(curve, rows) * runs <= time_ms * 1e6 + 2.0
    assert rows == 64 or upper_ns(curve, rows + 1) * runs >= time_ms * 1e6 - 2.0
