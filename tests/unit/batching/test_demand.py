import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.batching.demand import (
    MISSED,
    NUMBERS,
    burst_factor,
    note_arrival,
    note_batch,
    note_settled,
    rows_per_ns,
    utilisation,
)


def arrived(gaps_ns, rows=1):
    demand, now_ns = [0.0] * NUMBERS, 1e9
    for gap_ns in gaps_ns:
        now_ns += gap_ns
        note_arrival(demand, rows, now_ns)
    return demand, now_ns


def test_the_rate_is_that_of_the_last_rows():
    demand, now_ns = arrived([1e6] * 200 + [1e4] * 300)
    assert rows_per_ns(demand, now_ns) == pytest.approx(1e-4, rel=0.05)
    assert burst_factor(demand) > 10


def test_rows_that_come_together_count_each():
    one_by_one, now_ns = arrived([1e4] * 400)
    in_groups, later_ns = arrived([1e5] * 40, rows=10)
    assert rows_per_ns(in_groups, later_ns) == pytest.approx(rows_per_ns(one_by_one, now_ns), rel=0.01)


def test_silence_lowers_the_rate():
    demand, now_ns = arrived([1e4] * 100)
    assert rows_per_ns(demand, now_ns + 1e9) == pytest.approx(1e-9)


def test_a_pause_between_bursts_says_little_about_the_rate_within_one():
    demand, now_ns = arrived(([1e9] + [1e4] * 99) * 3)
    assert rows_per_ns(demand, now_ns) == pytest.approx(1e-4, rel=0.1)


def test_nothing_is_asked_before_anything_came():
    demand = [0.0] * NUMBERS
    assert rows_per_ns(demand, 1e9) == 0
    assert burst_factor(demand) == 1
    assert utilisation(demand, 1, 1e9) == 0


@pytest.mark.parametrize(("instances", "expected"), [(1, 0.8), (2, 0.4)])
def test_utilisation_is_the_part_of_time_that_batches_take(instances, expected):
    demand = [0.0] * NUMBERS
    for batch in range(200):
        note_batch(demand, 8e5, batch * 1e6)
    assert utilisation(demand, instances, 199e6) == pytest.approx(expected, rel=0.02)


def test_an_instance_that_rests_is_used_less_and_less():
    demand = [0.0] * NUMBERS
    for batch in range(200):
        note_batch(demand, 1e6, batch * 1e6)
    assert utilisation(demand, 1, 199e6) > 0.9
    assert utilisation(demand, 1, 199e6 + 40e6) < 0.5


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), max_size=50))
def test_the_part_that_missed_is_a_part(settled):
    demand = [0.0] * NUMBERS
    for answered, missed in settled:
        note_settled(demand, answered + missed, missed)
        assert 0 <= demand[MISSED] <= 1
