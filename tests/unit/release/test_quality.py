import dataclasses

import numpy as np
import pytest

from serving import package
from serving.errors import ConfigError
from serving.registry.record import GENESIS, Record
from serving.release.finding import Verdict
from serving.release.held_out import HeldOut
from serving.release.policy import QualityConfig
from serving.release.quality import Rival, losses_of, overfitting, quality, slices
from tests.support import packages

RNG = np.random.default_rng(0)
ROWS = 2000
GOOD = np.float64(RNG.random(ROWS) < 0.1)
CONFIG = QualityConfig(margin=0.02)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("package") / "p"
    package.write(packages.contents(), path)
    return package.read(path)


def held_out(label, **slice_groups):
    return HeldOut({}, np.asarray(label), {name: np.asarray(groups) for name, groups in slice_groups.items()})


def losses(model, outputs, label, **config):
    return losses_of(model, {"y": np.asarray(outputs)}, held_out(label), QualityConfig(**config)).tolist()


def test_each_metric_is_a_loss_per_row(model):
    scores = [[0.7, 0.1, 0.1, 0.1], [0.1, 0.2, 0.3, 0.4]]
    assert losses(model, scores, ["one", "three"]) == [0, 1]
    assert losses(model, scores, ["one", "three"], metric="log_loss") == pytest.approx([-np.log(0.7), -np.log(0.3)])
    assert losses(model, [1.0, 2.0], [1.5, 2.0]) == [0.25, 0]
    assert losses(model, [[1.0], [2.0]], [1.5, 2.0], metric="absolute_error") == [0.5, 0]
    assert losses(model, np.array([1, 2]), [1.0, 3.0]) == [0, 1]
    assert losses(model, np.array(["a", "b"], object), ["a", "a"]) == [0, 1]


@pytest.mark.parametrize(
    ("outputs", "label", "config", "message"),
    [
        ([[0.0] * 4], ["five"], {}, "not all among the classes"),
        ([[0.0] * 4], [1.0], {"metric": "squared_error"}, "one number per row"),
        ([1.0], ["x"], {"metric": "squared_error"}, "one number per row"),
        ([1.0], [1.0], {"output": "z"}, "the model has: y"),
    ],
)
def test_what_does_not_fit_together_is_named(model, outputs, label, config, message):
    with pytest.raises(ConfigError, match=message):
        losses(model, outputs, label, **config)


def worse_by(share):
    return np.maximum(GOOD, np.float64(np.random.default_rng(1).random(ROWS) < share))


@pytest.mark.parametrize(
    ("candidate", "verdict"),
    [(GOOD, Verdict.PASS), (worse_by(0.004), Verdict.PASS), (worse_by(0.02), Verdict.INCONCLUSIVE),
     (worse_by(0.1), Verdict.FAIL)],
)  # fmt: skip
def test_quality_is_judged_by_the_bound_of_the_difference(candidate, verdict):
    assert quality(candidate, [Rival("affine/1", GOOD)], CONFIG, "").verdict is verdict


def test_margins_do_not_add_up_because_the_best_that_ever_was_counts():
    little_worse, worse = worse_by(0.015), np.maximum(worse_by(0.015), worse_by(0.05))
    present, best = Rival("affine/2", little_worse), Rival("affine/1", GOOD)
    alone = quality(worse, [present], QualityConfig(margin=0.05), "")
    both = quality(worse, [present, best], QualityConfig(margin=0.05), "")
    assert both.number > alone.number
    assert "affine/1" in both.explanation


def test_without_a_margin_or_on_rows_that_were_trained_on_nothing_is_said():
    rival = Rival("affine/1", GOOD)
    assert quality(GOOD, [rival], QualityConfig(), "").verdict is Verdict.INCONCLUSIVE
    overlap = quality(GOOD, [rival], CONFIG, "3 of 10 held-out rows are among the training rows")
    assert (overlap.verdict, overlap.explanation[:7]) == (Verdict.INCONCLUSIVE, "3 of 10")
    assert quality(GOOD, [], CONFIG, "").verdict is Verdict.NOT_APPLICABLE


def evaluation(train, folds):
    facts = {"train_metrics": {"accuracy": train}, "folds": {"accuracy": folds}}
    return Record(1, "", "ada", "evaluate", "affine", facts, GENESIS)


@pytest.mark.parametrize(
    ("train", "verdict"), [(0.91, Verdict.PASS), (0.952, Verdict.INCONCLUSIVE), (1.0, Verdict.FAIL)]
)
def test_the_gap_between_training_rows_and_folds_is_judged_with_a_bound(train, verdict):
    record = evaluation(train, [0.9, 0.91, 0.89, 0.9, 0.9])
    assert overfitting([record], QualityConfig(overfitting_max=0.05)).verdict is verdict


def test_without_a_bound_the_gap_is_reported_only():
    finding = overfitting([evaluation(1.0, [0.9, 0.8])], QualityConfig())
    assert (finding.verdict, finding.number) == (Verdict.NOT_APPLICABLE, pytest.approx(0.15))
    assert overfitting([], QualityConfig(overfitting_max=0.1)).verdict is Verdict.INCONCLUSIVE


def sliced(share_of_b, **config):
    groups = np.where(np.arange(ROWS) % 2, "a", "b")
    losses = np.where(groups == "b", np.float64(np.random.default_rng(2).random(ROWS) < share_of_b), GOOD)
    return slices(losses, held_out(groups, group=groups), QualityConfig(slice_gap_max=0.1, **config))


@pytest.mark.parametrize(("share", "verdict"), [(0.1, Verdict.PASS), (0.2, Verdict.INCONCLUSIVE), (0.6, Verdict.FAIL)])
def test_the_gap_between_slices_is_judged_by_its_simultaneous_interval(share, verdict):
    assert sliced(share).verdict is verdict


def test_small_slices_are_told_and_not_judged():
    finding = sliced(0.6, slice_rows_min=ROWS)
    assert finding.verdict is Verdict.NOT_APPLICABLE
    assert "2 slices of fewer than" in finding.explanation


def test_without_a_bound_slices_are_reported_only():
    groups = np.where(np.arange(ROWS) % 2, "a", "b")
    finding = slices(GOOD, held_out(groups, group=groups), QualityConfig())
    assert finding.verdict is Verdict.NOT_APPLICABLE
    assert dataclasses.astuple(finding)[2] is not None
