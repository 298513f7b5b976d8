"""What a slice has shown: the numbers that people and scripts read."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.histogram import Histogram
from bench.slices import ClosedLoop, Interval, OpenLoop, Recording, ServerFigures

QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999}
LAG_SHARE_MAX = 0.1
BUSY_SHARE_MAX = 0.9
"""The generator is the limit when its lag's p99 is over this share of the latency's, or its thread is busier."""
LATE_SHARE_MAX = 0.02
TAIL_SHARE = 0.005


@dataclass(frozen=True, slots=True)
class LatencyUs:
    """Latency in us, from the intended moment to the answer; NaN where nothing was answered."""

    mean: float
    p50: float
    p90: float
    p99: float
    p999: float
    max: float

    @classmethod
    def of(cls, histogram: Histogram) -> "LatencyUs":
        """Read the figures off a histogram."""
        quantiles = {name: histogram.quantile_ns(quantile) / 1e3 for name, quantile in QUANTILES.items()}
        return cls(mean=histogram.mean_ns / 1e3, max=histogram.max_ns / 1e3, **quantiles)


@dataclass(frozen=True, slots=True)
class Point:
    """One stretch of the timeline: rates per second, latency in us."""

    at_s: float
    sent_rps: float
    answered_rps: float
    errors_rps: float
    p50_us: float
    p99_us: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """One slice on one server. Rates are per second of the counted duration.

    `throughput_rps` counts OK answers to requests of that time; when a server that cannot keep up answers them long
    after it, they count in the time that it took. `goodput_rps` counts OK answers within `slo_ms`, and all of them
    without an objective. `errors` are by the name of the gRPC code. `offered_rps` is None in a closed loop, and
    `concurrency` in an open one.
    """

    load: str
    offered_rps: float | None
    concurrency: int | None
    rows: int
    duration_s: float
    slo_ms: float | None
    sent: int
    answered: int
    unanswered: int
    unsent: int
    errors: dict[str, int]
    throughput_rps: float
    throughput_rows_per_s: float
    goodput_rps: float
    latency_us: LatencyUs
    lag_p99_us: float
    busy_share: float
    client_limited: bool
    server: ServerFigures
    timeline: tuple[Point, ...]
    histogram: Histogram
    failure: str | None = None

    @classmethod
    def of(cls, recording: Recording, rows: int) -> "Outcome":
        """Read a recording."""
        total, load = recording.total, recording.slice.load
        duration_s = total.end_s - total.begin_s if recording.failure else load.duration_s
        throughput_rps = _throughput_rps(recording.intervals, duration_s)
        goodput_rps = min(throughput_rps, total.in_slo / duration_s) if duration_s > 0 else 0.0
        latency_us = LatencyUs.of(total.latency)
        lag_p99_us = total.lag.quantile_ns(0.99) / 1e3
        busy_share = total.busy_s / max(total.end_s - total.begin_s, 1e-9)
        return cls(
            load=load.arrivals if isinstance(load, OpenLoop) else "closed",
            offered_rps=load.rate_per_s if isinstance(load, OpenLoop) else None,
            concurrency=load.concurrency if isinstance(load, ClosedLoop) else None,
            rows=rows,
            duration_s=duration_s,
            slo_ms=recording.slice.slo_ms,
            sent=total.sent,
            answered=total.answered,
            unanswered=recording.unanswered,
            unsent=recording.unsent,
            errors=dict(sorted(total.errors.items())),
            throughput_rps=throughput_rps,
            throughput_rows_per_s=throughput_rps * rows,
            goodput_rps=goodput_rps if recording.slice.slo_ms is not None else throughput_rps,
            latency_us=latency_us,
            lag_p99_us=lag_p99_us,
            busy_share=busy_share,
            client_limited=busy_share > BUSY_SHARE_MAX
            or lag_p99_us > LAG_SHARE_MAX * latency_us.p99
            or recording.unsent > 0,
            server=recording.server,
            timeline=tuple(_points(recording)),
            histogram=total.latency,
            failure=recording.failure,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the outcome as JSON holds it: all but the histogram, and null where there is no number."""
        values = {item.name: getattr(self, item.name) for item in dataclasses.fields(self) if item.name != "histogram"}
        for name in ("latency_us", "server"):
            values[name] = dataclasses.asdict(values[name])
        values["timeline"] = [dataclasses.asdict(point) for point in self.timeline]
        return {name: _json(value) for name, value in values.items()}


def _json(value: Any) -> Any:
    """Turn what JSON does not know into what it does: NaN and infinity into null, keys into strings."""
    if isinstance(value, dict):
        return {str(key): _json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _throughput_rps(intervals: Sequence[Interval], duration_s: float) -> float:
    """Return OK answers per second.

    In a steady state a request that begins in time and ends late stands for one that began before. When more than
    `LATE_SHARE_MAX` of the answers are late there may be a queue that grew; then the rate is that of the answers
    between the first and the last `TAIL_SHARE` of them, at which a straggler does not matter.
    """
    answered = sum(interval.answered for interval in intervals)
    if not answered or duration_s <= 0:
        return 0.0
    late = sum(interval.answered for interval in intervals if interval.begin_s >= duration_s)
    if late <= LATE_SHARE_MAX * answered:
        return answered / duration_s
    edges_s = [intervals[0].begin_s, *(interval.end_s for interval in intervals)]
    counts = np.cumsum([0, *(interval.answered for interval in intervals)])
    first_s, last_s = np.interp([TAIL_SHARE * answered, (1 - TAIL_SHARE) * answered], counts, edges_s)
    return answered * min(1 / duration_s, (1 - 2 * TAIL_SHARE) / float(last_s - first_s))


def _points(recording: Recording) -> list[Point]:
    return [
        Point(
            at_s=interval.end_s,
            sent_rps=interval.sent / (interval.end_s - interval.begin_s),
            answered_rps=interval.answered / (interval.end_s - interval.begin_s),
            errors_rps=interval.errors.total() / (interval.end_s - interval.begin_s),
            p50_us=interval.latency.quantile_ns(0.5) / 1e3,
            p99_us=interval.latency.quantile_ns(0.99) / 1e3,
        )
        for interval in recording.intervals
        if interval.end_s > interval.begin_s
    ]
