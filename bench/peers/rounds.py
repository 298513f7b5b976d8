"""Several rounds on one server as one outcome: their requests pooled, as if they had been one run with pauses.

Pure. Counts and histograms add up exactly, and rates are over the time of all rounds. What a server says in means is
weighted by answers. A figure that rounds know by its percentile alone, the generator's lag, is that of the worst round.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from bench.histogram import Histogram
from bench.outcome import LatencyUs, Outcome, Point
from bench.slices import ServerFigures


def pooled(rounds: Sequence[Outcome]) -> Outcome:
    """Return what rounds of the same load on the same server have shown together."""
    first = rounds[0]
    if len(rounds) == 1:
        return first
    duration_s = sum(outcome.duration_s for outcome in rounds)
    histogram = Histogram()
    for outcome in rounds:
        histogram.add(outcome.histogram)

    def over_time(figure: Callable[[Outcome], float]) -> float:
        return sum(figure(outcome) * outcome.duration_s for outcome in rounds) / duration_s if duration_s else 0.0

    return dataclasses.replace(
        first,
        duration_s=duration_s,
        sent=sum(outcome.sent for outcome in rounds),
        answered=sum(outcome.answered for outcome in rounds),
        unanswered=sum(outcome.unanswered for outcome in rounds),
        unsent=sum(outcome.unsent for outcome in rounds),
        errors=dict(sorted(sum((Counter(outcome.errors) for outcome in rounds), Counter()).items())),
        throughput_rps=over_time(lambda outcome: outcome.throughput_rps),
        throughput_rows_per_s=over_time(lambda outcome: outcome.throughput_rows_per_s),
        goodput_rps=over_time(lambda outcome: outcome.goodput_rps),
        latency_us=LatencyUs.of(histogram),
        lag_p99_us=max(outcome.lag_p99_us for outcome in rounds),
        busy_share=over_time(lambda outcome: outcome.busy_share),
        client_limited=any(outcome.client_limited for outcome in rounds),
        server=_server(rounds),
        timeline=tuple(_timeline(rounds)),
        histogram=histogram,
        failure=next((outcome.failure for outcome in rounds if outcome.failure is not None), None),
    )


def _server(rounds: Sequence[Outcome]) -> ServerFigures:
    stages = {name: None for outcome in rounds for name in outcome.server.stages_us}
    batch_rows: Counter[int] = sum((Counter(outcome.server.batch_rows) for outcome in rounds), Counter())
    mean_batch_rows = _mean(rounds, lambda outcome: outcome.server.mean_batch_rows)
    if batch_rows:
        mean_batch_rows = sum(rows * count for rows, count in batch_rows.items()) / batch_rows.total()

    def stage(name: str) -> Callable[[Outcome], float | None]:
        return lambda outcome: outcome.server.stages_us.get(name)

    means = {name: _mean(rounds, stage(name)) for name in stages}
    return ServerFigures(
        stages_us={name: mean for name, mean in means.items() if mean is not None},
        mean_batch_rows=mean_batch_rows,
        batch_rows=dict(sorted(batch_rows.items())),
        cpu_us_per_request=_mean(rounds, lambda outcome: outcome.server.cpu_us_per_request),
    )


def _mean(rounds: Sequence[Outcome], figure: Callable[[Outcome], float | None]) -> float | None:
    """Return the mean per answered request over the rounds that know it."""
    known = [(value, outcome.answered) for outcome in rounds if (value := figure(outcome)) is not None]
    answered = sum(count for _, count in known)
    return sum(value * count for value, count in known) / answered if answered else None


def _timeline(rounds: Sequence[Outcome]) -> Iterator[Point]:
    """Yield the points of the rounds, each round after the one before."""
    begin_s = 0.0
    for outcome in rounds:
        yield from (dataclasses.replace(point, at_s=begin_s + point.at_s) for point in outcome.timeline)
        begin_s += outcome.duration_s
