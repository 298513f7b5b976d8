"""Which requests are traced, and what is known of one when it ends. Knows no OpenTelemetry, see `spans`.

A caller's W3C traceparent decides when there is one; of requests without it every 1/ratio-th is traced. Lives on the
I/O thread.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from serving.clock import Clock
from serving.errors import Code, ServingError
from serving.statistics.latency import BatchTimes

PARAMETER = "traceparent"
"""The request parameter that says what the header of this name would."""
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-([0-9a-f]{2})(-.*)?")
_TRACEPARENT_CHARACTERS_MAX = 256


@dataclass(slots=True, eq=False)
class RequestTrace:
    """A request that is traced: its caller's traceparent, if any, and its batch's times once it has run.

    `entry` is what waits for it in a queue.
    """

    parent: str
    began_ns: int
    times: BatchTimes | None = None
    entry: object = None


@dataclass(frozen=True, slots=True)
class FinishedTrace:
    """A traced request that has its answer. Moments are on the monotonic clock; adding `epoch_ns` makes wall time."""

    model: str
    version: str
    parent: str
    began_ns: int
    ended_ns: int
    epoch_ns: int
    times: BatchTimes | None
    code: Code
    message: str


@dataclass(slots=True)
class Tracer:
    """Decides what is traced and hands what has ended to `export`, which must not wait.

    `ratio` is from 0 to 1. `traced` are requests that wait or run, by their entry in a queue.
    """

    clock: Clock
    ratio: float
    export: Callable[[FinishedTrace], None]
    traced: dict[object, RequestTrace] = field(default_factory=dict)
    _credit: float = 0.0

    def begin(self, parent: object) -> RequestTrace | None:
        """Say whether a request that comes now is traced; what is no traceparent counts as none."""
        if isinstance(parent, str) and (is_sampled := _is_sampled(parent)) is not None:
            return RequestTrace(parent, self.clock.now_ns()) if is_sampled else None
        return RequestTrace("", self.clock.now_ns()) if self._due(1) else None

    def follow(self, trace: RequestTrace, entry: object) -> None:
        """Note that a traced request is about to be queued as this entry."""
        trace.entry = entry
        self.traced[entry] = trace

    def ran(self, entry: object, times: BatchTimes) -> None:
        """Note that an entry of a queue has run, if it is traced."""
        if (trace := self.traced.get(entry)) is not None:
            trace.times = times

    def end(self, model: str, version: str, trace: RequestTrace, error: ServingError | None) -> None:
        """Hand on a traced request that is being answered, by outputs when there is no error."""
        self.traced.pop(trace.entry, None)
        code, message = (Code.OK, "") if error is None else (error.code, error.message)
        now_ns = self.clock.now_ns()
        epoch_ns = self.clock.wall_ns() - now_ns
        self.export(
            FinishedTrace(model, version, trace.parent, trace.began_ns, now_ns, epoch_ns, trace.times, code, message)
        )

    def compiled(self, model: str, version: str, times: BatchTimes, arrivals: Sequence[tuple[int, int]]) -> None:
        """Trace some of the requests that were answered without a Python object each: when they came, how many."""
        for arrival_ns, requests in arrivals:
            for _ in range(self._due(requests)):
                self.end(model, version, RequestTrace("", arrival_ns, times), None)

    def _due(self, requests: int) -> int:
        """Return how many of so many further requests are to be traced."""
        self._credit += self.ratio * requests
        due = int(self._credit)
        self._credit -= due
        return due


def _is_sampled(parent: str) -> bool | None:
    """Say whether the caller traces this request; None when it does not say. See W3C Trace Context, section 3.2."""
    found = _TRACEPARENT.fullmatch(parent) if len(parent) <= _TRACEPARENT_CHARACTERS_MAX else None
    if found is None or (parent.startswith("00") and found[2]):
        return None
    return bool(int(found[1], 16) & 1)
