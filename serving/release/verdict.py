"""From what servers saw of a step to what is done about it: the judge's rules, and those that need no statistics. Pure.

Everything follows from the sightings in the order in which they were read, so whoever reads them all again comes to the
same verdict.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from serving.errors import printable
from serving.release.judge import Action, Judge, Judgement, Rules, proportion_bounds
from serving.release.policy import RolloutConfig
from serving.release.rollout import Rollout
from serving.release.sightings import SERVERS_MAX, Sighting, totals

LATENCIES = ("p50", "p90")
"""The statistics of latency that canary and control are compared by."""

_TROUBLE_CHARACTERS_MAX = 500  # of what a server says, which may hold a graph's names: a reason is one line


def rules_of(rollout: Rollout) -> Rules:
    """Return how the step at hand is judged: a shadow by its errors alone, for nobody waits for it."""
    config = rollout.config
    return Rules(
        steps=len(rollout.steps),
        alpha=config.alpha,
        latency_tolerance=config.latency_tolerance,
        latency_margin=config.latency_margin,
        errors_margin=config.errors_margin,
        latencies=() if rollout.now.is_shadow else LATENCIES,
        blocks_max=blocks_max(config) * SERVERS_MAX,  # of all servers; how long a step may last, the clock says below
    )


def blocks_max(config: RolloutConfig) -> int:
    """Return how many blocks one server sees of a step at most."""
    return max(1, math.ceil(config.hold_s_max / config.block_s))


class StepVerdict:
    """The verdict on one step. Give it each sighting once; once it is not to hold, it stays as it is."""

    def __init__(self, rollout: Rollout) -> None:
        self._rollout = rollout
        self._judge = Judge(rules_of(rollout))
        self._seen: list[Sighting] = []
        self._answers = self._differing = 0
        self._last = Judgement(Action.HOLD, "nothing was seen yet", {}, {})

    def look(self, sightings: Iterable[Sighting], held_s: float) -> Judgement:
        """Take sightings into account, and say what to do when the step has lasted for so long."""
        for sighting in sightings:
            if self._last.action is Action.HOLD:
                self._last = self._after(sighting)
        hold_s_max = self._rollout.config.hold_s_max
        if self._last.action is Action.HOLD and held_s > hold_s_max:
            why = f"too little traffic to tell in hold_s_max = {hold_s_max:g} s; {self._last.why}"
            self._last = Judgement(Action.ROLL_BACK, why, self._last.against, self._last.good_enough)
        return self._last

    @property
    def evidence(self) -> Mapping[str, Any]:
        """What the record of the decision holds: what was seen, the e-values, and which metrics are good enough."""
        last = self._last
        against = {name: float(f"{value:.6g}") for name, value in last.against.items()}
        return {**totals(self._seen), "against": against, "good_enough": dict(last.good_enough)}

    def _after(self, sighting: Sighting) -> Judgement:
        self._seen.append(sighting)
        self._answers += sighting.block.canary.requests - sighting.block.canary.errors
        self._differing += sighting.differing
        if sighting.trouble:
            why = f"a server cannot serve it: {printable(sighting.trouble)[:_TROUBLE_CHARACTERS_MAX]}"
            return Judgement(Action.ROLL_BACK, why, self._last.against, self._last.good_enough)
        found = self._judge.look(sighting.block)
        return self._compared(found) if self._rollout.now.is_shadow else found

    def _compared(self, found: Judgement) -> Judgement:
        """Judge a shadow by its answers, too, where the owner sets how many may differ from production's."""
        most = self._rollout.config.shadow_differences_max
        if most < 0 or found.action is Action.ROLL_BACK:
            return found
        answers, differing = self._answers, self._differing
        low, high = proportion_bounds(min(differing, answers), answers, self._rollout.config.alpha / 2)
        if low > most:
            why = f"{differing} of {answers} answers differ from production's, more than {most:g}"
            return Judgement(Action.ROLL_BACK, why, found.against, found.good_enough)
        if high > most and found.action is Action.ADVANCE:
            return Judgement(Action.HOLD, "too few answers were compared yet", found.against, found.good_enough)
        return found
