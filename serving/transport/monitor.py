"""`penstock.v1.Monitor`: what Penstock tells about itself beyond the Open Inference Protocol, on the I/O thread."""

import logging
from collections import Counter
from collections.abc import Callable, Mapping

from google.protobuf.message import Message

from serving.controlplane import ControlPlane
from serving.errors import InternalError, InvalidRequest, Overloaded, ServingError
from serving.model import Post, Servable
from serving.pb import penstock_pb2 as pb
from serving.repository.manager import ModelRepository
from serving.statistics.counters import RequestCounters
from serving.statistics.feedback import Feedback, Label, Outcome
from serving.statistics.latency import Histogram, octave_edges_ns
from serving.transport import latency
from serving.transport.calls import Call, UnaryMethod, immediate
from serving.transport.codec import parse
from serving.transport.drift import encode

MONITOR_SERVICE = "penstock.v1.Monitor"
LABELS_MAX = 10_000
"""Labels in one call."""
PAUSE_S_MAX = 86_400.0
"""In s: a pause that somebody has forgotten is over by then."""
REPORTS_WAITING_MAX = 64
"""Drift reports that wait to be made; further ones are refused."""

_log = logging.getLogger(__name__)


class MonitorService:
    """The methods of `penstock.v1.Monitor`.

    They change nothing that is served, so whoever may infer may ask; but for DriftPause, which could hide what others
    send: that is for those who may load and unload models.
    """

    def __init__(
        self, repository: ModelRepository, control_plane: ControlPlane, counters: RequestCounters,
        aside: Callable[[Callable[[], None]], object], post: Post,
    ) -> None:  # fmt: skip
        self._repository = repository
        self._control_plane = control_plane
        self._counters = counters
        self._aside = aside
        self._post = post
        self._reports_waiting = 0

    def unary(self) -> dict[str, UnaryMethod]:
        """Return the unary methods by path."""
        methods = {"BatchingReport": immediate(self._batching_report), "DriftReport": self._drift_report}
        methods["LatencyReport"] = immediate(self._latency_report)
        methods["DriftPause"] = self._drift_pause
        methods["Feedback"] = immediate(self._feedback)
        return {f"/{MONITOR_SERVICE}/{name}": method for name, method in methods.items()}

    def _batching_report(self, data: bytes) -> Message:
        request = parse(pb.BatchingReportRequest, data)
        servables = self._servables(request.name, request.version)
        return pb.BatchingReportResponse(servables=[_batching(one, self._counters) for one in servables])

    def _latency_report(self, data: bytes) -> Message:
        request = parse(pb.LatencyReportRequest, data)
        quantiles = latency.checked_quantiles(request.quantiles)
        servables = self._servables(request.name, request.version)
        return pb.LatencyReportResponse(
            servables=[
                latency.encode(one.name, str(one.version), one.statistics.stages, quantiles) for one in servables
            ]
        )

    def _drift_report(self, data: bytes, call: Call) -> None:
        """Answer aside: a report is some milliseconds of numpy."""
        try:
            request = parse(pb.DriftReportRequest, data)
            servables = self._servables(request.name, request.version)
            if self._reports_waiting >= REPORTS_WAITING_MAX:
                raise Overloaded(f"{REPORTS_WAITING_MAX} drift reports wait; try again later", retry_after_ms=1_000)
        except ServingError as error:
            call.settle(error)
            return

        def work() -> None:
            result: bytes | ServingError
            try:
                result = pb.DriftReportResponse(servables=map(_drift, servables)).SerializeToString()
            except Exception:  # noqa: BLE001 - a bug of ours must not leave the client without an answer
                _log.exception("a drift report failed")
                result = InternalError()
            self._post(lambda: settle(result))

        def settle(result: bytes | ServingError) -> None:
            self._reports_waiting -= 1
            call.settle(result)

        self._reports_waiting += 1
        self._aside(work)

    def _drift_pause(self, data: bytes, call: Call) -> None:
        def answer(data: bytes) -> Message:
            self._control_plane.check_access(call.peer_host, call.peer_names)
            request = parse(pb.DriftPauseRequest, data)
            paused = self._to_pause(request)
            until = f"not counted for the next {request.pause_s:g} s" if request.pause_s else "counted again"
            who = " ".join([call.peer_host or "an unknown peer", *call.peer_names])
            for servable in paused:
                servable.drift.pause(request.pause_s)
                _log.info("%s/%d: rows are %s for drift, as %r has asked", servable.name, servable.version, until, who)
            return pb.DriftPauseResponse(versions=[str(servable.version) for servable in paused])

        immediate(answer)(data, call)

    def _to_pause(self, request: pb.DriftPauseRequest) -> list[Servable]:
        if not request.name:
            raise InvalidRequest("name is empty, expected a model's")
        if not 0.0 <= request.pause_s <= PAUSE_S_MAX:  # nor NaN
            raise InvalidRequest(f"pause_s is {request.pause_s}, expected 0 to {PAUSE_S_MAX:.0f}; 0 goes on counting")
        self._repository.find(request.name, request.version).release()  # raises UnknownModel or NotReady, and says why
        ready = self._servables(request.name, request.version)
        if watched := [servable for servable in ready if servable.config.drift.enabled]:
            return watched
        raise InvalidRequest(f"model '{request.name}' is not watched for drift; its [drift] table has enabled = false")

    def _feedback(self, data: bytes) -> Message:
        request = parse(pb.FeedbackRequest, data)
        if len(request.labels) > LABELS_MAX:
            raise InvalidRequest(f"{len(request.labels)} labels in one call, at most {LABELS_MAX}; send them in parts")
        labels = [(label.id, _label(label)) for label in request.labels]
        handle = self._repository.find(request.name, request.version)
        try:
            feedback = handle.servable.feedback
            return pb.FeedbackResponse(labels=_label_counts(feedback.label(labels), feedback))
        finally:
            handle.release()

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
        batch_rows_allowed=view.rows_allowed,
        padding_rows=view.padding_rows,
    )
    if view.waiting is not None:
        report.decision.rows, report.decision.reason = view.waiting
    return report


def _counts(counts: Mapping[str, int]) -> list[pb.ReasonCount]:
    return [pb.ReasonCount(reason=reason, count=count) for reason, count in sorted(counts.items())]


def _waits(waited: Histogram) -> list[pb.WaitCount]:
    pairs = zip(octave_edges_ns(), waited.cumulative_by_octave(), strict=True)
    return [pb.WaitCount(below_us=edge_ns / 1e3, count=count) for edge_ns, count in pairs]


def _drift(servable: Servable) -> pb.ServableDrift:
    """Report on the rows of a servable, and on its errors where labels come. Not on the I/O thread."""
    message, feedback = encode(servable.drift.report()), servable.feedback
    if feedback.is_on:
        message.realised_error.CopyFrom(encode(feedback.watch.report()))
        message.labels.CopyFrom(_label_counts(feedback.outcomes, feedback))
    return message


def _label(label: pb.Label) -> Label:
    kind = label.WhichOneof("value")
    if kind is None:
        raise InvalidRequest(f"the label of '{label.id}' has neither a number nor a text")
    return label.number if kind == "number" else label.text


def _label_counts(outcomes: Counter[Outcome], feedback: Feedback) -> pb.LabelCounts:
    return pb.LabelCounts(
        matched=outcomes[Outcome.MATCHED],
        unmatched=outcomes[Outcome.UNMATCHED],
        doubled=outcomes[Outcome.DOUBLED],
        mean_error=feedback.mean_error,
    )
