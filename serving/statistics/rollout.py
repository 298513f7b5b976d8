"""A rollout as Prometheus shows it.

Labels are the model and the arm, so there are as many series as models, and not more the longer packages come and go;
which package an arm has is a value.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from serving.statistics.exposition import octave_buckets
from serving.statistics.latency import Histogram


@dataclass(frozen=True, slots=True)
class ArmView:
    """An arm at one moment: its name, the package's version, its share of the requests, and what it has answered.

    A shadow has no share, and nothing is timed of it.
    """

    arm: str
    version: int
    share: float
    requests: int
    errors: int
    latency: Histogram | None = None


@dataclass(frozen=True, slots=True)
class RolloutView:
    """The rollout of one model at one moment. `differing` answers of the shadow were not those of production."""

    model: str
    arms: tuple[ArmView, ...]
    differing: int = 0
    dropped: Mapping[str, int] | None = None


def families(views: Iterable[RolloutView]) -> Iterator[Metric]:
    """Yield the metric families of all rollouts; none without any."""
    views = list(views)
    if not views:
        return
    by_arm = ("model", "arm")
    version = GaugeMetricFamily("penstock_rollout_version", "The package that an arm has.", labels=by_arm)
    share = GaugeMetricFamily("penstock_rollout_share", "The share of requests that an arm gets.", labels=by_arm)
    requests = CounterMetricFamily(
        "penstock_rollout_requests", "Answers of an arm, of the shadow to nobody.", labels=(*by_arm, "outcome")
    )
    seconds = HistogramMetricFamily(
        "penstock_rollout_request_seconds", "From the arrival of a request at an arm to its answer.", labels=by_arm
    )
    for view in views:
        for arm in view.arms:
            labels = (view.model, arm.arm)
            version.add_metric(labels, arm.version)
            share.add_metric(labels, arm.share)
            requests.add_metric((*labels, "ok"), arm.requests - arm.errors)
            requests.add_metric((*labels, "failed"), arm.errors)
            if arm.latency is not None:
                seconds.add_metric(labels, octave_buckets(arm.latency), arm.latency.total_ns / 1e9)
    yield from (version, share, requests, seconds)
    yield from _shadows([view for view in views if view.dropped is not None])


def _shadows(views: Iterable[RolloutView]) -> Iterator[Metric]:
    differing = CounterMetricFamily(
        "penstock_rollout_shadow_differing", "Answers of the shadow that were not production's.", labels=("model",)
    )
    dropped = CounterMetricFamily(
        "penstock_rollout_shadow_dropped", "Requests that were not copied for the shadow.", labels=("model", "reason")
    )
    for view in views:
        differing.add_metric((view.model,), view.differing)
        for reason, count in (view.dropped or {}).items():
            dropped.add_metric((view.model, reason), count)
    yield from (differing, dropped)
