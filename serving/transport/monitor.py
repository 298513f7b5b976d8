"""`penstock.v1.Monitor`: what Penstock tells about itself beyond the Open Inference Protocol, on the I/O thread."""

import logging
from collections import Counter
from collections.abc import Callable

from google.protobuf.message import Message

from serving.errors import InternalError, InvalidRequest, Overloaded, ServingError
from serving.model import Post, Servable
from serving.pb import penstock_pb2 as pb
from serving.repository.manager import ModelRepository
from serving.statistics.feedback import Feedback, Label, Outcome
from serving.transport.calls import Call, UnaryMethod, immediate
from serving.transport.codec import parse
from serving.transport.drift import encode

MONITOR_SERVICE = "penstock.v1.Monitor"
LABELS_MAX = 10_000
"""Labels in one call."""
REPORTS_WAITING_MAX = 64
"""Drift reports that wait to be made; further ones are refused."""

_log = logging.getLogger(__name__)


class MonitorService:
    """The methods of `penstock.v1.Monitor`. They change nothing that is served, so whoever may infer may ask."""

    def __init__(self, repository: ModelRepository, aside: Callable[[Callable[[], None]], object], post: Post) -> None:
        self._repository = repository
        self._aside = aside
        self._post = post
        self._reports_waiting = 0

    def unary(self) -> dict[str, UnaryMethod]:
        """Return the unary methods by path."""
        methods = {"BatchingReport": immediate(self._batching_report), "DriftReport": self._drift_report}
        methods["Feedback"] = immediate(self._feedback)
        return {f"/{MONITOR_SERVICE}/{name}": method for name, method in methods.items()}

    def _batching_report(self, data: bytes) -> Message:
        request = parse(pb.BatchingReportRequest, data)
        servables = self._servables(request.name, request.version)
        return pb.BatchingReportResponse(servables=[_batching(servable) for servable in servables])

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

    def _feedback(self, data: bytes) -> Message:
        request = parse(pb.FeedbackRequest, data)
        if len(request.labels) > LABELS_MAX:
            raise InvalidRequest(f"{len(request.labels)} labels in one call, at most {LABELS_MAX}; send them in parts")
        labels = [(label.id, _label(label)) for label in request.labels]
        handle = self._repository.find(request.name, request.version)
        try:
            feedback = handle.servable.feedback
            return pb.FeedbackResponse(labels=_counts(feedback.label(labels), feedback))
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


def _drift(servable: Servable) -> pb.ServableDrift:
    """Report on the rows of a servable, and on its errors where labels come. Not on the I/O thread."""
    message, feedback = encode(servable.drift.report()), servable.feedback
    if feedback.is_on:
        message.realised_error.CopyFrom(encode(feedback.watch.report()))
        message.labels.CopyFrom(_counts(feedback.outcomes, feedback))
    return message


def _label(label: pb.Label) -> Label:
    kind = label.WhichOneof("value")
    if kind is None:
        raise InvalidRequest(f"the label of '{label.id}' has neither a number nor a text")
    return label.number if kind == "number" else label.text


def _counts(outcomes: Counter[Outcome], feedback: Feedback) -> pb.LabelCounts:
    return pb.LabelCounts(
        matched=outcomes[Outcome.MATCHED],
        unmatched=outcomes[Outcome.UNMATCHED],
        doubled=outcomes[Outcome.DOUBLED],
        mean_error=feedback.mean_error,
    )
