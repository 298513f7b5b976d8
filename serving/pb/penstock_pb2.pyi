from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class BatchingReportRequest(_message.Message):
    __slots__ = ("name", "version")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class BatchingReportResponse(_message.Message):
    __slots__ = ("servables",)
    SERVABLES_FIELD_NUMBER: _ClassVar[int]
    servables: _containers.RepeatedCompositeFieldContainer[ServableBatching]
    def __init__(self, servables: _Optional[_Iterable[_Union[ServableBatching, _Mapping]]] = ...) -> None: ...

class ServableBatching(_message.Message):
    __slots__ = ("name", "version", "batch_rows_max", "queued_rows", "queued_bytes", "batches", "mode", "slo_ms", "instances", "service_times", "knee_rows", "chosen_rows", "best_rows_per_s", "decision", "arrival_rows_per_s", "burst_factor", "utilisation", "missed", "overhead_us", "expected_s", "actual_s", "releases", "waits", "rejections", "slo_missed", "reruns", "dead_rows", "waiting_times", "fill_ratio", "batch_rows_allowed", "padding_rows")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    BATCH_ROWS_MAX_FIELD_NUMBER: _ClassVar[int]
    QUEUED_ROWS_FIELD_NUMBER: _ClassVar[int]
    QUEUED_BYTES_FIELD_NUMBER: _ClassVar[int]
    BATCHES_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    SLO_MS_FIELD_NUMBER: _ClassVar[int]
    INSTANCES_FIELD_NUMBER: _ClassVar[int]
    SERVICE_TIMES_FIELD_NUMBER: _ClassVar[int]
    KNEE_ROWS_FIELD_NUMBER: _ClassVar[int]
    CHOSEN_ROWS_FIELD_NUMBER: _ClassVar[int]
    BEST_ROWS_PER_S_FIELD_NUMBER: _ClassVar[int]
    DECISION_FIELD_NUMBER: _ClassVar[int]
    ARRIVAL_ROWS_PER_S_FIELD_NUMBER: _ClassVar[int]
    BURST_FACTOR_FIELD_NUMBER: _ClassVar[int]
    UTILISATION_FIELD_NUMBER: _ClassVar[int]
    MISSED_FIELD_NUMBER: _ClassVar[int]
    OVERHEAD_US_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_S_FIELD_NUMBER: _ClassVar[int]
    ACTUAL_S_FIELD_NUMBER: _ClassVar[int]
    RELEASES_FIELD_NUMBER: _ClassVar[int]
    WAITS_FIELD_NUMBER: _ClassVar[int]
    REJECTIONS_FIELD_NUMBER: _ClassVar[int]
    SLO_MISSED_FIELD_NUMBER: _ClassVar[int]
    RERUNS_FIELD_NUMBER: _ClassVar[int]
    DEAD_ROWS_FIELD_NUMBER: _ClassVar[int]
    WAITING_TIMES_FIELD_NUMBER: _ClassVar[int]
    FILL_RATIO_FIELD_NUMBER: _ClassVar[int]
    BATCH_ROWS_ALLOWED_FIELD_NUMBER: _ClassVar[int]
    PADDING_ROWS_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    batch_rows_max: int
    queued_rows: int
    queued_bytes: int
    batches: _containers.RepeatedCompositeFieldContainer[BatchCount]
    mode: str
    slo_ms: float
    instances: int
    service_times: _containers.RepeatedCompositeFieldContainer[ServiceTime]
    knee_rows: int
    chosen_rows: int
    best_rows_per_s: float
    decision: Decision
    arrival_rows_per_s: float
    burst_factor: float
    utilisation: float
    missed: float
    overhead_us: float
    expected_s: float
    actual_s: float
    releases: _containers.RepeatedCompositeFieldContainer[ReasonCount]
    waits: int
    rejections: _containers.RepeatedCompositeFieldContainer[ReasonCount]
    slo_missed: int
    reruns: int
    dead_rows: int
    waiting_times: _containers.RepeatedCompositeFieldContainer[WaitCount]
    fill_ratio: float
    batch_rows_allowed: _containers.RepeatedScalarFieldContainer[int]
    padding_rows: int
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., batch_rows_max: _Optional[int] = ..., queued_rows: _Optional[int] = ..., queued_bytes: _Optional[int] = ..., batches: _Optional[_Iterable[_Union[BatchCount, _Mapping]]] = ..., mode: _Optional[str] = ..., slo_ms: _Optional[float] = ..., instances: _Optional[int] = ..., service_times: _Optional[_Iterable[_Union[ServiceTime, _Mapping]]] = ..., knee_rows: _Optional[int] = ..., chosen_rows: _Optional[int] = ..., best_rows_per_s: _Optional[float] = ..., decision: _Optional[_Union[Decision, _Mapping]] = ..., arrival_rows_per_s: _Optional[float] = ..., burst_factor: _Optional[float] = ..., utilisation: _Optional[float] = ..., missed: _Optional[float] = ..., overhead_us: _Optional[float] = ..., expected_s: _Optional[float] = ..., actual_s: _Optional[float] = ..., releases: _Optional[_Iterable[_Union[ReasonCount, _Mapping]]] = ..., waits: _Optional[int] = ..., rejections: _Optional[_Iterable[_Union[ReasonCount, _Mapping]]] = ..., slo_missed: _Optional[int] = ..., reruns: _Optional[int] = ..., dead_rows: _Optional[int] = ..., waiting_times: _Optional[_Iterable[_Union[WaitCount, _Mapping]]] = ..., fill_ratio: _Optional[float] = ..., batch_rows_allowed: _Optional[_Iterable[int]] = ..., padding_rows: _Optional[int] = ...) -> None: ...

