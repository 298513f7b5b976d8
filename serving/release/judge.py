"""Judges a canary against a control of equal weight, block by block of time, by tests valid at every look. Pure.

Each test is an e-process: under its null hypothesis its expectation never exceeds 1, so it ever exceeds 1 / alpha with
probability at most alpha (Ville's inequality), however often one looks and whenever one stops.

*Errors.* Given how many requests each arm had in a block and how many errors both had together, the canary's errors are
hypergeometric when the versions are the same. The likelihood ratio of Fisher's noncentral hypergeometric distribution
with odds ratio theta > 1 is an e-value for that, and for every odds ratio below 1, since the family has a monotone
likelihood ratio. A mixture over theta needs no guess.

*Latency.* In a block both arms see the same machine, so d = log(canary / control) of a statistic of the block is
symmetric around 0 when the versions are the same, whatever the noise. For d symmetric around a centre at or below c and
lambda >= 0, the expectation of exp(lambda (d - c) - lambda^2 (d - c)^2 / 2) is at most 1 (de la Pena, Annals of
Probability 27, 1999, lemma 6.1). A mixture over lambda needs no guess of the noise. Single requests are never compared.

Sources for the rest: Ramdas, Grunwald, Vovk, Shafer, Statistical Science 38, 2023; Robbins, Annals of Mathematical
Statistics 41, 1970 (the mixture for one proportion).
"""

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import optimize, special

ODDS = (1.25, 1.5, 2.0, 3.0, 5.0, 10.0)
RATES = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
"""What the mixtures go over: odds ratios of errors, and lambdas of latency."""

REACH = 0.5
"""A difference of log latency counts as at most this."""

ERRORS = "errors"


class Action(enum.StrEnum):
    """What to do after a look."""

    HOLD = "hold"
    ADVANCE = "advance"
    ROLL_BACK = "roll back"


@dataclass(frozen=True, slots=True)
class Arm:
    """What one arm did in one block: requests answered, errors among them, and statistics of latency by name.

    A statistic that nobody has measured is absent.
    """

    requests: int
    errors: int
    latency_us: dict[str, float]


@dataclass(frozen=True, slots=True)
class Block:
    """The same stretch of time in both arms."""

    canary: Arm
    control: Arm


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How a step is judged.

    `alpha` is the chance of a wrong rollback, over all `steps` and metrics together. Latency may rise by
    `latency_tolerance` before it counts as worse, and a step is passed when it is shown to have risen by less than
    `latency_margin`, and the error rate by less than `errors_margin`. `latencies` names the statistics that are judged.
    Metrics that are missing in `missing_blocks_max` blocks one after the other are a failure, and so is a step that is
    neither passed nor failed in `blocks_max` blocks.
    """

    steps: int = 3
    alpha: float = 0.05
    latency_tolerance: float = 0.05
    latency_margin: float = 0.2
    errors_margin: float = 0.01
    latencies: tuple[str, ...] = ("p50", "p90")
    missing_blocks_max: int = 3
    blocks_max: int = 360

    @property
    def alarm(self) -> float:
        """The e-value at which one metric of one step rolls back."""
        return self.steps * (1 + len(self.latencies)) / self.alpha

    @property
    def proof(self) -> float:
        """The e-value at which one metric counts as good enough; all must, so their chances of error do not add up."""
        return 1 / self.alpha


@dataclass(frozen=True, slots=True)
class Judgement:
    """What to do, why, and the evidence by metric: e-values against the canary, and whether it is good enough."""

    action: Action
    why: str
    against: dict[str, float]
    good_enough: dict[str, bool]


@dataclass(slots=True)
class _Latency:
    """The log e-values of one statistic: that it is worse than tolerated, and that it is within the margin."""

    tolerated: float
    margin: float
    blocks: int = 0
    worse: np.ndarray = field(default_factory=lambda: np.zeros(len(RATES)))
    within: np.ndarray = field(default_factory=lambda: np.zeros(len(RATES)))

    def add(self, ratio: float) -> None:
        difference = math.log(ratio)
        self.blocks += 1
        self.worse += _symmetric(difference - self.tolerated)
        self.within += _symmetric(self.margin - difference)


class Judge:
    """Judges one step. Give it each block once, in order; it keeps sums only."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._blocks = 0
        self._missing = 0
        self._errors = np.zeros(len(ODDS))
        self._totals = np.zeros(4, np.int64)  # requests and errors of the canary, then of the control
        self._latency = {name: _Latency(math.log1p(rules.latency_tolerance), math.log1p(rules.latency_margin))
                         for name in rules.latencies}  # fmt: skip

    def look(self, block: Block) -> Judgement:
        """Take a block into account, and say what to do."""
        self._blocks += 1
        canary, control = block.canary, block.control
        self._totals += (canary.requests, canary.errors, control.requests, control.errors)
        self._errors += _hypergeometric(canary, control)
        missing = self._add_latency(canary, control)
        self._missing = self._missing + 1 if missing else 0
        return self._decide(missing)

    def _add_latency(self, canary: Arm, control: Arm) -> list[str]:
        """Add what both arms have; return what the canary lacks although the control has it."""
        missing = [] if canary.requests or not control.requests else ["requests"]
        for name, evidence in self._latency.items():
            ours, theirs = canary.latency_us.get(name), control.latency_us.get(name)
            if ours is not None and theirs is not None:
                evidence.add(ours / theirs)
            elif theirs is not None:
                missing.append(name)
        return missing

    def _decide(self, missing: list[str]) -> Judgement:
        rules = self._rules
        against = {
            ERRORS: _mixture(self._errors),
            **{name: _mixture(each.worse) for name, each in self._latency.items()},
        }
        good = {name: _mixture(each.within) >= rules.proof for name, each in self._latency.items()}
        good[ERRORS] = all(good.values()) and self._error_excess() <= rules.errors_margin  # costly, so it comes last
        worst = max(against, key=lambda name: against[name])
        if against[worst] >= rules.alarm:
            return Judgement(Action.ROLL_BACK, f"{worst} got worse", against, good)
        if self._missing >= rules.missing_blocks_max:
            return Judgement(Action.ROLL_BACK, f"the canary lacks {', '.join(missing)}", against, good)
        if all(good.values()):
            return Judgement(Action.ADVANCE, f"good enough after {self._blocks} blocks", against, good)
        if self._blocks >= rules.blocks_max:
            return Judgement(Action.ROLL_BACK, "too little traffic to tell", against, good)
        return Judgement(Action.HOLD, "not enough is known yet", against, good)

    def _error_excess(self) -> float:
        """Return by how much, at most, the canary's error rate is above the control's."""
        ours, our_errors, theirs, their_errors = (int(number) for number in self._totals)
        alpha = self._rules.alpha / 2
        return proportion_bounds(our_errors, ours, alpha)[1] - proportion_bounds(their_errors, theirs, alpha)[0]


