"""Prometheus' text, rendered from the counters at scrape; nothing is kept in the client library's own objects.

Rendering takes about 1 ms per servable, so it is split: the I/O thread copies the counters, between two batches, and
another thread turns the copy into text.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from serving.statistics import gpus, rollout, triton
from serving.statistics.batching import BatchingView
from serving.statistics.counters import Outcome
from serving.statistics.drift.view import DriftView, families
from serving.statistics.exposition import octave_buckets
from serving.statistics.servable_view import ServableView
from serving.statistics.stages import STAGES

if TYPE_CHECKING:
    from serving.gpu.gauges import GpuReading

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
class Snapshot:
    """All counters at one moment."""

    servables: Sequence[ServableView]
    outcomes: Mapping[Outcome, int]
    in_flight: int
    refusals: Mapping[str, int] = field(default_factory=dict)
    connections: int | None = None
    streams: int | None = None
    drift: Sequence[DriftView] = ()
    traces: tuple[int, int] | None = None
    """Requests that were traced, and those whose traces were dropped; None where nothing is traced."""
    rollouts: Sequence[rollout.RolloutView] = ()


class Exporter:
    """Renders snapshots, beside facts of the process and of GPUs, which are asked then. Any thread, one at a time.

    `has_triton` adds Triton's metrics under their own names.
    """

    def __init__(self, *, has_triton: bool = False) -> None:
        self._has_triton = has_triton
        self._process = CollectorRegistry()
        ProcessCollector(registry=self._process)
        PlatformCollector(registry=self._process)
        GCCollector(registry=self._process)

    def render(self, snapshot: Snapshot) -> bytes:
        """Return all metrics in Prometheus' text format."""
        readings = gpus.readings(snapshot.servables)
        registry = CollectorRegistry()
        registry.register(_Families(snapshot, readings))
        page = generate_latest(registry)
        if self._has_triton:
            page += triton.render(snapshot.servables, snapshot.outcomes, readings=readings)
        return page + generate_latest(self._process)


class _Families(Collector):
    """The metric families of a snapshot."""

    def __init__(self, snapshot: Snapshot, readings: Sequence["GpuReading"]) -> None:
        self._snapshot = snapshot
        self._readings = readings

    def describe(self) -> Iterable[Metric]:
        return []  # they depend on what is loaded

    def collect(self) -> Iterator[Metric]:
        views = self._snapshot.servables
        yield self._requests()
        yield GaugeMetricFamily(
            "penstock_requests_in_flight", "Admitted and not yet answered.", value=self._snapshot.in_flight
        )
        if self._snapshot.connections is not None:
            yield GaugeMetricFamily("penstock_connections", "gRPC connections.", value=self._snapshot.connections)
        if self._snapshot.streams is not None:
            yield GaugeMetricFamily("penstock_streams", "Calls on gRPC connections.", value=self._snapshot.streams)
        yield from self._refusals()
        for stage in STAGES:
            yield _histogram(stage, views)
        yield _batch_rows(views)
        yield _counter("penstock_rows", "Rows answered with outputs.", views, lambda view: view.rows)
        yield _counter(
            "penstock_batches",
            "Runs of the model in batches that answered a request.",
            views,
            lambda view: view.batches,
        )
        yield _counter("penstock_batch_reruns", "Runs that split a failed batch.", views, lambda view: view.reruns)
        text = "Answers that came later than the model's slo_ms."
        yield _counter("penstock_slo_missed", text, views, lambda view: view.missed)
        text = "Rows that ran for clients that had gone, or whose deadline passed meanwhile."
        yield _counter("penstock_dead_rows", text, views, lambda view: view.dead_rows)
        yield from _batching([(view, view.batching) for view in views if view.batching is not None])
        yield _gauge("penstock_queue_rows", "Rows that wait for an instance.", views, lambda view: view.queue.rows)
        yield _gauge("penstock_queue_bytes", "Bytes of input that wait.", views, lambda view: view.queue.input_bytes)
        yield from _footprints(views)
        yield from gpus.families(self._readings)
        text = "Whether rows are not counted for drift, since somebody has asked for that."
        yield _gauge("penstock_drift_paused", text, views, lambda view: view.is_drift_paused)
        yield from families(self._snapshot.drift)
        if self._snapshot.traces is not None:
            traced, dropped = self._snapshot.traces
            yield CounterMetricFamily("penstock_traces", "Requests that were traced.", value=traced)
            yield CounterMetricFamily("penstock_traces_dropped", "Traces that nobody had time for.", value=dropped)
        yield from rollout.families(self._snapshot.rollouts)

    def _requests(self) -> Metric:
        family = CounterMetricFamily("penstock_requests", "Answers by code.", labels=(*_LABELS, "code", "reason"))
        for (model, version, code, reason), count in sorted(self._snapshot.outcomes.items()):
            family.add_metric((model, version, code, reason), count)
        return family

    def _refusals(self) -> Iterator[Metric]:
        """Yield what the transport has refused or cut off, if it tells: every reason it knows, also those of no use."""
        family = CounterMetricFamily(
            "penstock_refused", "Streams refused and connections cut off by the transport.", labels=("reason",)
        )
        for reason, count in sorted(self._snapshot.refusals.items()):
            family.add_metric((reason,), count)
        if self._snapshot.refusals:
            yield family


