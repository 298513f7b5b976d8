"""`penstock.v1.Monitor`: what Penstock tells about itself beyond the Open Inference Protocol, on the I/O thread."""

from collections.abc import Callable, Mapping

from google.protobuf.message import Message

from serving.model import Servable
from serving.pb import penstock_pb2 as pb
from serving.repository.manager import ModelRepository
from serving.statistics.counters import RequestCounters
from serving.statistics.latency import Histogram, octave_edges_ns
from serving.transport.calls import UnaryMethod, immediate
from serving.transport.codec import parse

MONITOR_SERVICE = "penstock.v1.Monitor"


class MonitorService:
    """The methods of `penstock.v1.Monitor`. They read counters and change nothing, so whoever may infer may ask."""

    def __init__(self, repository: ModelRepository, counters: RequestCounters) -> None:
        self._repository = repository
        self._counters = counters

    def unary(self) -> dict[str, UnaryMethod]:
        """Return the unary methods by path."""
        methods: dict[str, Callable[[bytes], Message]] = {"BatchingReport": self._batching_report}
        return {f"/{MONITOR_SERVICE}/{name}": immediate(answer) for name, answer in methods.items()}

    def _batching_report(self, data: bytes) -> Message:
        request = parse(pb.BatchingReportRequest, data)
        servables = self._servables(request.name, request.version)
        return pb.BatchingReportResponse(servables=[_batching(one, self._counters) for one in servables])

    def _servables(self, name: str, version: str) -> list[Servable]:
        """Return what serves under a name and a version, an empty one meaning all. Raises UnknownModel or NotReady."""
        if name and version:
            handle = self._repository.find(name, version)
            handle.release()
            return [handle.servable]
        if name:
            self._repository.ready_versions(name)  # raises UnknownModel
        return [servable for servable in self._repository.servables() if name in {"", servable.name}]


def _batching(servable: Servable, counters: RequestCounters) -> pb.ServableBatching:
    view, counted = servable.batching(), servable.statistics
    sizes = counted.batches
    batches = sum(size.compute_infer.count for size in sizes.values())
    rows = sum(rows * size.compute_infer.count for rows, size in sizes.items())
    report = pb.ServableBatching(
        name=servable.name,
        version=str(servable.version),
        batch_rows_max=servable.batch_rows_max,
        queued_rows=servable.batcher.queued_rows,
        queued_bytes=servable.batcher.queued_bytes,
        batches=[pb.BatchCount(rows=rows, count=sizes[rows].compute_infer.count) for rows in sorted(sizes)],
        mode=view.mode,
        slo_ms=view.target_ns / 1e6,
        instances=view.instances,
        service_times=[
            pb.ServiceTime(rows=size.rows, mean_us=size.mean_ns / 1e3, upper_us=size.upper_ns / 1e3)
            for size in view.sizes
        ],
        knee_rows=view.knee_rows,
        chosen_rows=view.chosen_rows,
        best_rows_per_s=view.best_rows_per_s,
        arrival_rows_per_s=view.rows_per_s,
        burst_factor=view.burst,
        utilisation=view.utilisation,
        missed=view.missed,
        overhead_us=view.overhead_ns / 1e3,
        expected_s=view.expected_ns / 1e9,
        actual_s=view.actual_ns / 1e9,
        releases=_counts(view.releases),
        waits=view.waits,
        rejections=_counts(counters.rejections(servable.name, str(servable.version))),
        slo_missed=counted.missed_count,
        reruns=counted.rerun_count,
        dead_rows=counted.dead_rows,
        waiting_times=_waits(counted.stages["queue"]),
        fill_ratio=rows / (batches * servable.batch_rows_max) if batches else 0.0,
    )
    if view.waiting is not None:
        report.decision.rows, report.decision.reason = view.waiting
    return report


def _counts(counts: Mapping[str, int]) -> list[pb.ReasonCount]:
    return [pb.ReasonCount(reason=reason, count=count) for reason, count in sorted(counts.items())]


def _waits(waited: Histogram) -> list[pb.WaitCount]:
    pairs = zip(octave_edges_ns(), waited.cumulative_by_octave(), strict=True)
    return [pb.WaitCount(below_us=edge_ns / 1e3, count=count) for edge_ns, count in pairs]
