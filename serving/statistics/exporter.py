"""Prometheus' text, rendered from the counters at scrape; nothing is kept in the client library's own objects.

Rendering runs on the I/O thread and takes about 1 ms per 10 servables, so that it sees whole batches.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from serving.statistics.counters import RequestCounters
from serving.statistics.latency import STAGES, Histogram, ServableStatistics, octave_edges_ns

CONTENT_TYPE = CONTENT_TYPE_LATEST

_STAGE_HELP = {
    "request": "From the arrival of a request to its answer.",
    "queue": "From the arrival of a request until an instance took it.",
    "compute_input": "Gathering and preprocessing a batch.",
    "compute_infer": "Running the model on a batch.",
    "compute_output": "Postprocessing a batch and scattering its outputs.",
}
_LABELS = ("model", "version")


@dataclass(frozen=True, slots=True)
class ServableView:
    """What the exporter sees of one servable."""

    model: str
    version: str
    statistics: ServableStatistics
    batch_rows_max: int
    queued_rows: int
    queued_bytes: int


class Exporter(Collector):
    """Renders the metrics of the server."""

    def __init__(
        self, servables: Callable[[], Iterable[ServableView]], counters: RequestCounters, in_flight: Callable[[], int]
    ) -> None:
        self._servables = servables
        self._counters = counters
        self._in_flight = in_flight
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)

    def render(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)

    def describe(self) -> Iterable[Metric]:
        """Name no metrics ahead of time; they depend on what is loaded."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Build the metric families."""
        views = list(self._servables())
        yield self._requests()
        yield GaugeMetricFamily(
            "penstock_requests_in_flight", "Admitted and not yet answered.", value=self._in_flight()
        )
        for stage in STAGES:
            yield _histogram(stage, views)
        yield _batch_rows(views)
        yield _counter(
            "penstock_rows", "Rows answered with outputs.", views, lambda view: view.statistics.inference_count
        )
        yield _counter("penstock_batches", "Runs of the model.", views, lambda view: view.statistics.execution_count)
        yield _counter(
            "penstock_batch_reruns", "Runs that split a failed batch.", views, lambda view: view.statistics.rerun_count
        )
        yield _gauge("penstock_queue_rows", "Rows that wait for an instance.", views, lambda view: view.queued_rows)
        yield _gauge("penstock_queue_bytes", "Bytes of input that wait.", views, lambda view: view.queued_bytes)

    def _requests(self) -> Metric:
        family = CounterMetricFamily("penstock_requests", "Answers by code.", labels=(*_LABELS, "code", "reason"))
        for (model, version, code, reason), count in sorted(self._counters.outcomes.items()):
            family.add_metric((model, version, code, reason), count)
        return family


def _histogram(stage: str, views: Iterable[ServableView]) -> Metric:
    family = HistogramMetricFamily(f"penstock_{stage}_seconds", _STAGE_HELP[stage], labels=_LABELS)
    for view in views:
        histogram = view.statistics.stages[stage]
        family.add_metric((view.model, view.version), _buckets(histogram), histogram.total_ns / 1e9)
    return family


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    edges = [f"{edge / 1e9:.9g}" for edge in octave_edges_ns()]
    finite: list[tuple[str, float]] = [
        (edge, count) for edge, count in zip(edges, histogram.cumulative_by_octave(), strict=True)
    ]
    return [*finite, ("+Inf", histogram.count)]


def _batch_rows(views: Iterable[ServableView]) -> Metric:
    """Rows per batch, in buckets of powers of two."""
    family = HistogramMetricFamily("penstock_batch_rows", "Rows per executed batch.", labels=_LABELS)
    for view in views:
        sizes = {rows: entry.compute_infer.count for rows, entry in view.statistics.batches.items()}
        edges = [1 << power for power in range((view.batch_rows_max - 1).bit_length() + 1)]
        buckets: list[tuple[str, float]] = [
            (str(edge), sum(count for rows, count in sizes.items() if rows <= edge)) for edge in edges
        ]
        total = sum(sizes.values())
        rows_total = sum(rows * count for rows, count in sizes.items())
        family.add_metric((view.model, view.version), [*buckets, ("+Inf", total)], rows_total)
    return family


def _counter(name: str, text: str, views: Iterable[ServableView], value: Callable[[ServableView], float]) -> Metric:
    family = CounterMetricFamily(name, text, labels=_LABELS)
    for view in views:
        family.add_metric((view.model, view.version), value(view))
    return family


def _gauge(name: str, text: str, views: Iterable[ServableView], value: Callable[[ServableView], float]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=_LABELS)
    for view in views:
        family.add_metric((view.model, view.version), value(view))
    return family
