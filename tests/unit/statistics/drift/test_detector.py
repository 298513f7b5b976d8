"""The detector keeps a bounded number of beginnings, finds shifts when it says, and keeps quiet without drift."""

import numpy as np
import pytest

from bench.drift_simulation import ALARM, World, delays, false_alarms
from serving.config import CALIBRATION_PANES_MIN
from serving.statistics.drift.calibration import design_effects
from serving.statistics.drift.detector import Detector, log_sum_exp, mean_evidence, weight_of
from serving.statistics.drift.evidence import Reference
from serving.statistics.drift.radius import DELTA, radii

COUNTS = np.tile(np.full(16, 625), (2, 1))


def detector(tolerance=0.0):
    return Detector(Reference.of(COUNTS, np.full(2, 16), radii(COUNTS) + tolerance))


def panes(count, p, seed=0, rows=100):
    return np.random.default_rng(seed).multinomial(rows, p, size=(count, 2)).astype(float)


UNIFORM = np.full(16, 1 / 16)
TILTED = np.linspace(0.5, 1.5, 16) / 16


def test_the_weights_of_all_beginnings_up_to_a_pane_never_sum_to_more_than_its_number():
    totals = np.cumsum([weight_of(pane) for pane in range(1, 20_000)])
    assert (totals <= np.arange(1, 20_000)).all()
    assert totals[-1] > 0.9 * 19_999


def test_about_a_dozen_beginnings_are_kept_however_long_it_runs():
    ours = detector()
    kept = [len(ours.starts) for pane in panes(300, UNIFORM) if len(ours.add(pane))]
    assert max(kept) <= 18
    assert len({start.pane for start in ours.starts}) == len(ours.starts)


def test_a_beginning_has_counted_everything_since():
    ours = detector()
    history = panes(100, UNIFORM)
    for pane in history:
        ours.add(pane)
    for start in ours.starts:
        np.testing.assert_array_equal(start.counts, history[start.pane - 1 :].sum(0))


def test_looking_adds_nothing():
    ours = detector()
    first, second = panes(2, TILTED)
    ours.add(first)
    looked = ours.look(second)
    np.testing.assert_array_equal(looked, ours.add(second))
    assert ours.panes == 2


def test_forgotten_beginnings_only_lower_the_evidence():
    ours = detector()
    logs = [ours.add(pane) for pane in panes(40, TILTED)][-1]
    ours.keep_from(30)
    assert (log_sum_exp(ours.by_start()) <= logs).all()
    assert min(start.pane for start in ours.starts) >= 30


def test_the_mean_over_features_is_in_the_middle_of_them():
    assert mean_evidence(np.log([2.0, 4.0])) == pytest.approx(np.log(3.0))


def test_a_drift_that_ends_is_forgotten():
    ours = detector()
    drifted = [mean_evidence(ours.add(pane)) for pane in panes(10, TILTED)][-1]
    after = [mean_evidence(ours.add(pane)) for pane in panes(120, UNIFORM, seed=1)][-1]
    assert after < np.log(ALARM) < drifted


def test_tolerance_keeps_small_shifts_quiet():
    nearly = np.linspace(0.85, 1.15, 16) / 16
    strict, tolerant = detector(), detector(0.005)
    stream = panes(60, nearly, rows=2_000)
    assert mean_evidence([strict.add(pane) for pane in stream][-1]) > np.log(ALARM)
    assert mean_evidence([tolerant.add(pane) for pane in stream][-1]) < np.log(ALARM)


def test_the_radius_is_that_of_the_true_distribution_in_all_but_delta_of_the_references():
    rng = np.random.default_rng(5)
    p = np.array([0.4, 0.3, 0.2, 0.09, 0.01])
    drawn = rng.multinomial(2_000, p, size=400)
    kl = np.array([(f[f > 0] * np.log(f[f > 0] / p[f > 0])).sum() for f in drawn / 2_000])
    covered = kl <= radii(drawn[:1])[0]
    assert covered.mean() >= 1 - 2 * DELTA


def test_the_radius_grows_with_the_number_of_features_and_shrinks_with_the_rows():
    one = radii(COUNTS[:1])[0]
    assert one < radii(np.tile(COUNTS[0], (30, 1)))[0] < 2 * one
    assert radii(4 * COUNTS[:1])[0] == pytest.approx(one / 4, rel=0.1)


@pytest.mark.parametrize(("sigma", "stated"), [(0.5, 3), (0.3, 9)])
@pytest.mark.parametrize("quiet_panes", [0, 70])
def test_a_shift_is_found_within_a_fifth_of_the_stated_number_of_panes(sigma, stated, quiet_panes):
    rng = np.random.default_rng(8)
    found = delays(World.make(60, 1, 16, rng), sigma, quiet_panes=quiet_panes, panes_max=4 * stated, rng=rng)
    assert 0.8 * stated <= found.mean() <= 1.2 * stated


def test_streams_without_drift_alarm_no_more_often_than_stated():
    rng = np.random.default_rng(9)
    alarms, at_risk = false_alarms(World.make(100, 1, 16, rng), panes=60, threshold=20.0, rng=rng)
    assert at_risk > 5_000
    assert alarms <= at_risk / 20.0


def test_clusters_of_rows_alarm_falsely_until_the_detector_is_calibrated():
    rng = np.random.default_rng(10)
    naive, _ = false_alarms(World.make(20, 1, 16, rng), panes=40, threshold=ALARM, rng=rng, cluster_rows=5)
    calibrated, _ = false_alarms(
        World.make(20, 1, 16, rng), panes=40, threshold=ALARM, rng=rng, cluster_rows=5, calibrated=True
    )
    assert naive == 20
    assert calibrated == 0


@pytest.mark.parametrize("cluster", [1, 5])
def test_the_design_effect_is_the_size_of_the_clusters(cluster):
    rng = np.random.default_rng(12)
    counted = rng.multinomial(500 // cluster, UNIFORM, size=(CALIBRATION_PANES_MIN, 4)) * cluster
    effects = design_effects(counted)
    assert (effects >= cluster).mean() >= 0.75
    assert (effects <= 1.4 * cluster).all()


def test_a_feature_that_never_varies_has_no_design_effect():
    counted = np.zeros((CALIBRATION_PANES_MIN, 1, 16), np.int64)
    counted[:, 0, 3] = 100
    assert design_effects(counted).tolist() == [1.0]