def _footprints(views: Sequence[ServableView]) -> Iterator[Metric]:
    """What loading took, in time and in memory."""
    text = "How long loading took, with warm-up and sweep."
    yield _gauge("penstock_model_load_seconds", text, views, lambda view: view.footprint.load_ns / 1e9)
    text = "Files of the version: graph, weights and what lies beside."
    yield _gauge("penstock_model_graph_bytes", text, views, lambda view: view.footprint.graph_bytes)
    text = "Growth of the process's resident memory while the version was loaded."
    yield _gauge("penstock_model_memory_bytes", text, views, lambda view: view.footprint.memory_bytes)
    if on_gpu := [view for view in views if view.gpu is not None]:
        text = "Growth of the GPU's used memory while the version was loaded."
        yield _gauge("penstock_model_gpu_memory_bytes", text, on_gpu, lambda view: view.footprint.gpu_bytes)


def _histogram(stage: str, views: Iterable[ServableView]) -> Metric:
    family = HistogramMetricFamily(f"penstock_{stage}_seconds", _STAGE_HELP[stage], labels=_LABELS)
    for view in views:
        histogram = view.stages[stage]
        family.add_metric((view.model, view.version), octave_buckets(histogram), histogram.total_ns / 1e9)
    return family


def _batch_rows(views: Iterable[ServableView]) -> Metric:
    """Rows per batch, in buckets of powers of two."""
    family = HistogramMetricFamily("penstock_batch_rows", "Rows per executed batch.", labels=_LABELS)
    for view in views:
        sizes = view.batches_by_rows
        edges = [1 << power for power in range((view.batch_rows_max - 1).bit_length() + 1)]
        buckets: list[tuple[str, float]] = [
            (str(edge), sum(count for rows, count in sizes.items() if rows <= edge)) for edge in edges
        ]
        total = sum(sizes.values())
        rows_total = sum(rows * count for rows, count in sizes.items())
        family.add_metric((view.model, view.version), [*buckets, ("+Inf", total)], rows_total)
    return family


def _batching(views: Sequence[tuple[ServableView, BatchingView]]) -> Iterator[Metric]:
    """What batchers have learnt and done."""
    releases = CounterMetricFamily(
        "penstock_batch_releases", "Batches by why they were taken then.", labels=(*_LABELS, "reason")
    )
    waits = CounterMetricFamily("penstock_batch_waits", "Idle instances told to wait for more rows.", labels=_LABELS)
    padding = CounterMetricFamily(
        "penstock_padding_rows", "Rows added to batches of a model that runs some sizes only.", labels=_LABELS
    )
    times = GaugeMetricFamily(
        "penstock_service_seconds", "How long a batch of so many rows takes, as learnt.", labels=(*_LABELS, "rows")
    )
    expected = CounterMetricFamily(
        "penstock_batch_expected_seconds", "How long the batches learnt from should have taken.", labels=_LABELS
    )
    actual = CounterMetricFamily("penstock_batch_actual_seconds", "How long these batches took.", labels=_LABELS)
    for view, batching in views:
        labels = (view.model, view.version)
        for reason, count in batching.releases.items():
            releases.add_metric((*labels, reason), count)
        for size in batching.sizes:
            times.add_metric((*labels, str(size.rows)), size.mean_ns / 1e9)
        waits.add_metric(labels, batching.waits)
        padding.add_metric(labels, batching.padding_rows)
        expected.add_metric(labels, batching.expected_ns / 1e9)
        actual.add_metric(labels, batching.actual_ns / 1e9)
    yield from (releases, waits, padding, times, expected, actual)


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
