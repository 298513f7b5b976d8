"""A histogram of durations as Prometheus takes it, for every family of metrics that has one."""

from serving.statistics.latency import Histogram, octave_edges_ns


def octave_buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """Return how many durations lie below each power of two, by that edge in seconds."""
    edges = [f"{edge / 1e9:.9g}" for edge in octave_edges_ns()]
    finite: list[tuple[str, float]] = [
        (edge, count) for edge, count in zip(edges, histogram.cumulative_by_octave(), strict=True)
    ]
    return [*finite, ("+Inf", histogram.count)]
