"""Triton's own metrics of inference requests and GPUs, for dashboards and autoscalers that were made for that server.

Names and meanings are those of its user guide ("Metrics"). Times are sums over requests, in whole microseconds.
Triton's counters have no `_total`, so they are written as untyped samples and told to be counters afterwards.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric, UnknownMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from serving.errors import Code
from serving.statistics import gpus
from serving.statistics.counters import Outcome
from serving.statistics.servable_view import ServableView

if TYPE_CHECKING:
    from serving.gpu.gauges import GpuReading

_LABELS = ("model", "version")
_REASONS = ("REJECTED", "CANCELED", "BACKEND", "OTHER")
_OF_MODELS = ("model_failed", "batch_failed")
_DURATIONS = {
    "request": "Cumulative time of requests from arrival to answer.",
    "queue": "Cumulative time that requests spent in the queue.",
    "compute_input": "Cumulative time that requests spent in gathering and preprocessing.",
    "compute_infer": "Cumulative time that requests spent in the model.",
    "compute_output": "Cumulative time that requests spent in postprocessing and scattering.",
}


def render(
    servables: Sequence[ServableView], outcomes: Mapping[Outcome, int], *, readings: Sequence["GpuReading"]
) -> bytes:
    """Return Triton's metrics in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(_Families(servables, outcomes, readings))
    return generate_latest(registry).replace(b" untyped\n", b" counter\n")  # no label holds the end of a line


class _Families(Collector):
    def __init__(
        self, servables: Sequence[ServableView], outcomes: Mapping[Outcome, int], readings: Sequence["GpuReading"]
    ) -> None:
        self._servables = servables
        self._outcomes = outcomes
        self._readings = readings

    def describe(self) -> list[Metric]:
        return []  # they depend on what is loaded

    def collect(self) -> Iterator[Metric]:
        answered = "Requests answered with outputs."
        yield self._counter("nv_inference_request_success", answered, lambda one: one.stages["request"].count)
        yield self._failures()
        yield self._counter("nv_inference_count", "Rows answered with outputs.", lambda one: one.rows)
        yield self._counter("nv_inference_exec_count", "Batches that were executed.", lambda one: one.batches)
        for stage, text in _DURATIONS.items():
            yield self._counter(f"nv_inference_{stage}_duration_us", text, _microseconds(stage))
        pending = GaugeMetricFamily("nv_inference_pending_request_count", "Requests that wait.", labels=_LABELS)
        for one in self._servables:
            pending.add_metric((one.model, one.version), one.queue.requests)
        yield pending
        yield from gpus.triton_families(self._readings)

    def _counter(self, name: str, text: str, value: Callable[[ServableView], float]) -> Metric:
        family = UnknownMetricFamily(name, text, labels=_LABELS)
        for one in self._servables:
            family.add_metric((one.model, one.version), value(one))
        return family

    def _failures(self) -> Metric:
        """Count requests that were not answered with outputs, by Triton's four reasons."""
        counts: Counter[tuple[str, str, str]] = Counter()
        for (model, version, code, reason), count in self._outcomes.items():
            if code is not Code.OK:
                counts[model, version, _reason(code, reason)] += count
        family = UnknownMetricFamily(
            "nv_inference_request_failure", "Requests not answered with outputs.", labels=(*_LABELS, "reason")
        )
        for one in self._servables:
            for reason in _REASONS:
                family.add_metric((one.model, one.version, reason), counts[one.model, one.version, reason])
        return family


def _microseconds(stage: str) -> Callable[[ServableView], float]:
    return lambda one: one.stages[stage].total_ns // 1_000


def _reason(code: Code, reason: str) -> str:
    if code in {Code.RESOURCE_EXHAUSTED, Code.DEADLINE_EXCEEDED}:
        return "REJECTED"
    if code is Code.CANCELLED:
        return "CANCELED"
    return "BACKEND" if reason in _OF_MODELS else "OTHER"
