from collections import Counter

import numpy as np
import pytest

from bench.slices import Interval, OpenLoop, Recording, Slice
from bench.tail_share import QUIET_DESIGN_EFFECT, TailShare, blocks

SLICE = Slice(load=OpenLoop(rate_per_s=1000.0, duration_s=5.0), slo_ms=10.0)


def recording(over, requests=1000, **others):
    """Return a slice whose intervals had so many requests over X each."""
    intervals = [
        Interval(0.25 * index, 0.25 * (index + 1), answered=requests, in_slo=requests - count)
        for index, count in enumerate(over)
    ]
    return Recording(SLICE, intervals, **others)


def test_errors_and_requests_without_an_answer_are_over():
    slice_ = recording([5], unanswered=2, unsent=3)
    slice_.intervals[0].errors = Counter(UNAVAILABLE=10)
    share = TailShare.of(slice_)
    assert (share.requests, share.over) == (1015, 20)


def test_a_slice_without_requests_shows_nothing():
    share = TailShare.of(Recording(SLICE))
    assert (share.share, share.interval(), share.passes()) == (1.0, (0.0, 1.0), None)


@pytest.mark.parametrize(("over", "passes"), [(2, True), (30, False), (10, None)])
def test_independent_requests_decide_as_a_binomial_test_does(over, passes):
    counts = np.random.default_rng(0).binomial(1000, over / 1000, 20)
    share = TailShare.of(recording(counts))
    assert share.design_effect < 3
    assert share.passes() is passes


def test_requests_over_x_that_come_in_bunches_decide_later():
    bunched = TailShare.of(recording([300] + [0] * 19))
    assert bunched.design_effect > 100
    assert bunched.passes() is None
    assert TailShare.of(recording([15] * 20)).passes() is False


def test_bunches_longer_than_an_interval_are_seen():
    alternating = TailShare.of(recording(([40] * 4 + [0] * 4) * 8))
    single = TailShare.of(recording([40, 0] * 32))
    assert alternating.design_effect > 2 * single.design_effect


def test_a_quiet_slice_is_taken_with_caution():
    share = TailShare.of(recording([0] * 4))
    assert share.design_effect == QUIET_DESIGN_EFFECT
    assert share.passes() is True
    assert TailShare.of(recording([0], requests=1000)).passes() is None


def test_the_interval_holds_the_true_share_of_bunched_requests():
    random = np.random.default_rng(1)
    held = 0
    for _ in range(100):
        # 20 bunches of 10 requests on average among 20,000: 1 %.
        share = TailShare.of(recording(10 * random.poisson(1.0, 20)))
        low, high = share.interval()
        held += low <= 0.01 <= high
    assert held >= 90


def test_what_is_left_over_makes_no_block():
    counts = np.arange(10).reshape(5, 2)
    assert blocks(counts, 2).tolist() == [[2, 4], [10, 12]]
