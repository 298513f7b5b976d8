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
    __slots__ = ("name", "version", "batch_rows_max", "queued_rows", "queued_bytes", "batches")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    BATCH_ROWS_MAX_FIELD_NUMBER: _ClassVar[int]
    QUEUED_ROWS_FIELD_NUMBER: _ClassVar[int]
    QUEUED_BYTES_FIELD_NUMBER: _ClassVar[int]
    BATCHES_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    batch_rows_max: int
    queued_rows: int
    queued_bytes: int
    batches: _containers.RepeatedCompositeFieldContainer[BatchCount]
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., batch_rows_max: _Optional[int] = ..., queued_rows: _Optional[int] = ..., queued_bytes: _Optional[int] = ..., batches: _Optional[_Iterable[_Union[BatchCount, _Mapping]]] = ...) -> None: ...

class BatchCount(_message.Message):
    __slots__ = ("rows", "count")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    rows: int
    count: int
    def __init__(self, rows: _Optional[int] = ..., count: _Optional[int] = ...) -> None: ...

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

class ServableDrift(_message.Message):
    __slots__ = ("name", "version", "phase", "data_digest", "self_reference", "calibrated", "pane_s", "pane_rows_min", "tolerance", "alarm_panes", "rows", "rows_seen", "panes_closed", "alarms", "alarm", "spent_ns", "infer_ns", "replicas", "features", "history", "panes", "open", "realised_error", "labels")
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
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., phase: _Optional[str] = ..., data_digest: _Optional[str] = ..., self_reference: bool = ..., calibrated: bool = ..., pane_s: _Optional[float] = ..., pane_rows_min: _Optional[int] = ..., tolerance: _Optional[float] = ..., alarm_panes: _Optional[int] = ..., rows: _Optional[int] = ..., rows_seen: _Optional[int] = ..., panes_closed: _Optional[int] = ..., alarms: _Optional[int] = ..., alarm: bool = ..., spent_ns: _Optional[int] = ..., infer_ns: _Optional[int] = ..., replicas: _Optional[int] = ..., features: _Optional[_Iterable[_Union[DriftFeature, _Mapping]]] = ..., history: _Optional[_Iterable[_Union[DriftEvidence, _Mapping]]] = ..., panes: _Optional[_Iterable[_Union[DriftPane, _Mapping]]] = ..., open: _Optional[_Union[DriftPane, _Mapping]] = ..., realised_error: _Optional[_Union[ServableDrift, _Mapping]] = ..., labels: _Optional[_Union[LabelCounts, _Mapping]] = ...) -> None: ...

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
    __slots__ = ("name", "tensor", "column", "role", "kind", "edges", "texts", "keys", "reference", "centre", "spread", "reference_total", "reference_squares", "design_effect", "log_evidence")
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
    def __init__(self, name: _Optional[str] = ..., tensor: _Optional[str] = ..., column: _Optional[int] = ..., role: _Optional[str] = ..., kind: _Optional[str] = ..., edges: _Optional[_Iterable[float]] = ..., texts: _Optional[_Iterable[str]] = ..., keys: _Optional[_Iterable[int]] = ..., reference: _Optional[_Iterable[int]] = ..., centre: _Optional[float] = ..., spread: _Optional[float] = ..., reference_total: _Optional[float] = ..., reference_squares: _Optional[float] = ..., design_effect: _Optional[float] = ..., log_evidence: _Optional[float] = ...) -> None: ...

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