class ServiceTime(_message.Message):
    __slots__ = ("rows", "mean_us", "upper_us")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    MEAN_US_FIELD_NUMBER: _ClassVar[int]
    UPPER_US_FIELD_NUMBER: _ClassVar[int]
    rows: int
    mean_us: float
    upper_us: float
    def __init__(self, rows: _Optional[int] = ..., mean_us: _Optional[float] = ..., upper_us: _Optional[float] = ...) -> None: ...

class Decision(_message.Message):
    __slots__ = ("rows", "reason")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    rows: int
    reason: str
    def __init__(self, rows: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class ReasonCount(_message.Message):
    __slots__ = ("reason", "count")
    REASON_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    reason: str
    count: int
    def __init__(self, reason: _Optional[str] = ..., count: _Optional[int] = ...) -> None: ...

class WaitCount(_message.Message):
    __slots__ = ("below_us", "count")
    BELOW_US_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    below_us: float
    count: int
    def __init__(self, below_us: _Optional[float] = ..., count: _Optional[int] = ...) -> None: ...

class BatchCount(_message.Message):
    __slots__ = ("rows", "count")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    rows: int
    count: int
    def __init__(self, rows: _Optional[int] = ..., count: _Optional[int] = ...) -> None: ...

class LatencyReportRequest(_message.Message):
    __slots__ = ("name", "version", "quantiles")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    QUANTILES_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    quantiles: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., quantiles: _Optional[_Iterable[float]] = ...) -> None: ...

class LatencyReportResponse(_message.Message):
    __slots__ = ("servables",)
    SERVABLES_FIELD_NUMBER: _ClassVar[int]
    servables: _containers.RepeatedCompositeFieldContainer[ServableLatency]
    def __init__(self, servables: _Optional[_Iterable[_Union[ServableLatency, _Mapping]]] = ...) -> None: ...

class ServableLatency(_message.Message):
    __slots__ = ("name", "version", "stages")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STAGES_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    stages: _containers.RepeatedCompositeFieldContainer[StageLatency]
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., stages: _Optional[_Iterable[_Union[StageLatency, _Mapping]]] = ...) -> None: ...

class StageLatency(_message.Message):
    __slots__ = ("stage", "count", "total_s", "quantiles", "buckets")
    STAGE_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    TOTAL_S_FIELD_NUMBER: _ClassVar[int]
    QUANTILES_FIELD_NUMBER: _ClassVar[int]
    BUCKETS_FIELD_NUMBER: _ClassVar[int]
    stage: str
    count: int
    total_s: float
    quantiles: _containers.RepeatedCompositeFieldContainer[LatencyQuantile]
    buckets: _containers.RepeatedCompositeFieldContainer[LatencyBucket]
    def __init__(self, stage: _Optional[str] = ..., count: _Optional[int] = ..., total_s: _Optional[float] = ..., quantiles: _Optional[_Iterable[_Union[LatencyQuantile, _Mapping]]] = ..., buckets: _Optional[_Iterable[_Union[LatencyBucket, _Mapping]]] = ...) -> None: ...

class LatencyQuantile(_message.Message):
    __slots__ = ("quantile", "us")
    QUANTILE_FIELD_NUMBER: _ClassVar[int]
    US_FIELD_NUMBER: _ClassVar[int]
    quantile: float
    us: float
    def __init__(self, quantile: _Optional[float] = ..., us: _Optional[float] = ...) -> None: ...

