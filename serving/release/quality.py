"""Whether a package is as good as those before it on the same held-out rows, and so for every slice of them. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from serving.errors import ConfigError
from serving.package import Package
from serving.registry.record import Record
from serving.release.finding import Finding, at_most, inconclusive, not_applicable
from serving.release.held_out import HeldOut
from serving.release.inference import (
    Estimate,
    Numbers,
    corrected_resampled,
    mean_interval,
    paired_difference,
    worst_gap,
)
from serving.release.policy import QualityConfig
from serving.types import Array

PROBABILITY_MIN = 1e-15


@dataclass(frozen=True, slots=True)
class Rival:
    """A package that the new one is compared with: what it is called here, and its losses on the held-out rows."""

    name: str
    losses: Numbers


def losses_of(package: Package, outputs: Mapping[str, Array], held_out: HeldOut, config: QualityConfig) -> Numbers:
    """Return the loss of each row, shape (rows,). Raises ConfigError when metric, output and labels do not fit."""
    name = config.output or package.signature.outputs[0].name
    if name not in outputs:
        raise ConfigError(f"[quality] output = {name!r}, the model has: {', '.join(sorted(outputs))}")
    output = outputs[name]
    metric = config.metric
    if metric == "auto":
        metric = "squared_error" if output.dtype.kind == "f" and output.ndim == 1 else "error_rate"
    columns = 1 if output.ndim == 1 else int(np.prod(output.shape[1:]))
    if metric in {"absolute_error", "squared_error"}:
        if columns != 1 or held_out.label.dtype.kind not in "iuf":
            raise ConfigError(f"[quality] metric = {metric!r} needs one number per row; {name} has {columns}")
        error: Numbers = np.asarray(output, np.float64).reshape(-1) - np.asarray(held_out.label, np.float64)
        size: Numbers = np.abs(error)
        return size if metric == "absolute_error" else np.square(size)
    classes = package.labels.get(name, ())
    if metric == "log_loss" or columns > 1:
        return _scored(metric, np.asarray(output, np.float64).reshape(len(output), -1), held_out.label, classes)
    return np.asarray(_texts(output.reshape(-1)) != _texts(held_out.label), np.float64)


def quality(candidate: Numbers, rivals: Sequence[Rival], config: QualityConfig, overlap: str) -> Finding:
    """Judge whether a package is not inferior to production, nor to the best that ever was there.

    `rivals` begin with production; `overlap` says that held-out rows were trained on. The worst
    comparison counts.
    """
    mean = mean_interval(candidate, 0.05)
    if overlap:
        return inconclusive("quality", overlap)
    if not rivals:
        return _with(not_applicable("quality", "nothing is in production yet; mean loss"), mean)
    compared = [(paired_difference(rival.losses, candidate), rival) for rival in rivals]
    worst, rival = max(compared, key=lambda item: item[0].high)
    told = f"mean loss {mean.number:.4g}, minus that of {rival.name} on the same {len(candidate)} rows"
    if config.margin < 0:
        found = inconclusive("quality", f"{told}; the policy sets no [quality] margin")
        return _with(found, worst)
    return at_most("quality", worst.number, config.margin, told, low=worst.low, high=worst.high)


def overfitting(records: Sequence[Record], config: QualityConfig) -> Finding:
    """Judge the distance between the metrics on training rows and on folds, as the records of evaluation have them."""
    facts = [record.facts for record in records if record.kind == "evaluate"]
    train = {name: value for each in facts for name, value in each.get("train_metrics", {}).items()}
    folds = {name: values for each in facts for name, values in each.get("folds", {}).items()}
    both = sorted(train.keys() & folds.keys())
    if not both:
        why = "no record of kind evaluate has train_metrics and folds of the same metric"
        return inconclusive("overfitting", why) if config.overfitting_max >= 0 else not_applicable("overfitting", why)
    gaps = {}
    for name in both:
        values = np.abs(np.asarray(folds[name], np.float64) - train[name])
        gaps[name] = corrected_resampled(values, 1 / (len(values) - 1))
    name, worst = max(gaps.items(), key=lambda item: item[1].high)
    told = f"{name}, training rows against folds"
    if config.overfitting_max < 0:
        return _with(not_applicable("overfitting", f"{told}; reported only"), worst)
    return at_most("overfitting", worst.number, config.overfitting_max, told, low=worst.low, high=worst.high)


def slices(candidate: Numbers, held_out: HeldOut, config: QualityConfig) -> Finding:
    """Judge the largest gap between the mean losses of two slices."""
    gaps, small = {}, 0
    for name, groups in held_out.slices.items():
        members = {str(group): candidate[groups == group] for group in np.unique(groups)}
        judged = {group: losses for group, losses in members.items() if len(losses) >= config.slice_rows_min}
        small += len(members) - len(judged)
        if len(judged) >= 2:
            gaps[name] = judged
    note = f"; {small} slices of fewer than {config.slice_rows_min} rows are not judged" if small else ""
    if not gaps:
        return not_applicable("slices", f"no two slices to compare{note}")
    estimates = {name: worst_gap(groups, 0.05 / len(gaps)) for name, groups in gaps.items()}
    name, worst = max(estimates.items(), key=lambda item: item[1].high)
    means = {group: losses.mean() for group, losses in gaps[name].items()}
    told = f"by {name}, {max(means, key=lambda key: means[key])} loses most{note}"
    if config.slice_gap_max < 0:
        return _with(not_applicable("slices", f"{told}; reported only"), worst)
    return at_most("slices", worst.number, config.slice_gap_max, told, low=worst.low, high=worst.high)


def _scored(metric: str, scores: Numbers, label: Array, classes: Sequence[str]) -> Numbers:
    """Return the losses of scores per class, shape (rows, classes)."""
    names = tuple(classes) or tuple(str(number) for number in range(scores.shape[1]))
    places = {name: place for place, name in enumerate(names)}
    truth = np.array([places.get(text, -1) for text in _texts(label)])
    if (truth < 0).any() or len(names) != scores.shape[1]:
        raise ConfigError(f"[quality] labels of held-out rows are not all among the classes: {', '.join(names)[:200]}")
    if metric == "error_rate":
        return np.asarray(scores.argmax(axis=1) != truth, np.float64)
    loss: Numbers = -np.log(np.maximum(scores[np.arange(len(truth)), truth], PROBABILITY_MIN))
    return loss


def _texts(values: Array) -> "np.ndarray[tuple[int], np.dtype[np.object_]]":
    """Return labels as texts, so that 1, 1.0 and "1" are the same."""
    whole = values.dtype.kind == "f" and bool(np.equal(np.mod(values, 1), 0).all())
    plain = values.astype(np.int64) if whole else values
    return np.array([text.decode() if isinstance(text, bytes) else str(text) for text in plain.tolist()], np.object_)


def _with(finding: Finding, estimate: Estimate) -> Finding:
    return replace(finding, number=estimate.number, low=estimate.low, high=estimate.high)
