"""What is seen while measuring, on stderr: a live display in a terminal, a line now and then anywhere else.

It never touches stdout, where JSON may be written, and it draws only when an interval arrives, on the thread that hands
it over. The generator is another process, so drawing delays no request.
"""

import sys
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Protocol, Self

from bench.outcome import BUSY_SHARE_MAX, LAG_SHARE_MAX
from bench.report.libraries import needed
from bench.report.units import count, plain, rate, time_us
from bench.slices import ClosedLoop, Interval, OpenLoop, Slice

if TYPE_CHECKING:
    from rich.console import Group

LINE_EVERY_S = 5.0
"""Measured time between lines where there is no terminal."""
_BAR_COLUMNS = 30


@dataclass(frozen=True, slots=True)
class Standing:
    """How a slice stands. Rates are per second of its measured time so far, times in us."""

    stage: str
    elapsed_s: float
    duration_s: float | None
    asked: str
    sent_rps: float
    answered_rps: float
    p50_us: float
    p99_us: float
    errors: int
    client_limited: bool

    def figures(self) -> str:
        """Write the figures: `sent 998/s of 1,000/s, answered 997/s, p50 812 us, p99 2.10 ms, errors 0`."""
        return (
            f"sent {rate(self.sent_rps)}/s{self.asked}, answered {rate(self.answered_rps)}/s, "
            f"p50 {time_us(self.p50_us)}, p99 {time_us(self.p99_us)}, errors {count(self.errors)}"
        )

    def clock(self) -> str:
        """Write the time: `12.3 / 30.0 s`."""
        of = f" / {self.duration_s:.1f}" if self.duration_s is not None else ""
        return f"{max(0.0, self.elapsed_s):.1f}{of} s"


LIMITED = "the client is the limit: these figures say as much about it as about the server"


class Progress:
    """A context manager that shows how measuring goes. `stream` is stderr unless told otherwise.

    `stage` names what comes next and, when given the slice, knows how long it lasts. Intervals add up until a stage or
    a new slice begins. Used by one thread. Raises ConfigError on entry when `rich` is needed and absent.
    """

    def __init__(self, stream: IO[str] | None = None) -> None:
        self._stream = stream or sys.stderr
        self._display: _Display | None = None
        self._stage = ""
        self._slice: Slice | None = None
        self._sum: Interval | None = None

    def __enter__(self) -> Self:
        self._display = _Live(self._stream) if self._stream.isatty() else _Lines(self._stream)
        return self

    def __exit__(self, *_: object) -> None:
        if self._display is not None:
            self._display.close()

    def stage(self, text: str, slice_: Slice | None = None) -> None:
        """Begin something else: a load of a sweep, a probe. Without `slice_` the last one's length is kept."""
        assert self._display is not None, "bug: progress is shown inside of `with`"
        self._stage, self._slice, self._sum = plain(text, 200), slice_ or self._slice, None
        self._display.stage(self._stage)

    def note(self, interval: Interval) -> None:
        """Add what the generator has just told."""
        assert self._display is not None, "bug: progress is shown inside of `with`"
        if self._sum is None or interval.begin_s < self._sum.begin_s or interval.end_s < self._sum.end_s:
            self._sum = Interval(interval.begin_s, interval.begin_s)
        _add(self._sum, interval)
        self._display.show(self._standing(self._sum))

    def _standing(self, total: Interval) -> Standing:
        per_s = 1 / max(total.end_s - total.begin_s, 1e-9)
        load = self._slice.load if self._slice else None
        p99_ns, lag_p99_ns = total.latency.quantile_ns(0.99), total.lag.quantile_ns(0.99)
        return Standing(
            stage=self._stage,
            elapsed_s=total.end_s,
            duration_s=load.duration_s if load else None,
            asked=_asked(load),
            sent_rps=total.sent * per_s,
            answered_rps=total.answered * per_s,
            p50_us=total.latency.quantile_ns(0.5) / 1e3,
            p99_us=p99_ns / 1e3,
            errors=total.errors.total(),
            client_limited=total.busy_s * per_s > BUSY_SHARE_MAX or lag_p99_ns > LAG_SHARE_MAX * p99_ns,
        )


class _Display(Protocol):
    def stage(self, text: str) -> None: ...
    def show(self, standing: Standing) -> None: ...
    def close(self) -> None: ...


class _Lines:
    """A line per stage and per `LINE_EVERY_S` of measured time."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._shown_s = 0.0
        self._is_warned = False

    def stage(self, text: str) -> None:
        self._shown_s = 0.0
        self._print(text)

    def show(self, standing: Standing) -> None:
        if standing.elapsed_s < self._shown_s:
            self._shown_s = 0.0
        if standing.elapsed_s - self._shown_s < LINE_EVERY_S - 1e-6:
            return
        self._shown_s = standing.elapsed_s
        self._print(f"  {standing.clock()}: {standing.figures()}")
        if standing.client_limited and not self._is_warned:
            self._is_warned = True
            self._print(f"  warning: {LIMITED}")

    def close(self) -> None:
        """Nothing is left to write."""

    def _print(self, text: str) -> None:
        print(text, file=self._stream, flush=True)


class _Live:
    """Two lines that change, and a third one when the client is the limit; they go when measuring ends."""

    def __init__(self, stream: IO[str]) -> None:
        with needed():
            from rich.console import Console  # noqa: PLC0415 - behind the extra
            from rich.live import Live  # noqa: PLC0415
        self._live = Live(console=Console(file=stream, highlight=False), auto_refresh=False, transient=True)
        self._live.start()

    def stage(self, text: str) -> None:
        from rich.text import Text  # noqa: PLC0415 - imported by now

        self._live.update(Text(text), refresh=True)

    def show(self, standing: Standing) -> None:
        self._live.update(_lines(standing), refresh=True)

    def close(self) -> None:
        self._live.stop()


def _lines(standing: Standing) -> "Group":
    """Draw a standing for `rich`."""
    from rich.console import Group  # noqa: PLC0415 - imported by now
    from rich.progress_bar import ProgressBar  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    head = Table.grid(padding=(0, 2))
    bar = ProgressBar(total=standing.duration_s, completed=max(0.0, standing.elapsed_s), width=_BAR_COLUMNS)
    cells = [Text(standing.stage, style="bold")] if standing.stage else []
    head.add_row(*cells, *([bar] if standing.duration_s is not None else []), Text(standing.clock()))
    lines: list[Table | Text] = [head, Text(standing.figures())]
    if standing.client_limited:
        lines.append(Text(LIMITED, style="bold yellow"))
    return Group(*lines)


def _asked(load: OpenLoop | ClosedLoop | None) -> str:
    if isinstance(load, OpenLoop):
        return f" of {rate(load.rate_per_s)}/s"
    return f" with {load.concurrency} in flight" if load else ""


def _add(total: Interval, interval: Interval) -> None:
    total.end_s = interval.end_s
    total.sent += interval.sent
    total.answered += interval.answered
    total.in_slo += interval.in_slo
    total.errors.update(interval.errors)
    total.latency.add(interval.latency)
    total.lag.add(interval.lag)
    total.busy_s += interval.busy_s
