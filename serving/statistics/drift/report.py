"""What is known about the drift of one model version, from one server or several: raw counts, and all that derives.

A report carries counts; adding two reports adds these, pane by pane, and the rest is derived again. Pure.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.errors import ConfigError
from serving.statistics.derived import Derivation
from serving.statistics.drift import accuracy
from serving.statistics.drift.accuracy import ExpectedAccuracy, expected_accuracy
from serving.statistics.drift.counting import Block
from serving.statistics.drift.detector import Detector, mean_evidence
from serving.statistics.drift.distances import Distances, Ratio, distances, noise_floor
from serving.statistics.drift.evidence import Reference
from serving.statistics.drift.panes import Pane
from serving.statistics.drift.radius import DELTA, radii
from serving.statistics.profile import SLOTS_MAX, Feature

LOG_10 = math.log(10.0)
ALARM_FEATURES_MAX = 5


@dataclass(frozen=True, slots=True)
class Terms:
    """Under which terms evidence is computed: of all that is added up, they must be the same."""

    pane_s: float
    pane_rows_min: int
    tolerance: float
    alarm_panes: int

    @property
    def alarm_log(self) -> float:
        """The log of the evidence that alarms."""
        return math.log(self.alarm_panes)


@dataclass(frozen=True, slots=True, eq=False)
class DriftReport:
    """The drift of one model version.

    `phase` is "collecting" (no reference yet), "calibrating" or "watching". `rows` were sampled of the `rows_seen` that
    were served while it was not paused; `panes` are the last closed ones, `open` what was counted since. `logs`
    [features] are the natural logs of the evidence, with the open pane, and `evidence` that of the mean over features
    after each closed pane, by its boundary. `effects` [features] are design effects. For `paused_s` more no row is
    counted, on some replicas where there are several.
    """

    model: str
    version: str
    phase: str
    data_digest: str
    is_self_reference: bool
    is_calibrated: bool
    terms: Terms
    features: tuple[Feature, ...]
    rows: int
    rows_seen: int
    panes_closed: int
    alarms: int
    is_alarm: bool
    effects: NDArray[np.float64]
    logs: NDArray[np.float64]
    evidence: tuple[tuple[int, float], ...]
    panes: tuple[Pane, ...]
    open: Block
    spent_ns: int = 0
    infer_ns: int = 0
    replicas: int = 1
    paused_s: float = 0.0

    @property
    def recent(self) -> Block:
        """The counts of the panes that are kept and of the open one."""
        total = self.open.copy()
        for pane in self.panes:
            total.add(pane.block)
        return total

    @property
    def evidence_log(self) -> float:
        """The log of the mean evidence, which alarms."""
        return mean_evidence(self.logs) if len(self.logs) else -math.inf

    @property
    def guarantee(self) -> str:
        """What is promised about false alarms."""
        hours = self.terms.alarm_panes * self.terms.pane_s / 3600
        rate = f"at most one false alarm in {self.terms.alarm_panes} panes of {self.terms.pane_s:g} s ({hours:.3g} h)"
        if self.is_calibrated:
            return f"calibrated: about {rate}"
        return f"guaranteed for independent rows, but for a chance of {DELTA}: {rate}"


@dataclass(frozen=True, slots=True)
class FeatureDrift:
    """A feature, its evidence as the log of base 10, and its distances."""

    feature: Feature
    evidence: float
    distances: Distances


def ranked(report: DriftReport, *, is_derived: bool = False) -> list[FeatureDrift]:
    """Return the features by evidence, the strongest first: those of elements, or those of whole rows."""
    recent = report.recent
    floors: dict[tuple[bytes, int], float] = {}
    found = []
    for row, feature in enumerate(report.features):
        if (feature.derivation is not Derivation.ELEMENT) is not is_derived:
            continue
        counts = recent.counts[row]
        effect = float(report.effects[row])
        key = (np.sort(feature.counts).tobytes(), round(int(counts.sum()) / effect))
        if key not in floors:
            floors[key] = noise_floor(feature.counts, key[1])
        said = distances(feature, counts, recent.sums[row], noise_floor=floors[key], design_effect=effect)
        found.append(FeatureDrift(feature, float(report.logs[row]) / LOG_10, said))
    return sorted(found, key=lambda drift: (-drift.evidence, -drift.distances.psi, drift.feature.name))


def expected_of(report: DriftReport) -> ExpectedAccuracy | None:
    """Return how often the model is expected to be right on what was served lately, if anything tells."""
    recent = report.recent
    found = (
        expected_accuracy(feature, recent.counts[row], design_effect=float(report.effects[row]))
        for row, feature in enumerate(report.features)
    )
    return next((expected for expected in found if expected is not None), None)


def as_json(report: DriftReport) -> dict[str, Any]:
    """Return what is known, for machines: features ranked by evidence, those of whole rows apart."""
    return {
        "model": report.model,
        "version": report.version,
        "phase": report.phase,
        "paused_s": report.paused_s,
        "reference": "self" if report.is_self_reference else "profile",
        "data_digest": report.data_digest,
        "rows": report.rows,
        "rows_seen": report.rows_seen,
        "recent_rows": report.recent.rows,
        "panes": report.panes_closed,
        "replicas": report.replicas,
        "alarm": report.is_alarm,
        "alarms": report.alarms,
        "evidence": _finite(report.evidence_log / LOG_10),
        "alarm_at": report.terms.alarm_log / LOG_10,
        "guarantee": report.guarantee,
        "overhead": report.spent_ns / report.infer_ns if report.infer_ns else None,
        "features": [_feature_json(drift) for drift in ranked(report)],
        "derived": [_feature_json(drift) for drift in ranked(report, is_derived=True)],
        "expected_accuracy": accuracy.as_json(expected_of(report)),
        "history": [{"boundary": boundary, "evidence": log / LOG_10} for boundary, log in report.evidence],
    }


def alarm_facts(report: DriftReport, subject: str) -> dict[str, Any]:
    """Return what to tell about an alarm, for machines: the report without its history and its weaker features."""
    facts = as_json(report)
    del facts["history"]
    for kind in ("features", "derived"):
        facts[kind] = facts[kind][:ALARM_FEATURES_MAX]
    return {"event": "drift_alarm", "subject": subject, **facts}


def _feature_json(drift: FeatureDrift) -> dict[str, Any]:
    said = drift.distances
    return {
        "name": drift.feature.name,
        "role": drift.feature.role.value,
        "kind": drift.feature.kind.value,
        "evidence": _finite(drift.evidence),
        "psi": said.psi,
        "noise_floor": said.noise_floor,
        "missing": said.missing.value,
        "missing_interval": _interval(said.missing),
        "out_of_range": said.out_of_range.value,
        "out_of_range_interval": _interval(said.out_of_range),
        "jensen_shannon": said.jensen_shannon,
        "hellinger": said.hellinger,
        "kolmogorov_smirnov": said.kolmogorov_smirnov,
        "wasserstein_iqr": said.wasserstein,
        "chi_square": said.chi_square,
        "degrees": said.degrees,
        "p_value": said.p_value,
        "mean_shift": said.mean_shift,
        "spread_ratio": said.spread_ratio,
        "moved": [{"slot": moved.slot, "before": moved.before, "now": moved.now} for moved in said.moved],
    }


def merged(reports: Sequence[DriftReport]) -> DriftReport:
    """Add the reports of replicas up: panes that closed at the same boundary are one. Raises ConfigError.

    The detector runs over the added panes anew, so it sees those that are kept, and no alarm before them.
    """
    first = reports[0]
    for other in reports[1:]:
        if (other.data_digest, other.terms, _names(other)) != (first.data_digest, first.terms, _names(first)):
            raise ConfigError(
                f"{other.model}/{other.version} and {first.model}/{first.version} were not compared with the same "
                "reference under the same terms; merge replicas of one model version"
            )
    blocks: dict[int, Block] = {}
    for pane in (pane for report in reports for pane in report.panes):
        blocks.setdefault(pane.boundary, Block(len(first.features))).add(pane.block)
    panes = tuple(Pane(boundary, blocks[boundary]) for boundary in sorted(blocks))
    open_block = Block(len(first.features))
    for report in reports:
        open_block.add(report.open)
    effects = np.max([report.effects for report in reports], axis=0)
    return _with_evidence(
        replace(
            first,
            rows=sum(report.rows for report in reports),
            rows_seen=sum(report.rows_seen for report in reports),
            panes_closed=len(panes),
            alarms=0,
            is_calibrated=any(report.is_calibrated for report in reports),
            effects=effects,
            panes=panes,
            open=open_block,
            spent_ns=sum(report.spent_ns for report in reports),
            infer_ns=sum(report.infer_ns for report in reports),
            replicas=sum(report.replicas for report in reports),
            paused_s=max(report.paused_s for report in reports),
        )
    )


def _with_evidence(report: DriftReport) -> DriftReport:
    """Run the detector over the panes of a report."""
    if not report.features:
        return report
    reference = np.stack([padded(feature.counts) for feature in report.features])
    slots = np.array([feature.slots for feature in report.features])
    detector = Detector(Reference.of(reference, slots, radii(reference) + report.terms.tolerance))
    logs, evidence, alarms, was_alarm = np.full(len(slots), -math.inf), [], 0, False
    for pane in report.panes:
        logs = detector.add(pane.block.counts / report.effects[:, None])
        evidence.append((pane.boundary, mean_evidence(logs)))
        is_alarm = evidence[-1][1] >= report.terms.alarm_log
        alarms, was_alarm = alarms + (is_alarm and not was_alarm), is_alarm
    if report.open.rows >= report.terms.pane_rows_min:
        logs = detector.look(report.open.counts / report.effects[:, None])
    is_alarm = mean_evidence(logs) >= report.terms.alarm_log
    return replace(report, logs=logs, evidence=tuple(evidence), alarms=alarms, is_alarm=is_alarm)


def padded(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return counts [slots] as a row of a block."""
    row = np.zeros(SLOTS_MAX, np.int64)
    row[: len(counts)] = counts
    return row


def _names(report: DriftReport) -> list[tuple[str, int]]:
    return [(feature.name, feature.slots) for feature in report.features]


def _interval(ratio: Ratio) -> list[float]:
    return [ratio.low, ratio.high]


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None
