"""Expected accuracy from counts of confidences."""

from dataclasses import replace

import numpy as np
import pytest

from serving.statistics.derived import Derivation
from serving.statistics.drift.accuracy import expected_accuracy
from serving.statistics.profile import ReferenceProfile


def calibrated(rows=20_000, seed=0):
    """The confidence of a model that is right as often as it says, and its held-out rows."""
    rng = np.random.default_rng(seed)
    scores = rng.dirichlet([1.0, 1.0], size=rows).astype(np.float32)
    profile = ReferenceProfile.of_tensors({"x": scores[:, :1]}, {"s": scores})
    (feature,) = [feature for feature in profile.features if feature.derivation is Derivation.CONFIDENCE]
    slots = feature.slots_of(scores.max(axis=1))
    right = rng.random(rows) < scores.max(axis=1)
    counts = [np.bincount(which, minlength=feature.slots) for which in (slots, slots[right])]
    return replace(feature, held_out=counts[0], held_out_right=counts[1])


def test_the_same_rows_lead_to_the_held_out_accuracy():
    feature = calibrated()
    found = expected_accuracy(feature, feature.held_out)
    assert found.value == pytest.approx(found.held_out, abs=1e-3)
    assert found.low < found.value < found.high
    assert (found.rows, found.held_out_rows) == (20_000, 20_000)


@pytest.mark.parametrize(("low", "high"), [(0.5, 0.6), (0.9, 1.0)])
def test_rows_of_other_confidences_lead_to_what_these_are_worth(low, high):
    feature = calibrated()
    confidences = np.random.default_rng(1).uniform(low, high, 5_000)
    found = expected_accuracy(feature, np.bincount(feature.slots_of(confidences), minlength=feature.slots))
    assert found.value == pytest.approx(confidences.mean(), abs=0.02)


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    inside = 0
    for seed in range(200):
        feature = calibrated(400, seed)
        live = np.random.default_rng(1_000 + seed).dirichlet([1.0, 1.0], size=300).max(axis=1)
        found = expected_accuracy(feature, np.bincount(feature.slots_of(live), minlength=feature.slots))
        inside += found.low <= 0.75 <= found.high  # the mean of the larger of two uniform shares
    assert inside >= 180


def test_fewer_independent_rows_widen_the_interval():
    feature = calibrated()
    plain, clustered = (expected_accuracy(feature, feature.held_out, design_effect=effect) for effect in (1.0, 25.0))
    assert clustered.high - clustered.low > plain.high - plain.low


def test_without_held_out_or_live_rows_nothing_is_expected():
    feature = calibrated()
    assert expected_accuracy(replace(feature, held_out=None, held_out_right=None), feature.held_out) is None
    assert expected_accuracy(feature, np.zeros(feature.slots, np.int64)) is None
