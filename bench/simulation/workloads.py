"""The workloads that policies are judged on: a service curve, a load, a pattern of arrivals, an objective.

They are drawn once, by a seed, from all combinations: every curve, load, pattern and objective has its turn. Ten are
kept aside: nobody looks at them while a policy changes.
"""

import json
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bench.simulation.arrivals import PATTERNS, arrivals, recorded
from bench.simulation.measure import CURVES
from bench.simulation.world import Floats, World

ROWS_MAX = 256
LOADS = (0.1, 0.3, 0.5, 0.7, 0.9, 1.0, 1.2, 1.5)
SLO_MULTIPLES = (2.0, 5.0, 20.0)
INSTANCES = (1, 1, 2)
JUDGED, ASIDE = 32, 10
OVERHEAD_NS = 20e3
NOISE = 0.08
"""Standard deviation of the logarithm of service times around their curve."""
_NOISE_COUNT = 4096


@dataclass(frozen=True, slots=True)
class Workload:
    """`load` is a multiple of the best throughput of all instances; the objective is `slo` times a lone request."""

    curve: str
    load: float
    pattern: str
    slo: float
    instances: int
    trace: Path | None = None

    @property
    def name(self) -> str:
        """How tables call it."""
        pattern = self.trace.name if self.trace else self.pattern
        return f"{self.curve} {self.load:g} {pattern} {self.slo:g}x {self.instances}i"

    def world(self, *, seed: int, requests: int, hard: bool) -> World:
        """Return what all policies see alike under one seed."""
        service_ns = service_curve(self.curve)
        capacity = float((np.arange(1, ROWS_MAX + 1) / service_ns[1:]).max()) * self.instances
        key = zlib.crc32(self.name.encode()) + seed
        if self.trace is None:
            times_ns = arrivals(self.pattern, rate_per_ns=self.load * capacity, count=requests, seed=key)
        else:
            times_ns = recorded(self.trace, requests)
            times_ns *= requests / (self.load * capacity) / max(times_ns[-1], 1.0)
        noise = np.exp(np.random.default_rng(key + 1).normal(-(NOISE**2) / 2, NOISE, _NOISE_COUNT))
        slack_ns = self.slo * (float(service_ns[1]) + OVERHEAD_NS)
        return World(times_ns, slack_ns, service_ns, noise, self.instances, OVERHEAD_NS, hard)


def service_curve(name: str) -> Floats:
    """Return the ns that 0, 1, 2 ... 256 rows take."""
    rows = np.arange(ROWS_MAX + 1, dtype=np.float64)
    if name in SYNTHETIC:
        service_ns = SYNTHETIC[name](rows)
    else:
        known = json.loads(CURVES.read_text())["curves"][name]
        sizes, times_ns = np.array(known["rows"], np.float64), np.array(known["ns"], np.float64)
        service_ns = np.interp(rows, sizes, times_ns)
        beyond = rows > sizes[-1]
        service_ns[beyond] = times_ns[-1] * rows[beyond] / sizes[-1]
    service_ns[0] = 0.0
    return np.asarray(service_ns)


SYNTHETIC = {
    "fixed": lambda rows: 2e6 * (0.95 + 0.05 * rows),
    "half": lambda rows: 1e6 * (0.5 + 0.5 * rows),
    "linear-cost": lambda rows: 4e6 * (0.05 + 0.95 * rows),
    "flat": lambda rows: 5e6 * (1.0 + rows / 512),
    "waves": lambda rows: 3e6 * (0.4 + 0.6 * np.ceil(rows / 32)),
    "cliff": lambda rows: 1e6 * (0.8 + 0.2 * rows + 0.6 * np.maximum(rows - 16, 0)),
}


def drawn() -> tuple[list[Workload], list[Workload]]:
    """Return the workloads that are judged and those kept aside."""
    curves = (*SYNTHETIC, *json.loads(CURVES.read_text())["curves"])
    random = np.random.default_rng(20)

    def column(values: tuple[object, ...]) -> list[object]:
        repeated = [values[index % len(values)] for index in range(JUDGED + ASIDE)]
        return [repeated[index] for index in random.permutation(JUDGED + ASIDE)]

    columns = zip(*(column(values) for values in (curves, LOADS, PATTERNS, SLO_MULTIPLES, INSTANCES)), strict=True)
    found = [Workload(*values) for values in columns]
    return found[:JUDGED], found[JUDGED:]


def replayed(workload: Workload, trace: Path) -> Workload:
    """Return a workload whose requests come as recorded, at its load."""
    return replace(workload, trace=trace)
