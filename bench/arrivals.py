"""The moments in which an open loop sends: a schedule that is known before the first request leaves.

Pure: the same load gives the same times, whatever the machine does. It knows arrays and one file, the trace; it knows
nothing of servers or clocks.

- `constant`: one request every `1 / rate`, from the first moment on.
- `poisson`: a Poisson process, so many independent clients: gaps are exponential, requests per second vary as `sqrt`.
- `bursty`: bursts and pauses take turns (an on-off Markov-modulated Poisson process, known as IPP). A burst sends
  `BURST_FACTOR` times the mean rate, a pause nothing. Their lengths are exponential, `BURST_S_MEAN` and `PAUSE_S_MEAN`
  on average, and then stretched a little, so that bursts take exactly their share of the duration and the mean rate is
  kept in every slice, and not only in the long run.
- `trace`: times of a file, from its first entry on. A rate above 0 scales them to that mean rate over the whole trace,
  0 keeps their own. What lies beyond the duration is cut; a trace that is shorter starts over, one mean gap after its
  last entry.
"""

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.slices import ARRIVALS, OpenLoop
from serving.config import nearest
from serving.errors import ConfigError

BURST_FACTOR = 4.0
BURST_S_MEAN = 0.1
PAUSE_S_MEAN = BURST_S_MEAN * (BURST_FACTOR - 1)
"""Bursts take one part in `BURST_FACTOR` of the time, and nothing is sent in the rest."""
REQUESTS_MAX = 20_000_000
"""Of one slice: 160 MB of times. More are refused."""
DURATION_S_MAX = 86_400.0
TRACE_BYTES_MAX = 1 << 30
SPAN_S_MIN, SPAN_S_MAX = 1e-9, 1e9
"""Of a trace, so that its rate is a number one can divide by."""

Times = NDArray[np.int64]


def times_ns(load: OpenLoop) -> Times:
    """Return the intended moments of all requests, shape (requests,), ascending, in ns, in [0, `duration_s`).

    Raises ConfigError for a load that cannot be offered: a rate or duration that is not a positive number, more than
    `REQUESTS_MAX` requests, a trace that cannot be read.
    """
    _check(load)
    duration_ns = round(load.duration_s * 1e9)
    if load.arrivals == "trace":
        return _trace(load, duration_ns)
    if load.arrivals == "constant":
        return _constant(load.rate_per_s, duration_ns)
    random = np.random.default_rng(load.seed)
    count = int(random.poisson(load.rate_per_s * load.duration_s))
    if load.arrivals == "poisson":
        # Given their number, the times of a Poisson process are independent and uniform.
        return np.sort(random.integers(0, duration_ns, count))
    return _bursty(random, count, duration_ns)


def _check(load: OpenLoop) -> None:
    if load.arrivals not in ARRIVALS:
        raise ConfigError(f"arrivals = {load.arrivals!r}, expected one of {', '.join(ARRIVALS)}"
                          f"{nearest(load.arrivals, ARRIVALS)}")  # fmt: skip
    if not 0 < load.duration_s <= DURATION_S_MAX:
        raise ConfigError(f"duration = {load.duration_s:g} s, expected more than 0 and at most {DURATION_S_MAX:g}")
    rate_min = 0 if load.arrivals == "trace" else math.ulp(0)
    if not rate_min <= load.rate_per_s < math.inf:
        raise ConfigError(f"rate = {load.rate_per_s:g} requests/s, expected a number above 0")
    if load.seed < 0:
        raise ConfigError(f"seed = {load.seed}, expected 0 or more")
    _check_count(load.rate_per_s * load.duration_s, load)


def _check_count(requests: float, load: OpenLoop) -> None:
    if requests > REQUESTS_MAX:
        raise ConfigError(
            f"{load.duration_s:g} s hold {requests:.3g} requests, expected at most {REQUESTS_MAX}; "
            "lower the rate or the duration"
        )


def _constant(rate_per_s: float, duration_ns: int) -> Times:
    indices = np.arange(math.ceil(rate_per_s * duration_ns / 1e9) + 1)
    times = (indices * (1e9 / rate_per_s)).astype(np.int64)
    return times[times < duration_ns]


