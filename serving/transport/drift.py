"""Drift reports as messages, and back."""

import math
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from serving.errors import RemoteError
from serving.pb import penstock_pb2 as pb
from serving.statistics.derived import Derivation
from serving.statistics.drift.counting import Block
from serving.statistics.drift.panes import Pane
from serving.statistics.drift.report import DriftReport, Terms
from serving.statistics.profile import EDGES, FEATURES_MAX, KEYS_MAX, Feature, Kind, Role


def encode(report: DriftReport) -> pb.ServableDrift:
    """Write a report."""
    slots = [feature.slots for feature in report.features]
    terms = report.terms
    return pb.ServableDrift(
        name=report.model,
        version=report.version,
        phase=report.phase,
        data_digest=report.data_digest,
        self_reference=report.is_self_reference,
        calibrated=report.is_calibrated,
        pane_s=terms.pane_s,
        pane_rows_min=terms.pane_rows_min,
        tolerance=terms.tolerance,
        alarm_panes=terms.alarm_panes,
        rows=report.rows,
        rows_seen=report.rows_seen,
        panes_closed=report.panes_closed,
        alarms=report.alarms,
        alarm=report.is_alarm,
        spent_ns=report.spent_ns,
        infer_ns=report.infer_ns,
        replicas=report.replicas,
        paused_s=report.paused_s,
        features=[_encode_feature(report, row) for row in range(len(report.features))],
        history=[pb.DriftEvidence(boundary=boundary, log_evidence=log) for boundary, log in report.evidence],
        panes=[_encode_block(pane.block, slots, pane.boundary) for pane in report.panes],
        open=_encode_block(report.open, slots, 0),
    )


def decode(message: pb.ServableDrift) -> DriftReport:
    """Read a report. Raises RemoteError for one that contradicts itself."""
    try:
        features = tuple(_decode_feature(item) for item in _bounded(message.features))
        slots = [feature.slots for feature in features]
        terms = Terms(message.pane_s, message.pane_rows_min, message.tolerance, message.alarm_panes)
        if message.alarm_panes < 1 or not message.pane_s > 0:
            raise ValueError("terms")  # noqa: TRY301 - one message for all
        if not 0 <= message.paused_s < math.inf:  # nor NaN
            raise ValueError("paused_s")  # noqa: TRY301
        return DriftReport(
            message.name, message.version, message.phase, message.data_digest,
            is_self_reference=message.self_reference, is_calibrated=message.calibrated, terms=terms, features=features,
            rows=message.rows, rows_seen=message.rows_seen, panes_closed=message.panes_closed, alarms=message.alarms,
            is_alarm=message.alarm, effects=np.array([max(1.0, item.design_effect) for item in message.features]),
            logs=np.array([item.log_evidence for item in message.features], np.float64),
            evidence=tuple((item.boundary, item.log_evidence) for item in message.history),
            panes=tuple(Pane(item.boundary, _decode_block(item, slots)) for item in message.panes),
            open=_decode_block(message.open, slots), spent_ns=message.spent_ns, infer_ns=message.infer_ns,
            replicas=message.replicas, paused_s=message.paused_s,
        )  # fmt: skip
    except (ValueError, IndexError) as error:
        raise RemoteError("INTERNAL", f"the drift report contradicts itself: {error}") from None


def _encode_feature(report: DriftReport, row: int) -> pb.DriftFeature:
    feature = report.features[row]
    is_text = feature.kind is Kind.TEXT
    return pb.DriftFeature(
        name=feature.name,
        tensor=feature.tensor,
        column=feature.column,
        role=feature.role.value,
        kind=feature.kind.value,
        edges=feature.edges.tolist(),
        texts=[str(key) for key in feature.keys] if is_text else [],
        keys=[] if is_text else [int(key) for key in feature.keys],
        reference=feature.counts.tolist(),
        centre=feature.centre,
        spread=feature.spread,
        reference_total=feature.total,
        reference_squares=feature.squares,
        design_effect=float(report.effects[row]),
        log_evidence=float(report.logs[row]),
        derivation="" if feature.derivation is Derivation.ELEMENT else feature.derivation.value,
        held_out=_listed(feature.held_out),
        held_out_right=_listed(feature.held_out_right),
    )


def _decode_feature(item: pb.DriftFeature) -> Feature:
    kind = Kind(item.kind)
    edges = np.array(item.edges, np.float64)
    if len(edges) != (EDGES if kind is Kind.NUMBER else 0) or max(len(item.texts), len(item.keys)) > KEYS_MAX:
        raise ValueError(f"feature '{item.name}'")
    keys = tuple(item.texts) if kind is Kind.TEXT else tuple(item.keys)
    feature = Feature(
        item.name, item.tensor, item.column, Role(item.role), kind, edges, keys, np.array(item.reference, np.int64),
        item.centre, item.spread, item.reference_total, item.reference_squares,
        Derivation(item.derivation or "element"), *(_counted(part) for part in (item.held_out, item.held_out_right)),
    )  # fmt: skip
    if len(feature.counts) != feature.slots or (feature.counts < 0).any() or not feature.counts.sum():
        raise ValueError(f"counts of feature '{item.name}'")
    for counts in (feature.held_out, feature.held_out_right):
        if counts is not None and (len(counts) != feature.slots or (counts < 0).any()):
            raise ValueError(f"held-out rows of feature '{item.name}'")
    return feature


def _listed(counts: NDArray[np.int64] | None) -> list[int]:
    return [] if counts is None else counts.tolist()


def _counted(numbers: Sequence[int]) -> NDArray[np.int64] | None:
    return np.array(numbers, np.int64) if numbers else None


def _encode_block(block: Block, slots: Sequence[int], boundary: int) -> pb.DriftPane:
    counts: list[int] = []
    for row, used in enumerate(slots):
        counts += block.counts[row, :used].tolist()
    sums = block.sums.reshape(-1).tolist()
    return pb.DriftPane(boundary=boundary, rows=block.rows, counts=counts, sums=sums)


def _decode_block(item: pb.DriftPane, slots: Sequence[int]) -> Block:
    block = Block(len(slots))
    counts: NDArray[np.int64] = np.array(item.counts, np.int64)
    if len(counts) != sum(slots) or len(item.sums) != 2 * len(slots) or (counts < 0).any() or item.rows < 0:
        raise ValueError("counts of a pane")
    begin = 0
    for row, used in enumerate(slots):
        block.counts[row, :used] = counts[begin : begin + used]
        begin += used
    block.sums[:] = np.array(item.sums, np.float64).reshape(-1, 2)
    block.rows = item.rows
    return block


def _bounded(features: Iterable[pb.DriftFeature]) -> list[pb.DriftFeature]:
    items = list(features)
    if len(items) > FEATURES_MAX:
        raise ValueError("too many features")
    return items
