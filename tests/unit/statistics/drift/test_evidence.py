import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.statistics.drift.evidence import Reference, log_evidence, log_gamma, log_mixture, log_supremum

REFERENCE = np.array([50, 30, 15, 5, 0])


def reference(radius=0.01, counts=REFERENCE):
    return Reference.of(counts, np.asarray(len(counts)), np.asarray(radius))


def best_on_a_grid(counts, frequencies, radius):
    """The largest likelihood in the ball along the line that the maximiser lies on, by trying."""
    live = counts / counts.sum()
    w = np.concatenate([np.geomspace(1e-8, 0.5, 20_000), 1 - np.geomspace(0.5, 1e-9, 20_000)])[:, None]
    p = w * live + (1 - w) * frequencies
    known, seen = frequencies > 0, counts > 0
    kl = (frequencies[known] * np.log(frequencies[known] / p[:, known])).sum(1)
    likelihood = (counts[seen] * np.log(p[:, seen])).sum(1)
    return likelihood[kl <= radius].max()


@given(st.floats(1e-6, 1e8))
def test_log_gamma_is_the_standard_librarys(x):
    assert float(log_gamma(x)) == pytest.approx(math.lgamma(x), rel=1e-11, abs=1e-11)


@given(st.lists(st.integers(0, 400), min_size=5, max_size=5).filter(any), st.sampled_from([1e-4, 1e-3, 0.02, 0.3]))
def test_the_bound_is_the_largest_likelihood_in_the_ball(counts, radius):
    counts, frequencies = np.array(counts, float), REFERENCE / REFERENCE.sum()
    bound = float(log_supremum(counts, frequencies, np.asarray(radius)))
    best = best_on_a_grid(counts, frequencies, radius)
    assert best - 1e-6 <= bound <= best + 2e-3 * (1 + counts.sum())


def test_no_distribution_in_the_ball_is_likelier_than_the_bound():
    rng = np.random.default_rng(2)
    frequencies = REFERENCE[:4] / 100
    counts = np.array([10.0, 60.0, 20.0, 10.0])
    bound = float(log_supremum(counts, frequencies, np.asarray(0.05)))
    others = rng.dirichlet(100 * frequencies, size=50_000)
    inside = (frequencies * np.log(frequencies / others)).sum(1) <= 0.05
    assert inside.sum() > 1_000
    assert ((counts * np.log(others[inside])).sum(1) <= bound + 1e-9).all()


def test_the_mixture_is_a_distribution_over_sequences_of_rows():
    centres = reference().centres
    total = 0.0
    for a in range(4):
        for b in range(4 - a):
            for c in range(4 - a - b):
                for d in range(4 - a - b - c):
                    counts = np.array([a, b, c, d, 3 - a - b - c - d], float)
                    orders = math.factorial(3) / math.prod(math.factorial(int(n)) for n in counts)
                    total += orders * math.exp(log_mixture(counts, centres))
    assert total == pytest.approx(1.0, abs=1e-9)


def test_the_mean_of_the_evidence_is_at_most_one_at_the_worst_place_in_the_ball():
    rng = np.random.default_rng(4)
    model = reference(radius=0.0)
    counts = rng.multinomial(60, model.frequencies, size=20_000).astype(float)
    assert np.exp(log_evidence(counts, model)).mean() <= 1.0


def test_no_rows_are_no_evidence():
    assert float(log_evidence(np.zeros(5), reference())) == pytest.approx(0.0, abs=1e-9)


def test_a_slot_that_was_never_seen_in_the_reference_is_possible_and_is_evidence():
    model = reference()
    few, many = (float(log_evidence(np.array([50.0, 30, 15, 5, n]), model)) for n in (1, 40))
    assert np.isfinite([few, many]).all()
    assert few < 1.0 < many


def test_more_rows_of_the_same_drift_are_more_evidence_and_a_larger_ball_makes_less_of_it():
    drifted = np.array([20.0, 30, 30, 20, 0])
    assert log_evidence(3 * drifted, reference()) > log_evidence(drifted, reference()) > 0
    assert log_evidence(drifted, reference(0.5)) < log_evidence(drifted, reference())


def test_many_features_are_each_what_they_are_alone():
    rng = np.random.default_rng(6)
    references = rng.integers(1, 50, (7, 5))
    counts = rng.integers(0, 50, (3, 7, 5)).astype(float)
    together = log_evidence(counts, Reference.of(references, np.full(7, 5), np.full(7, 0.01)))
    alone = [[log_evidence(counts[i, k], reference(counts=references[k])) for k in range(7)] for i in range(3)]
    np.testing.assert_allclose(together, alone, rtol=1e-9, atol=1e-9)


def test_slots_beyond_a_features_own_change_nothing():
    wide = np.concatenate([REFERENCE, [0, 0, 0]])
    counts = np.array([20.0, 30, 30, 20, 0])
    padded = Reference.of(wide, np.asarray(5), np.asarray(0.01))
    assert log_evidence(np.concatenate([counts, np.zeros(3)]), padded) == pytest.approx(
        float(log_evidence(counts, reference()))
    )