def _bursty(random: np.random.Generator, count: int, duration_ns: int) -> Times:
    """Spread `count` times evenly over the bursts; the pauses before a burst move it back."""
    pairs = max(1, round(duration_ns / 1e9 / (BURST_S_MEAN + PAUSE_S_MEAN)))
    burst_ns = duration_ns / BURST_FACTOR
    bursts = _lengths(random, pairs, burst_ns)
    # One pause more than bursts, the first and the last together as long as one: a slice begins anywhere in a cycle.
    pauses = _lengths(random, pairs, duration_ns - burst_ns)
    first = pauses[0] * random.random()
    paused = first + np.concatenate(([0.0], np.cumsum(pauses[1:])))
    inside = np.sort(random.random(count)) * burst_ns
    burst = np.minimum(np.searchsorted(np.cumsum(bursts), inside, side="right"), pairs - 1)
    times: Times = (inside + paused[burst]).astype(np.int64)
    return np.minimum(times, duration_ns - 1)


def _lengths(random: np.random.Generator, count: int, total_ns: float) -> NDArray[np.float64]:
    lengths: NDArray[np.float64] = random.exponential(size=count)
    lengths *= total_ns / lengths.sum()
    return lengths


def _trace(load: OpenLoop, duration_ns: int) -> Times:
    if load.trace is None:
        raise ConfigError("arrivals = 'trace' without a file; name one, as in trace:FILE")
    seconds = read_trace(load.trace)
    seconds -= seconds[0]
    gap_s = seconds[-1] / (len(seconds) - 1)
    scale = 1e9 / (gap_s * load.rate_per_s) if load.rate_per_s else 1e9
    period_ns = gap_s * len(seconds) * scale
    repeats = math.ceil(duration_ns / period_ns)
    _check_count(min(repeats, duration_ns / period_ns + 1) * len(seconds), load)
    offsets = np.arange(repeats)[:, np.newaxis] * period_ns
    times: Times = (offsets + seconds * scale).reshape(-1).astype(np.int64)
    return times[times < duration_ns]


def read_trace(path: Path) -> NDArray[np.float64]:
    """Return a trace's times in seconds, shape (entries,), at least two of them, ascending.

    A .npy file holds them as an array of one dimension; any other file has one number per line, and blank lines and
    what follows a `#` do not count. Raises ConfigError.
    """
    try:
        if path.stat().st_size > TRACE_BYTES_MAX:
            raise ConfigError(f"trace {path}: longer than {TRACE_BYTES_MAX} bytes; cut it")
        seconds = _read_array(path) if path.suffix == ".npy" else _read_lines(path)
    except OSError as error:
        raise ConfigError(f"trace {path}: {error.strerror or error}") from None
    if len(seconds) < 2:
        raise ConfigError(f"trace {path}: {len(seconds)} entries, expected at least two times in seconds")
    if len(seconds) > REQUESTS_MAX:
        raise ConfigError(f"trace {path}: {len(seconds)} entries, expected at most {REQUESTS_MAX}; cut it")
    if not np.isfinite(seconds).all():
        entry = int(np.flatnonzero(~np.isfinite(seconds))[0])
        raise ConfigError(f"trace {path}: entry {entry + 1} is {seconds[entry]}, expected a time in seconds")
    if (descents := np.flatnonzero(np.diff(seconds) < 0)).size:
        entry = int(descents[0]) + 1
        raise ConfigError(f"trace {path}: entry {entry + 1} is {seconds[entry]:g} s, after one of "
                          f"{seconds[entry - 1]:g} s; sort the times")  # fmt: skip
    span_s = seconds[-1] - seconds[0]
    if not SPAN_S_MIN <= span_s <= SPAN_S_MAX:
        raise ConfigError(f"trace {path}: spans {span_s:g} s, expected {SPAN_S_MIN:g} to {SPAN_S_MAX:g}")
    return seconds


def _read_array(path: Path) -> NDArray[np.float64]:
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ConfigError(f"trace {path}: not an array of numbers: {error}") from None
    if array.ndim != 1 or array.dtype.kind not in "iuf":
        what = f"{array.dtype} of shape {list(array.shape)}"
        raise ConfigError(f"trace {path}: {what}, expected one dimension of numbers")
    return np.array(array, np.float64)


def _read_lines(path: Path) -> NDArray[np.float64]:
    seconds: list[float] = []
    with path.open(errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            if text := line.partition("#")[0].strip():
                try:
                    seconds.append(float(text))
                except ValueError:
                    raise ConfigError(
                        f"trace {path}: line {number} is {text[:40]!r}, expected one time in seconds"
                    ) from None
    return np.array(seconds)
