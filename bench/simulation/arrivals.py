"""When requests come: Poisson, on-off, Markov-modulated, or as recorded. Pure and seeded; moments in ns."""

from pathlib import Path

import numpy as np

from bench.simulation.world import Floats

POISSON, MODULATED, ON_OFF = "poisson", "modulated", "on-off"
PATTERNS = (POISSON, MODULATED, ON_OFF)

_CALM_TO_BUSY = 0.5, 2.0
"""Rates of the Markov-modulated process, as multiples of the mean: calm two thirds of the time, busy one third."""
_ON_SHARE = 0.25
"""An on-off source sends four times its mean rate for a quarter of the time."""
_STAY_REQUESTS = 200.0
"""How many requests come in a stay in a state, on average."""


def arrivals(pattern: str, *, rate_per_ns: float, count: int, seed: int) -> Floats:
    """Return `count` moments at a mean rate, ascending from 0."""
    random = np.random.default_rng(seed)
    gaps = random.exponential(1.0, count)
    if pattern == POISSON:
        return np.asarray(np.cumsum(gaps) / rate_per_ns)
    if pattern == MODULATED:
        rates, shares = np.array(_CALM_TO_BUSY), np.array([2 / 3, 1 / 3])
    else:
        rates, shares = np.array([0.0, 1 / _ON_SHARE]), np.array([1 - _ON_SHARE, _ON_SHARE])
    return _modulated(np.cumsum(gaps), rates, shares, random) / rate_per_ns


def _modulated(work: Floats, rates: Floats, shares: Floats, random: np.random.Generator) -> Floats:
    """Return when a process with alternating rates has done each amount of `work`: time for a unit rate, stretched."""
    stays = int(work[-1] / _STAY_REQUESTS * 4) + 16
    lengths = random.exponential(1.0, (stays, 2)) * shares * _STAY_REQUESTS * 2
    ends = np.cumsum(lengths.ravel())
    done = np.cumsum((lengths * rates).ravel())
    while done[-1] < work[-1]:  # the last stays go on as long as needed
        ends, done = np.append(ends, ends[-1] + ends), np.append(done, done[-1] + done)
    return np.asarray(np.interp(work, np.concatenate(([0.0], done)), np.concatenate(([0.0], ends))))


def recorded(path: Path, count: int) -> Floats:
    """Return the moments in a file, one number of seconds per line, repeated until there are `count` of them."""
    times_s = np.loadtxt(path, ndmin=1)
    period_s = times_s[-1] - times_s[0] + (times_s[-1] - times_s[0]) / max(1, times_s.size - 1)
    rounds = -(-count // times_s.size)
    times = (np.arange(rounds)[:, None] * period_s + (times_s - times_s[0])[None, :]).ravel()
    return np.asarray(times[:count] * 1e9)
