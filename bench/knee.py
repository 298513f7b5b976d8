"""The knee: the largest rate at which p99 stays within X, found by bisection in noise, in a given time.

First the rate doubles, in short probes, until one fails (or halves until one passes). Then the search is a bisection
that knows of noise: the next probe runs where, by all that was seen, the knee is about as likely below as above
(`knee_fit`), so a probe that leaves it open is repeated next to it. It ends when the knee's 95 % interval is narrow
enough, or the time is spent. What a probe itself has shown, with 95 % confidence, is its verdict (`tail_share`).

A machine that does other things for a moment makes the generator send late. Latency counts from the intended moment, so
such a probe blames the server for it. It does not count unless it is clear in spite of that, and another takes its
place.
"""

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from bench.knee_fit import estimate, fit
from bench.outcome import BUSY_SHARE_MAX, LAG_SHARE_MAX, Outcome
from bench.slices import Measure, OpenLoop, Slice
from bench.tail_share import SHARE_MAX, TailShare
from serving.errors import ConfigError

RATE_MAX = 5e6
REQUESTS_PER_PROBE_MIN = 20
"""Below, halving the rate shows nothing any more."""
VERDICTS = {True: "pass", False: "fail", None: "undecided"}
LATE = "late"
"""The verdict of a probe that shows nothing, because the generator sent late."""
LATE_IN_A_ROW_MAX = 8
"""Before there is a bracket: after so many at one rate the machine is too busy to tell. Later it may calm down."""
TIME_SPENT = "the time was spent"
NO_BRACKET = f"{TIME_SPENT} before a rate that fails was found; allow more, or start at a higher rate"
PLACES = (0.5, 0.25, 0.75)
"""Quantiles of the knee at which probes run in turn: around the knee rather than on it, which also shows the slope."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How to search. Times in seconds; the defaults end within two minutes, the time to drain an overload included."""

    rate_start: float = 100.0
    bracket_s: float = 1.5
    probe_s: float = 3.0
    warm_up_s: float = 0.5
    time_s_max: float = 110.0
    width: float = 1.03
    """Ends when the upper end of the interval is at most this many times the lower."""
    probes_min: int = 6
    """After the bracket was found."""

    def __post_init__(self) -> None:
        if not 0 < self.rate_start <= RATE_MAX:
            raise ConfigError(f"rate_start = {self.rate_start:g} requests/s, expected more than 0, up to {RATE_MAX:g}")
        if self.width <= 1:
            raise ConfigError(f"width = {self.width:g}, expected a ratio above 1, such as 1.03")
        if self.time_s_max < 4 * (self.probe_s + self.warm_up_s):
            needed_s = 4 * (self.probe_s + self.warm_up_s)
            raise ConfigError(f"{self.time_s_max:g} s in all, expected at least {needed_s:g}: four probes")


@dataclass(frozen=True, slots=True)
class Probe:
    """What one rate has shown. `verdict` is pass, fail or undecided with 95 % confidence, or late."""

    rate: float
    share: TailShare
    outcome: Outcome
    p99_ms: float
    lag_max_ns: int

    @property
    def verdict(self) -> str:
        """Whether p99 <= X."""
        return VERDICTS[self.share.passes()] if self.counts else LATE

    @property
    def counts(self) -> bool:
        """Whether it shows something: the generator was on time, or what it shows is so whoever was late.

        Lateness only adds to latency, so a probe that passes clearly has passed. And a server that gets no request
        later than by L ends none later than by L (Lindley's recursion), so one that misses X + L clearly has failed.
        """
        is_late = self.outcome.lag_p99_us > LAG_SHARE_MAX * self.p99_ms * 1e3
        if not is_late or self.share.passes() is True:
            return True
        within = self.outcome.histogram.share_within(self.p99_ms * 1e6 + self.lag_max_ns)
        over = self.share.requests - round(self.outcome.answered * within) if self.outcome.answered else 0
        return dataclasses.replace(self.share, over=over).passes() is False

    @property
    def shows_side(self) -> bool:
        """Whether it says, roughly, on which side of the knee it is."""
        return self.counts or not self.is_over

    @property
    def is_over(self) -> bool:
        """Whether more than 1 % were over X, sure or not."""
        return self.share.share > SHARE_MAX

    @property
    def is_too_much(self) -> bool:
        """Whether the rate is more than the generator can offer."""
        return self.outcome.unsent > 0 or self.outcome.busy_share > BUSY_SHARE_MAX

    def to_json(self) -> dict[str, Any]:
        """Return the probe as JSON holds it."""
        low, high = self.share.interval()
        return {
            "rate": self.rate,
            "requests": self.share.requests,
            "over": self.share.over,
            "design_effect": self.share.design_effect,
            "share_low": low,
            "share_high": high,
            "verdict": self.verdict,
            "outcome": self.outcome.to_json(),
        }


