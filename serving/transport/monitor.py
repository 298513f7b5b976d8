"""`penstock.v1.Monitor`: what Penstock tells about itself beyond the Open Inference Protocol, on the I/O thread."""

from collections.abc import Callable

from google.protobuf.message import Message

from serving.model import Servable
from serving.pb import penstock_pb2 as pb
from serving.repository.manager import ModelRepository
from serving.transport.calls import UnaryMethod, immediate
from serving.transport.codec import parse

MONITOR_SERVICE = "penstock.v1.Monitor"


class MonitorService:
    """The methods of `penstock.v1.Monitor`. They read counters and change nothing, so whoever may infer may ask."""

    def __init__(self, repository: ModelRepository) -> None:
        self._repository = repository

    def unary(self) -> dict[str, UnaryMethod]:
        """Return the unary methods by path."""
        methods: dict[str, Callable[[bytes], Message]] = {"BatchingReport": self._batching_report}
        return {f"/{MONITOR_SERVICE}/{name}": immediate(answer) for name, answer in methods.items()}

    def _batching_report(self, data: bytes) -> Message:
        request = parse(pb.BatchingReportRequest, data)
        servables = self._servables(request.name, request.version)
        return pb.BatchingReportResponse(servables=[_batching(servable) for servable in servables])

    def _servables(self, name: str, version: str) -> list[Servable]:
        """Return what serves under a name and a version, an empty one meaning all. Raises UnknownModel or NotReady."""
        if name and version:
            handle = self._repository.find(name, version)
            handle.release()
            return [handle.servable]
        if name:
            self._repository.ready_versions(name)  # raises UnknownModel
        return [servable for servable in self._repository.servables() if name in {"", servable.name}]


def _batching(servable: Servable) -> pb.ServableBatching:
    sizes = servable.statistics.batches
    return pb.ServableBatching(
        name=servable.name,
        version=str(servable.version),
        batch_rows_max=servable.batch_rows_max,
        queued_rows=servable.batcher.queued_rows,
        queued_bytes=servable.batcher.queued_bytes,
        batches=[pb.BatchCount(rows=rows, count=sizes[rows].compute_infer.count) for rows in sorted(sizes)],
    )