def proportion_bounds(successes: int, trials: int, alpha: float) -> tuple[float, float]:
    """Return bounds of a proportion that each hold at all times with probability 1 - alpha.

    Those p for which Robbins' mixture of likelihood ratios, with the weight Beta(1/2, 1/2), stays below 1 / alpha.
    """
    failures = trials - successes
    if not trials:
        return 0.0, 1.0
    weight = float(special.betaln(successes + 0.5, failures + 0.5) - special.betaln(0.5, 0.5)) + math.log(alpha)

    def excess(p: float) -> float:
        likelihood = successes * math.log(p) if successes else 0.0
        return weight - likelihood - (failures * math.log1p(-p) if failures else 0.0)

    best = successes / trials
    low = 0.0 if successes == 0 else float(optimize.brentq(excess, 1e-300, best))
    high = 1.0 if failures == 0 else float(optimize.brentq(excess, best, 1 - 1e-15))
    return low, high


def _hypergeometric(canary: Arm, control: Arm) -> np.ndarray:
    """Return the log e-values of one block's errors, one per odds ratio: log(theta^x / E[theta^X])."""
    errors, requests = canary.errors + control.errors, canary.requests + control.requests
    if not errors or not canary.requests or not control.requests:
        return np.zeros(len(ODDS))
    odds = np.log(ODDS)
    counts = np.arange(max(0, errors - control.requests), min(errors, canary.requests) + 1)
    chances = _log_choose(canary.requests, counts) + _log_choose(control.requests, errors - counts)
    chances -= _log_choose(requests, np.array([errors]))
    return np.asarray(odds * canary.errors - np.logaddexp.reduce(chances[:, None] + counts[:, None] * odds, axis=0))


def _log_choose(total: int, chosen: np.ndarray) -> np.ndarray:
    return np.asarray(special.gammaln(total + 1) - special.gammaln(chosen + 1) - special.gammaln(total - chosen + 1))


def _symmetric(difference: float) -> np.ndarray:
    """Return the log e-values of one difference, one per lambda.

    Held within `REACH`, so that a block in which one arm stumbled does not outweigh all others; an odd function that
    never falls leaves the expectation at most 1.
    """
    scaled = max(-REACH, min(REACH, difference)) * np.array(RATES)
    return scaled - scaled * scaled / 2


def _mixture(logs: np.ndarray | Sequence[float]) -> float:
    """Return the mean of e-values that are given by their logarithms, at most 1e300."""
    return float(math.exp(min(690.0, float(np.logaddexp.reduce(logs)) - math.log(len(logs)))))
