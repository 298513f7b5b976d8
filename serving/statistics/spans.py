"""Traced requests as OpenTelemetry spans, sent to a collector by OTLP over HTTP. The only place that imports its SDK.

A request is one span of the server with its stages below it. Spans are made on a thread of their own, and sent by
another one, the SDK's. What the first cannot keep up with is dropped and counted; what the collector does not take in
time is dropped by the SDK, which says so in the log.
"""

import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import TYPE_CHECKING, Any

from serving import __version__
from serving.errors import Code, ConfigError
from serving.statistics.tracing import FinishedTrace

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

WAITING_MAX = 1024
"""Traced requests whose spans are not made yet; further ones are dropped."""
_SEND_TIMEOUT_S = 5
_CLOSE_S = 2.0
"""At the end the collector is given so long, and then no more than what is being sent."""
_SERVICE, _METHOD = "inference.GRPCInferenceService", "ModelInfer"
_log = logging.getLogger(__name__)


def otlp_exporter(endpoint: str) -> "SpanExporter":
    """Return what sends spans to a collector, such as http://127.0.0.1:4318. Raises ConfigError."""
    try:
        otlp = import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter")
    except ModuleNotFoundError as error:
        raise ConfigError(f"--otlp-endpoint needs {error.name}; install penstock[otel]") from None
    if not endpoint.startswith(("http://", "https://")):
        raise ConfigError(
            f"--otlp-endpoint {endpoint} is no http or https URL, expected one like http://127.0.0.1:4318"
        )
    exporter: SpanExporter = otlp.OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces", timeout=_SEND_TIMEOUT_S)
    return exporter


class Spans:
    """Makes spans of finished traces. `export` and `close` belong to the I/O thread and to whoever ends the server."""

    def __init__(self, exporter: "SpanExporter") -> None:
        from opentelemetry import trace  # noqa: PLC0415 - few servers trace
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

        self._trace = trace
        self._exporter = exporter
        self._propagator = TraceContextTextMapPropagator()
        resource = Resource.create({"service.name": "penstock", "service.version": __version__})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("penstock", __version__)
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="spans")
        self._room = threading.Semaphore(WAITING_MAX)
        self.traced = 0
        self.dropped = 0

    def export(self, finished: FinishedTrace) -> None:
        """Have the spans of a request made soon."""
        if not self._room.acquire(blocking=False):
            self.dropped += 1
            return
        self.traced += 1
        self._worker.submit(self._make, finished)

    def close(self) -> None:
        """Send what there is, for a few seconds at most. Not for the I/O thread."""
        self._worker.shutdown()
        given_up = threading.Timer(_CLOSE_S, self._exporter.shutdown)  # the SDK itself would try for half a minute
        given_up.start()
        try:
            self._provider.shutdown()
        finally:
            given_up.cancel()

    def _make(self, finished: FinishedTrace) -> None:
        try:
            self._make_spans(finished)
        except Exception:  # noqa: BLE001 - logged
            _log.exception("a request could not be traced")
        finally:
            self._room.release()

    def _make_spans(self, finished: FinishedTrace) -> None:
        trace, epoch_ns = self._trace, finished.epoch_ns
        parent = self._propagator.extract({"traceparent": finished.parent}) if finished.parent else None
        root = self._tracer.start_span(
            f"{_SERVICE}/{_METHOD}", parent, trace.SpanKind.SERVER, dict(_attributes(finished)),
            start_time=finished.began_ns + epoch_ns,
        )  # fmt: skip
        within = trace.set_span_in_context(root)
        for stage, begin_ns, end_ns in _stages(finished):
            span = self._tracer.start_span(stage, within, start_time=begin_ns + epoch_ns)
            span.end(end_ns + epoch_ns)
        if finished.code is not Code.OK:
            root.set_status(trace.Status(trace.StatusCode.ERROR, finished.message))
        root.end(finished.ended_ns + epoch_ns)


def _attributes(finished: FinishedTrace) -> Iterator[tuple[str, Any]]:
    yield from (("rpc.system", "grpc"), ("rpc.service", _SERVICE), ("rpc.method", _METHOD))
    yield "penstock.code", finished.code.value
    yield "penstock.model", finished.model
    yield "penstock.version", finished.version
    if finished.times is not None:
        yield "penstock.batch.rows", finished.times.rows
        yield "penstock.batch.reruns", finished.times.reruns


def _stages(finished: FinishedTrace) -> Iterator[tuple[str, int, int]]:
    """Yield the stages, when each began and ended; those of a batch follow each other from when it was taken."""
    times = finished.times
    if times is None:
        return
    yield "queue", finished.began_ns, max(finished.began_ns, times.taken_ns)
    moment_ns = times.taken_ns
    for stage, duration_ns in (
        ("compute_input", times.input_ns), ("compute_infer", times.infer_ns), ("compute_output", times.output_ns),
    ):  # fmt: skip
        yield stage, moment_ns, moment_ns + duration_ns
        moment_ns += duration_ns
