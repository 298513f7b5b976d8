"""What there is to show: the result of each command, as reports need it. Data only; the commands fill it.

A result holds `runs`: what was measured on the way, each with a label. Latencies are us, objectives ms, rates requests
per second. Figures that nobody knows are None or NaN.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar, Literal

from bench.outcome import Outcome
from bench.report.machine import Machine

Verdict = Literal["passed", "failed", "undecided", "late"]
"""What a probe has shown; late: the generator was, so it has shown nothing."""


@dataclass(frozen=True, slots=True)
class Run:
    """One measured load on one server; `label` tells it from the others: `1,000/s`, `MLServer`, `A`."""

    label: str
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class RunView:
    """One run."""

    kind: ClassVar[str] = "run"
    run: Run

    @property
    def runs(self) -> tuple[Run, ...]:
        """The run alone."""
        return (self.run,)

    @property
    def failure(self) -> str | None:
        """None: the run itself tells of its failure."""
        return None


@dataclass(frozen=True, slots=True)
class SweepView:
    """One run per load, in the order of the loads. `failure` says why loads are missing, if any are."""

    kind: ClassVar[str] = "sweep"
    runs: tuple[Run, ...]
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class Probe:
    """One rate that was tried, its p99, and whether that met the objective."""

    rate_rps: float
    p99_us: float
    verdict: Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class KneeView:
    """The largest rate with `p99 <= objective_ms`: most likely `rate_rps`, surely from `low_rps` to `high_rps`.

    Surely means with the view's confidence. The three are None where there is no such answer. `ended` says why the
    search ended, and what is known instead.
    `probes` are in the order in which they were made.
    """

    kind: ClassVar[str] = "knee"
    objective_ms: float
    rate_rps: float | None
    low_rps: float | None
    high_rps: float | None
    probes: tuple[Probe, ...]
    ended: str
    confidence: float = 0.95
    runs: tuple[Run, ...] = ()
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class Ratio:
    """A figure of B divided by that of A, and the interval that the true ratio lies in with the view's confidence."""

    ratio: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonView:
    """B against A. `metrics` and `pairs` have the same names, those of `findings.METRICS` or others.

    `failure` says why it ended before its time; the pairs before are in the figures.
    """

    kind: ClassVar[str] = "compare"
    name_a: str
    name_b: str
    metrics: Mapping[str, Ratio]
    pairs: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    confidence: float = 0.95
    runs: tuple[Run, ...] = ()
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting that was tried in tuning. On the frontier no other setting has more throughput and less p99."""

    label: str
    throughput_rps: float
    p99_us: float
    on_frontier: bool = False
    recommended: bool = False


@dataclass(frozen=True, slots=True)
class FrontierView:
    """The settings that tuning tried; `model_toml` is the text that it recommends. `failure` as for a sweep."""

    kind: ClassVar[str] = "tune"
    settings: tuple[Setting, ...]
    model_toml: str | None = None
    runs: tuple[Run, ...] = ()
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class PeersView:
    """One run per server on the same model, ours first; `absent` are servers that were skipped, and why.

    `settings` says of each server, by the label of its run, in what it differs from how its vendor ships it.
    """

    kind: ClassVar[str] = "peers"
    runs: tuple[Run, ...]
    absent: Mapping[str, str] = field(default_factory=dict)
    failure: str | None = None
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedWorkload:
    """One workload in virtual time: the part of requests that each policy answered within the objective.

    `window` tells which fixed window was the best one in hindsight; `is_aside` that nobody looks at this workload
    while a policy changes.
    """

    name: str
    goodput: Mapping[str, float]
    window: str
    is_aside: bool


@dataclass(frozen=True, slots=True)
class Rule:
    """What was asked of a group of workloads: our goodput over another policy's, and the least that it may be."""

    group: str
    name: str
    ratio: float
    ratio_min: float

    @property
    def is_kept(self) -> bool:
        """Whether it holds."""
        return self.ratio >= self.ratio_min


@dataclass(frozen=True, slots=True)
class SimulationView:
    """Batching policies on the same arrivals, and whether ours keeps the rules of comparison."""

    kind: ClassVar[str] = "simulate"
    workloads: tuple[SimulatedWorkload, ...]
    rules: tuple[Rule, ...]
    runs: tuple[Run, ...] = ()
    failure: str | None = None


View = SimulationView | RunView | SweepView | KneeView | ComparisonView | FrontierView | PeersView


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """How a result came about. `command` is the line that was typed, `at` a moment with its time zone.

    `subject` says what was measured: `model iris on 127.0.0.1:8001`. `commit` is None outside a checkout.
    """

    command: str
    subject: str
    scenario: Mapping[str, Any]
    seed: int
    machine: Machine
    commit: str | None
    at: datetime
