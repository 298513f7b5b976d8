"""What Prometheus sees of drift: an aggregate, and a bounded number of features. Pure.

Made when a pane closes, and when a scrape finds that rows have come since; never on the I/O thread.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from serving.statistics.drift.report import LOG_10, DriftReport, expected_of, ranked

FEATURES_SHOWN_MAX = 10
"""Features of a model version that have gauges at a time: the strongest ones."""
DERIVED_SHOWN_MAX = 10
"""The same for features of whole rows."""
_LOWEST = -300.0
"""What no evidence at all is shown as; evidence is a power of ten."""

_LABELS = ("model", "version")


@dataclass(frozen=True, slots=True)
class FeatureView:
    """One of the strongest features; evidence as a power of ten."""

    name: str
    evidence: float
    psi: float
    missing: float
    out_of_range: float


@dataclass(frozen=True, slots=True)
class DriftView:
    """The drift of one model version."""

    model: str
    version: str
    is_alarm: bool
    evidence: float
    alarms: int
    rows: int
    panes: int
    spent_s: float
    features: tuple[FeatureView, ...]
    expected_accuracy: float | None = None

    @classmethod
    def of(cls, report: DriftReport) -> Self:
        """Take from a report what is shown."""
        features = tuple(
            FeatureView(
                drift.feature.name,
                _shown(drift.evidence),
                drift.distances.psi,
                drift.distances.missing.value,
                drift.distances.out_of_range.value,
            )
            for drift in (
                *ranked(report)[:FEATURES_SHOWN_MAX],
                *ranked(report, is_derived=True)[:DERIVED_SHOWN_MAX],
            )
        )
        expected = expected_of(report)
        evidence = _shown(report.evidence_log / LOG_10)
        return cls(
            report.model, report.version, report.is_alarm, evidence, report.alarms, report.rows, report.panes_closed,
            report.spent_ns / 1e9, features, None if expected is None else expected.value,
        )  # fmt: skip


def families(views: Sequence[DriftView]) -> Iterator[Metric]:
    """Yield the metric families of what is watched."""
    if not views:
        return
    yield _gauge("penstock_drift_alarm", "Whether the rows have drifted from the reference.", views, _is_alarm)
    yield _gauge("penstock_drift_evidence", "Evidence of drift, as a power of ten.", views, lambda view: view.evidence)
    if expecting := [view for view in views if view.expected_accuracy is not None]:
        text = "Share of predictions expected to be right, before labels."
        yield _gauge("penstock_drift_expected_accuracy", text, expecting, lambda view: view.expected_accuracy or 0.0)
    for name, text, value in _COUNTERS:
        counter = CounterMetricFamily(name, text, labels=_LABELS)
        for view in views:
            counter.add_metric((view.model, view.version), value(view))
        yield counter
    for name, text, of_feature in _FEATURE_GAUGES:
        gauge = GaugeMetricFamily(name, text, labels=(*_LABELS, "feature"))
        for view in views:
            for feature in view.features:
                gauge.add_metric((view.model, view.version, feature.name), of_feature(feature))
        yield gauge


_COUNTERS: tuple[tuple[str, str, Callable[[DriftView], float]], ...] = (
    ("penstock_drift_alarms", "Alarms that have begun.", lambda view: view.alarms),
    ("penstock_drift_rows", "Sampled rows that were counted for drift.", lambda view: view.rows),
    ("penstock_drift_panes", "Panes that were closed.", lambda view: view.panes),
    ("penstock_drift_seconds", "Time that counting for drift has taken.", lambda view: view.spent_s),
)

_FEATURE_GAUGES: tuple[tuple[str, str, Callable[[FeatureView], float]], ...] = (
    ("penstock_drift_feature_evidence", "The strongest features, as a power of ten.", lambda view: view.evidence),
    ("penstock_drift_feature_psi", "Population stability index.", lambda view: view.psi),
    ("penstock_drift_feature_missing", "Share of rows that are missing or NaN.", lambda view: view.missing),
    (
        "penstock_drift_feature_out_of_range",
        "Share of rows beyond the reference, or unseen in it.",
        lambda view: view.out_of_range,
    ),
)


def _gauge(name: str, text: str, views: Iterable[DriftView], value: Callable[[DriftView], float]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=_LABELS)
    for view in views:
        family.add_metric((view.model, view.version), value(view))
    return family


def _is_alarm(view: DriftView) -> float:
    return float(view.is_alarm)


def _shown(evidence: float) -> float:
    return evidence if math.isfinite(evidence) else _LOWEST
