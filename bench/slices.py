"""What is asked of a load generator, and what it brings back: one slice of time under one load on one server.

A request has an *intended* moment. In an open loop a schedule sets it, whatever the server does; in a closed loop it is
the moment in which a place became free. Latency is from there to the answer, so a server that stalls is charged for
every request that it kept from being sent (no coordinated omission). `lag` is from the intended to the actual moment.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bench.histogram import Histogram

ARRIVALS = ("constant", "poisson", "bursty", "trace")
INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True)
class Target:
    """A server that speaks gRPC, and how to reach it. `host` may be a name or an IP address."""

    host: str
    port: int
    tls: bool = False
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenLoop:
    """Requests at moments that do not depend on the answers: `rate_per_s` on average, for `duration_s`."""

    rate_per_s: float
    duration_s: float
    arrivals: str = "poisson"
    trace: Path | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosedLoop:
    """`concurrency` requests in flight at any time, for `duration_s`: each answer makes place for the next request."""

    concurrency: int
    duration_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """One load on one of the generator's targets.

    Requests whose intended moment lies in the first `warm_up_s` are sent and not counted; `duration_s` of the load does
    not include them. After the last one, answers are awaited for `drain_s`. A request carries the deadline `timeout_s`.
    """

    load: OpenLoop | ClosedLoop
    target: int = 0
    warm_up_s: float = 0.0
    drain_s: float = 10.0
    timeout_s: float | None = None
    slo_ms: float | None = None


@dataclass(slots=True)
class Interval:
    """What happened from `begin_s` to `end_s` after the slice's first counted moment, of what counts.

    `sent` by their actual moment; `answered` (OK) and `errors` (by the name of the gRPC code) by the moment of the
    answer. `latency` is of OK answers. `in_slo` are OK answers within the objective.
    """

    begin_s: float
    end_s: float
    sent: int = 0
    answered: int = 0
    in_slo: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    latency: Histogram = field(default_factory=Histogram)
    lag: Histogram = field(default_factory=Histogram)
    busy_s: float = 0.0
    """CPU time of the generator's thread."""


@dataclass(frozen=True, slots=True)
class ServerFigures:
    """What the server says of the same time, and what its process took. None where nobody tells.

    `stages_us` are means per request from ModelStatistics (queue, compute_input, compute_infer, compute_output);
    `batch_rows` counts executed batches by their rows; `cpu_us_per_request` is known for a server on this machine.
    """

    stages_us: dict[str, float] = field(default_factory=dict)
    mean_batch_rows: float | None = None
    batch_rows: dict[int, int] = field(default_factory=dict)
    cpu_us_per_request: float | None = None


@dataclass(slots=True)
class Recording:
    """All of a slice: the sum of its intervals. `failure` says why it ended before its time, if it did.

    A slice that a person ended has the failure `INTERRUPTED`. `unanswered` requests were sent and had no answer when
    waiting ended; `unsent` were due and could not be sent. `server` is filled in by who can ask it.
    """

    slice: Slice
    intervals: list[Interval] = field(default_factory=list)
    unanswered: int = 0
    unsent: int = 0
    failure: str | None = None
    server: ServerFigures = field(default_factory=ServerFigures)

    @property
    def total(self) -> Interval:
        """The sum of all intervals."""
        first = self.intervals[0].begin_s if self.intervals else 0.0
        total = Interval(first, self.intervals[-1].end_s if self.intervals else 0.0)
        for interval in self.intervals:
            total.sent += interval.sent
            total.answered += interval.answered
            total.in_slo += interval.in_slo
            total.errors.update(interval.errors)
            total.latency.add(interval.latency)
            total.lag.add(interval.lag)
            total.busy_s += interval.busy_s
        return total


Measure = Callable[[Slice], Recording]
"""Something that runs a slice: a generator, or a server of the tests in virtual time."""
