"""What the overload bench computes; that it runs is for whoever measures."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from bench.overload import Round, recovered_after_s, step_times, verdict
from bench.prober import Refusals
from bench.slices import Interval

GOOD = Round(
    capacity=100.0, goodput=90.0, p50_ms=50.0, p99_ms=99.0, longest_queue=5, grown_mib=0.0, recovery_s=0.25,
    refusals=Refusals(Counter({"RESOURCE_EXHAUSTED": 2}), [1.0, 2.0], with_pushback=2),
)  # fmt: skip


def test_arrivals_come_at_each_rate_for_its_time():
    moments = step_times([(1000.0, 2.0), (100.0, 3.0)], seed=1)
    assert (moments[0], moments[-1]) == (0.0, 5.0)
    assert np.all(np.diff(moments) >= 0.0)
    assert np.count_nonzero(moments < 2.0) == pytest.approx(2000, rel=0.1)
    assert np.count_nonzero(moments > 2.0) == pytest.approx(300, rel=0.25)


def test_all_is_well_after_the_last_interval_in_which_somebody_was_refused_or_late():
    intervals = [
        Interval(0.0, 1.0, answered=5, in_slo=5, errors=Counter({"RESOURCE_EXHAUSTED": 1})),
        Interval(1.0, 1.25, answered=5, in_slo=4),
        Interval(1.25, 1.5, answered=5, in_slo=5),
    ]
    assert recovered_after_s(intervals, 1.0) == 0.25
    assert recovered_after_s(intervals[2:], 1.0) == 0.0


def test_a_round_that_keeps_all_promises_has_status_0():
    assert verdict([GOOD], 100.0) == 0


@pytest.mark.parametrize(
    "broken",
    [
        {"goodput": 84.0}, {"p99_ms": 101.0}, {"recovery_s": 1.1},
        {"refusals": Refusals(Counter({"UNAVAILABLE": 1}), [1.0], with_pushback=1)},
        {"refusals": Refusals(Counter({"RESOURCE_EXHAUSTED": 1}), [1.0], with_pushback=0)},
        {"refusals": Refusals(Counter({"RESOURCE_EXHAUSTED": 1}), [9.0], with_pushback=1)},
    ],
)  # fmt: skip
def test_a_broken_promise_has_status_1(broken):
    assert verdict([replace(GOOD, **broken)], 100.0) == 1