class LatencyBucket(_message.Message):
    __slots__ = ("from_ns", "below_ns", "count")
    FROM_NS_FIELD_NUMBER: _ClassVar[int]
    BELOW_NS_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    from_ns: int
    below_ns: int
    count: int
    def __init__(self, from_ns: _Optional[int] = ..., below_ns: _Optional[int] = ..., count: _Optional[int] = ...) -> None: ...

class DriftReportRequest(_message.Message):
    __slots__ = ("name", "version")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class DriftReportResponse(_message.Message):
    __slots__ = ("servables",)
    SERVABLES_FIELD_NUMBER: _ClassVar[int]
    servables: _containers.RepeatedCompositeFieldContainer[ServableDrift]
    def __init__(self, servables: _Optional[_Iterable[_Union[ServableDrift, _Mapping]]] = ...) -> None: ...

class DriftPauseRequest(_message.Message):
    __slots__ = ("name", "version", "pause_s")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PAUSE_S_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    pause_s: float
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., pause_s: _Optional[float] = ...) -> None: ...

class DriftPauseResponse(_message.Message):
    __slots__ = ("versions",)
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    versions: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, versions: _Optional[_Iterable[str]] = ...) -> None: ...

class ServableDrift(_message.Message):
    __slots__ = ("name", "version", "phase", "data_digest", "self_reference", "calibrated", "pane_s", "pane_rows_min", "tolerance", "alarm_panes", "rows", "rows_seen", "panes_closed", "alarms", "alarm", "spent_ns", "infer_ns", "replicas", "features", "history", "panes", "open", "realised_error", "labels", "paused_s")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    DATA_DIGEST_FIELD_NUMBER: _ClassVar[int]
    SELF_REFERENCE_FIELD_NUMBER: _ClassVar[int]
    CALIBRATED_FIELD_NUMBER: _ClassVar[int]
    PANE_S_FIELD_NUMBER: _ClassVar[int]
    PANE_ROWS_MIN_FIELD_NUMBER: _ClassVar[int]
    TOLERANCE_FIELD_NUMBER: _ClassVar[int]
    ALARM_PANES_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    ROWS_SEEN_FIELD_NUMBER: _ClassVar[int]
    PANES_CLOSED_FIELD_NUMBER: _ClassVar[int]
    ALARMS_FIELD_NUMBER: _ClassVar[int]
    ALARM_FIELD_NUMBER: _ClassVar[int]
    SPENT_NS_FIELD_NUMBER: _ClassVar[int]
    INFER_NS_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    HISTORY_FIELD_NUMBER: _ClassVar[int]
    PANES_FIELD_NUMBER: _ClassVar[int]
    OPEN_FIELD_NUMBER: _ClassVar[int]
    REALISED_ERROR_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    PAUSED_S_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    phase: str
    data_digest: str
    self_reference: bool
    calibrated: bool
    pane_s: float
    pane_rows_min: int
    tolerance: float
    alarm_panes: int
    rows: int
    rows_seen: int
    panes_closed: int
    alarms: int
    alarm: bool
    spent_ns: int
    infer_ns: int
    replicas: int
    features: _containers.RepeatedCompositeFieldContainer[DriftFeature]
    history: _containers.RepeatedCompositeFieldContainer[DriftEvidence]
    panes: _containers.RepeatedCompositeFieldContainer[DriftPane]
    open: DriftPane
    realised_error: ServableDrift
    labels: LabelCounts
    paused_s: float
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., phase: _Optional[str] = ..., data_digest: _Optional[str] = ..., self_reference: bool = ..., calibrated: bool = ..., pane_s: _Optional[float] = ..., pane_rows_min: _Optional[int] = ..., tolerance: _Optional[float] = ..., alarm_panes: _Optional[int] = ..., rows: _Optional[int] = ..., rows_seen: _Optional[int] = ..., panes_closed: _Optional[int] = ..., alarms: _Optional[int] = ..., alarm: bool = ..., spent_ns: _Optional[int] = ..., infer_ns: _Optional[int] = ..., replicas: _Optional[int] = ..., features: _Optional[_Iterable[_Union[DriftFeature, _Mapping]]] = ..., history: _Optional[_Iterable[_Union[DriftEvidence, _Mapping]]] = ..., panes: _Optional[_Iterable[_Union[DriftPane, _Mapping]]] = ..., open: _Optional[_Union[DriftPane, _Mapping]] = ..., realised_error: _Optional[_Union[ServableDrift, _Mapping]] = ..., labels: _Optional[_Union[LabelCounts, _Mapping]] = ..., paused_s: _Optional[float] = ...) -> None: ...

