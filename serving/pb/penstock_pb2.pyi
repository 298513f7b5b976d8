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