@dataclass(frozen=True, slots=True)
class Knee:
    """The answer: the knee lies from `low` to `high` with 95 % confidence, most likely at `rate`. All in requests/s.

    `rate` is None where there is no such answer; `ended` says why then, and what is known instead.
    """

    p99_ms: float
    rate: float | None
    low: float | None
    high: float | None
    probes: tuple[Probe, ...]
    ended: str
    failure: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the knee as JSON holds it."""
        values = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        return values | {"probes": [probe.to_json() for probe in self.probes]}


@dataclass(slots=True)
class _Search:
    """The state of a search: what was probed, and the time that is left."""

    measure: Measure
    template: Slice
    p99_ms: float
    plan: Plan
    clock: Callable[[], float]
    on_probe: Callable[[Probe], None]
    begin_s: float
    rows: int
    probes: list[Probe] = field(default_factory=list)

    def has_time_for(self, duration_s: float) -> bool:
        return self.clock() - self.begin_s + duration_s + self.plan.warm_up_s <= self.plan.time_s_max

    def probe(self, rate: float, duration_s: float) -> Probe:
        """Run a slice at a rate; its moments are its own."""
        load = self.template.load
        assert isinstance(load, OpenLoop), "bug: a knee is searched in an open loop"
        load = dataclasses.replace(load, rate_per_s=rate, duration_s=duration_s, seed=load.seed + len(self.probes))
        slice_ = dataclasses.replace(self.template, load=load, warm_up_s=self.plan.warm_up_s, slo_ms=self.p99_ms)
        recording = self.measure(slice_)
        outcome, lag_max_ns = Outcome.of(recording, self.rows), recording.total.lag.max_ns
        probe = Probe(rate, TailShare.of(recording), outcome, self.p99_ms, lag_max_ns)
        self.probes.append(probe)
        self.on_probe(probe)
        return probe

    @property
    def seen(self) -> list[tuple[float, TailShare]]:
        return [(probe.rate, probe.share) for probe in self.probes if probe.counts and not probe.outcome.failure]

    def knee(self, ended: str, bracket: tuple[float, float] | None = None) -> Knee:
        failure = self.probes[-1].outcome.failure if self.probes else None
        if bracket is None:
            return Knee(self.p99_ms, None, None, None, tuple(self.probes), ended, failure)
        return Knee(self.p99_ms, *estimate(self.seen, *bracket), tuple(self.probes), ended, failure)


class _Ended(Exception):
    """The search is over before there is a bracket; the message says why."""


def find(
    measure: Measure,
    template: Slice,
    *,
    p99_ms: float,
    plan: Plan | None = None,
    rows: int = 1,
    clock: Callable[[], float] = time.monotonic,
    on_probe: Callable[[Probe], None] = lambda _: None,
) -> Knee:
    """Search for the largest rate at which p99 <= `p99_ms`. Rate, duration and objective of `template` do not matter.

    Every probe is a slice of its own seed. Raises ConfigError for a load that is no open loop.
    """
    if not isinstance(template.load, OpenLoop) or template.load.arrivals == "trace":
        raise ConfigError("a knee is a rate; give arrivals constant, poisson or bursty, and no concurrency")
    if not 0 < p99_ms < float("inf"):
        raise ConfigError(f"p99 = {p99_ms:g} ms, expected a number above 0")
    search = _Search(measure, template, p99_ms, plan or Plan(), clock, on_probe, clock(), rows)
    try:
        bracket = _bracket(search)
    except _Ended as end:
        return search.knee(str(end))
    return _bisect(search, *bracket)


def _bracket(search: _Search) -> tuple[float, float]:
    """Return rates between which the knee surely lies. Raises _Ended."""
    rate, passing, failing, late = search.plan.rate_start, None, None, 0
    while passing is None or failing is None:
        if not search.has_time_for(search.plan.bracket_s):
            raise _Ended(NO_BRACKET)
        probe = _checked(search, rate, search.plan.bracket_s)
        late = 0 if probe.shows_side else late + 1
        if late == LATE_IN_A_ROW_MAX:
            raise _Ended(_too_busy(late, rate))
        if late:
            continue
        if probe.is_over:
            failing, rate = rate, rate / 2
        else:
            passing, rate = rate, rate * 2
        if failing is None and rate > RATE_MAX:
            raise _Ended(f"p99 stays within {search.p99_ms:g} ms up to {passing:g} requests/s, and more was not tried")
        if passing is None and rate * search.plan.bracket_s < REQUESTS_PER_PROBE_MIN:
            raise _Ended(f"p99 is above {search.p99_ms:g} ms even at {failing:g} requests/s")
    return passing / 2, failing * 2  # a short probe may be wrong by one step


def _checked(search: _Search, rate: float, duration_s: float) -> Probe:
    """Probe, and end where the search cannot go on. Raises _Ended."""
    probe = search.probe(rate, duration_s)
    if probe.outcome.failure:
        raise _Ended(f"the probe at {rate:.6g} requests/s ended early: {probe.outcome.failure}")
    if probe.is_over and probe.is_too_much:
        raise _Ended(f"the load generator could not offer {rate:.6g} requests/s; the knee was not reached below it")
    return probe


def _too_busy(late: int, rate: float) -> str:
    return (
        f"the load generator sent late in {late} probes of {rate:.6g} requests/s in a row: this machine is busy with "
        "other things, or needs all its cores for the server"
    )


def _bisect(search: _Search, low: float, high: float) -> Knee:
    """Probe where the knee is likely until it is known well enough."""
    plan = search.plan
    count = 0
    while search.has_time_for(plan.probe_s):
        posterior = fit(search.seen, low, high)
        if count >= plan.probes_min and _ratio(*posterior.interval()) <= plan.width:
            _, *interval = estimate(search.seen, low, high)
            if _ratio(*interval) <= plan.width:
                return search.knee("the interval is narrow enough", (low, high))
        try:
            rate = posterior.quantile(PLACES[len(search.probes) % len(PLACES)])
            probe = _checked(search, rate, plan.probe_s)
        except _Ended as end:
            return search.knee(str(end), (low, high))
        count += probe.counts
    return search.knee(TIME_SPENT, (low, high))


def _ratio(low: float, high: float) -> float:
    return high / low