class LabelCounts(_message.Message):
    __slots__ = ("matched", "unmatched", "doubled", "mean_error")
    MATCHED_FIELD_NUMBER: _ClassVar[int]
    UNMATCHED_FIELD_NUMBER: _ClassVar[int]
    DOUBLED_FIELD_NUMBER: _ClassVar[int]
    MEAN_ERROR_FIELD_NUMBER: _ClassVar[int]
    matched: int
    unmatched: int
    doubled: int
    mean_error: float
    def __init__(self, matched: _Optional[int] = ..., unmatched: _Optional[int] = ..., doubled: _Optional[int] = ..., mean_error: _Optional[float] = ...) -> None: ...

class DriftFeature(_message.Message):
    __slots__ = ("name", "tensor", "column", "role", "kind", "edges", "texts", "keys", "reference", "centre", "spread", "reference_total", "reference_squares", "design_effect", "log_evidence", "derivation", "held_out", "held_out_right")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TENSOR_FIELD_NUMBER: _ClassVar[int]
    COLUMN_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    EDGES_FIELD_NUMBER: _ClassVar[int]
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    CENTRE_FIELD_NUMBER: _ClassVar[int]
    SPREAD_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_TOTAL_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_SQUARES_FIELD_NUMBER: _ClassVar[int]
    DESIGN_EFFECT_FIELD_NUMBER: _ClassVar[int]
    LOG_EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    DERIVATION_FIELD_NUMBER: _ClassVar[int]
    HELD_OUT_FIELD_NUMBER: _ClassVar[int]
    HELD_OUT_RIGHT_FIELD_NUMBER: _ClassVar[int]
    name: str
    tensor: str
    column: int
    role: str
    kind: str
    edges: _containers.RepeatedScalarFieldContainer[float]
    texts: _containers.RepeatedScalarFieldContainer[str]
    keys: _containers.RepeatedScalarFieldContainer[int]
    reference: _containers.RepeatedScalarFieldContainer[int]
    centre: float
    spread: float
    reference_total: float
    reference_squares: float
    design_effect: float
    log_evidence: float
    derivation: str
    held_out: _containers.RepeatedScalarFieldContainer[int]
    held_out_right: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, name: _Optional[str] = ..., tensor: _Optional[str] = ..., column: _Optional[int] = ..., role: _Optional[str] = ..., kind: _Optional[str] = ..., edges: _Optional[_Iterable[float]] = ..., texts: _Optional[_Iterable[str]] = ..., keys: _Optional[_Iterable[int]] = ..., reference: _Optional[_Iterable[int]] = ..., centre: _Optional[float] = ..., spread: _Optional[float] = ..., reference_total: _Optional[float] = ..., reference_squares: _Optional[float] = ..., design_effect: _Optional[float] = ..., log_evidence: _Optional[float] = ..., derivation: _Optional[str] = ..., held_out: _Optional[_Iterable[int]] = ..., held_out_right: _Optional[_Iterable[int]] = ...) -> None: ...

class DriftEvidence(_message.Message):
    __slots__ = ("boundary", "log_evidence")
    BOUNDARY_FIELD_NUMBER: _ClassVar[int]
    LOG_EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    boundary: int
    log_evidence: float
    def __init__(self, boundary: _Optional[int] = ..., log_evidence: _Optional[float] = ...) -> None: ...

class DriftPane(_message.Message):
    __slots__ = ("boundary", "rows", "counts", "sums")
    BOUNDARY_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    SUMS_FIELD_NUMBER: _ClassVar[int]
    boundary: int
    rows: int
    counts: _containers.RepeatedScalarFieldContainer[int]
    sums: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, boundary: _Optional[int] = ..., rows: _Optional[int] = ..., counts: _Optional[_Iterable[int]] = ..., sums: _Optional[_Iterable[float]] = ...) -> None: ...

class FeedbackRequest(_message.Message):
    __slots__ = ("name", "version", "labels")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    labels: _containers.RepeatedCompositeFieldContainer[Label]
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., labels: _Optional[_Iterable[_Union[Label, _Mapping]]] = ...) -> None: ...

class Label(_message.Message):
    __slots__ = ("id", "number", "text")
    ID_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    id: str
    number: float
    text: str
    def __init__(self, id: _Optional[str] = ..., number: _Optional[float] = ..., text: _Optional[str] = ...) -> None: ...

class FeedbackResponse(_message.Message):
    __slots__ = ("labels",)
    LABELS_FIELD_NUMBER: _ClassVar[int]
    labels: LabelCounts
    def __init__(self, labels: _Optional[_Union[LabelCounts, _Mapping]] = ...) -> None: ...
