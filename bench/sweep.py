"""A sweep: the same load at several levels (rates or concurrencies), one slice each, in ascending order.

Levels are written as a list, `100,200,400`; evenly from..to..step, `100..1000..100`; or geometrically, each so many
times the one before, `100..10000..x2`.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from bench.outcome import Outcome
from bench.slices import ClosedLoop, Measure, OpenLoop, Slice
from serving.errors import ConfigError

LEVELS_MAX = 200


@dataclass(frozen=True, slots=True)
class Sweep:
    """The outcome of every level that ran; `failure` says why those after it did not."""

    outcomes: tuple[Outcome, ...]
    failure: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the sweep as JSON holds it."""
        return {"outcomes": [outcome.to_json() for outcome in self.outcomes], "failure": self.failure}


def read_levels(text: str) -> tuple[float, ...]:
    """Read levels, positive and ascending, up to `LEVELS_MAX`. Raises ConfigError."""
    parts = text.split("..")
    try:
        if len(parts) == 1:
            levels = [float(part) for part in text.split(",")]
        elif len(parts) == 3 and parts[2].startswith("x"):
            levels = _geometric(float(parts[0]), float(parts[1]), float(parts[2][1:]))
        else:
            first, last, step = (float(part) for part in parts)
            levels = _even(first, last, step)
    except ValueError:
        raise ConfigError(f"levels {text!r}, expected a list as in 100,200,400, or from..to..step as in "
                          "100..1000..100 or 100..10000..x2") from None  # fmt: skip
    if not all(0 < level < math.inf for level in levels):
        raise ConfigError(f"levels {text!r} hold a number that is not above 0")
    if len(levels) > LEVELS_MAX:
        raise ConfigError(f"levels {text!r} are {len(levels)}, expected at most {LEVELS_MAX}")
    if not levels or any(later <= earlier for earlier, later in itertools.pairwise(levels)):
        raise ConfigError(f"levels {text!r} do not ascend")
    return tuple(levels)


def slices(template: Slice, *, rates: Sequence[float] = (), concurrencies: Sequence[float] = ()) -> list[Slice]:
    """Return a slice per level, otherwise as the template: of rates in an open loop, of concurrencies in a closed one.

    A template in a closed loop is swept over rates with Poisson arrivals. Raises ConfigError.
    """
    if bool(rates) == bool(concurrencies):
        raise ConfigError("a sweep takes rates or concurrencies; give one of them")
    if fractions := [level for level in concurrencies if level != int(level)]:
        raise ConfigError(f"concurrency = {fractions[0]:g}, expected a whole number of requests in flight")
    given, duration_s = template.load, template.load.duration_s
    open_load = given if isinstance(given, OpenLoop) else OpenLoop(rate_per_s=1.0, duration_s=duration_s)
    loads: list[OpenLoop | ClosedLoop] = [dataclasses.replace(open_load, rate_per_s=rate) for rate in rates]
    loads += [ClosedLoop(concurrency=int(level), duration_s=duration_s) for level in concurrencies]
    return [dataclasses.replace(template, load=load) for load in loads]


def run(
    measure: Measure,
    levels: Sequence[Slice],
    *,
    rows: int = 1,
    on_outcome: Callable[[Outcome], None] = lambda _: None,
) -> Sweep:
    """Measure every level; a slice that fails ends the sweep and is kept, as are those before."""
    outcomes: list[Outcome] = []
    for level in levels:
        recording = measure(level)
        outcomes.append(Outcome.of(recording, rows))
        on_outcome(outcomes[-1])
        if recording.failure:
            return Sweep(tuple(outcomes), recording.failure)
    return Sweep(tuple(outcomes))


def _even(first: float, last: float, step: float) -> list[float]:
    if not (step > 0 and first > 0 and math.inf > last >= first):
        raise ValueError
    count = math.floor((last - first) / step * (1 + 1e-12)) + 1
    return [first + step * index for index in range(min(count, LEVELS_MAX + 1))]


def _geometric(first: float, last: float, factor: float) -> list[float]:
    if not (factor > 1 and first > 0 and math.inf > last >= first):
        raise ValueError
    count = math.floor(math.log(last / first) / math.log(factor) * (1 + 1e-12)) + 1
    return [first * factor**index for index in range(min(count, LEVELS_MAX + 1))]
