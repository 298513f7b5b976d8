"""What the ledger says of rollouts: a package takes over an alias from another one, step by step. Pure.

A rollout is named by the position of the record that began it. Its records are of the kind `rollout`; the promotion
that ends a good one is an ordinary one whose record names the rollout. An alias that moves otherwise ends it too.

    start -> shadow -> 1 % -> 10 % -> 50 % -> promoted
      any of these steps -> rolled back | aborted | superseded; paused <-> running
"""

import dataclasses
import enum
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from serving.config import build
from serving.errors import ConfigError, RegistryDamaged
from serving.registry.aliases import MOVES
from serving.registry.names import Alias, Version
from serving.registry.record import Record
from serving.release.policy import RolloutConfig

ROLLOUT = "rollout"
"""The kind of its records."""


class Event(enum.StrEnum):
    """What a record of a rollout says."""

    START = "start"
    STEP = "step"
    PAUSE = "pause"
    RESUME = "resume"
    ABORT = "abort"
    ROLL_BACK = "roll back"


class State(enum.StrEnum):
    """Where a rollout is."""

    RUNNING = "running"
    PAUSED = "paused"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled back"
    ABORTED = "aborted"
    SUPERSEDED = "superseded"

    @property
    def is_over(self) -> bool:
        """Whether nothing comes after it."""
        return self not in {State.RUNNING, State.PAUSED}


_ENDS = {Event.ABORT: State.ABORTED, Event.ROLL_BACK: State.ROLLED_BACK, Event.PAUSE: State.PAUSED,
         Event.RESUME: State.RUNNING}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Step:
    """One step: `share` of the requests for the canary and as many for its control; 0 for a shadow."""

    share: float

    @property
    def is_shadow(self) -> bool:
        """Whether copies of requests are answered for nobody."""
        return self.share == 0.0

    def __str__(self) -> str:
        return "shadow" if self.is_shadow else f"canary {self.share:g}"


def steps_of(config: RolloutConfig) -> tuple[Step, ...]:
    """Return the steps that a policy asks for, the shadow first."""
    shadow = (Step(0.0),) if config.shadow_requests_per_s else ()
    return (*shadow, *map(Step, config.steps))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """A rollout as it is now. `candidate` shall take over `alias` from `control`, which it names.

    `package` and `control_package` are their digests. `salt` decides with a request's key which arm it belongs to.
    `since` is when this step, or what came after it, began. Its last record is at position `last` and says `why`.
    """

    position: int
    alias: Alias
    candidate: Version
    package: str
    control: Version
    control_package: str
    config: RolloutConfig
    salt: int
    who: str
    began: str
    last: int
    state: State = State.RUNNING
    step: int = 0
    since: str = ""
    why: str = ""

    @property
    def steps(self) -> tuple[Step, ...]:
        """All its steps."""
        return steps_of(self.config)

    @property
    def now(self) -> Step:
        """The step that it is at."""
        return self.steps[self.step]

    @property
    def is_last(self) -> bool:
        """Whether promotion comes after this step."""
        return self.step == len(self.steps) - 1

    def held_s(self, wall_ns: int) -> float:
        """Return for how long it has been in this step."""
        return wall_ns / 1e9 - datetime.fromisoformat(self.since).timestamp()

    def describe(self) -> dict[str, Any]:
        """Return the rollout for machines."""
        return {
            "rollout": self.position,
            "model": self.alias.model,
            "alias": self.alias.name,
            "sequence": self.candidate.sequence,
            "package": self.package,
            "control": {"sequence": self.control.sequence, "package": self.control_package},
            "state": self.state.value,
            "is_over": self.state.is_over,
            "step": self.step,
            "steps": [str(step) for step in self.steps],
            "share": self.now.share if self.state is State.RUNNING else 0.0,
            "began": self.began,
            "since": self.since,
            "who": self.who,
            "why": self.why,
            "policy": dataclasses.asdict(self.config),
        }


def rollouts_of(records: Iterable[Record]) -> list[Rollout]:
    """Return all rollouts that records of one model tell of, the first one first.

    Raises RegistryDamaged for a record that this version cannot read.
    """
    found: dict[int, Rollout] = {}
    for record in records:
        if record.kind == ROLLOUT or record.kind in MOVES:
            try:
                _take(record, found)
            except (KeyError, TypeError, ValueError, ConfigError) as error:
                raise RegistryDamaged(
                    f"record {record.position}, {record.kind}, cannot be read as one of a rollout: {error!r:.200}; "
                    "a newer Penstock wrote it, or see `verify`"
                ) from None
    return list(found.values())


def current(records: Iterable[Record], alias: Alias) -> Rollout | None:
    """Return the last rollout of an alias, over or not; None when there was none."""
    return next((each for each in reversed(rollouts_of(records)) if each.alias == alias), None)


def _take(record: Record, found: dict[int, Rollout]) -> None:
    """Take a record into account."""
    facts = record.facts
    if record.kind == ROLLOUT and facts["event"] == Event.START:
        found[record.position] = _begun(record)
    elif record.kind == ROLLOUT:
        found[facts["rollout"]] = _moved_on(found[facts["rollout"]], record)
    else:
        for position, rollout in found.items():
            if rollout.alias == Alias(record.model, facts["alias"]) and not rollout.state.is_over:
                found[position] = _ended_by_move(rollout, record)


def _begun(record: Record) -> Rollout:
    facts = record.facts
    return Rollout(
        position=record.position,
        alias=Alias(record.model, facts["alias"]),
        candidate=Version(record.model, facts["sequence"]),
        package=facts["package"],
        control=Version(record.model, facts["control"]["sequence"]),
        control_package=facts["control"]["package"],
        config=build(RolloutConfig, facts["policy"]),
        salt=int(record.digest.removeprefix("sha256:")[:15], 16),
        who=record.who,
        began=record.at,
        last=record.position,
        since=record.at,
        why=facts.get("reason", ""),
    )


def _moved_on(rollout: Rollout, record: Record) -> Rollout:
    """Return a rollout after one of its records; what is over stays as it is."""
    if rollout.state.is_over:
        return rollout
    event, why = Event(record.facts["event"]), record.facts.get("reason", "")
    if event is Event.STEP:
        return replace(rollout, step=record.facts["step"], since=record.at, why=why, last=record.position)
    return replace(rollout, state=_ENDS[event], since=record.at, why=why, last=record.position)


def _ended_by_move(rollout: Rollout, record: Record) -> Rollout:
    state, why = State.PROMOTED, record.facts.get("reason", "")
    if record.facts.get("rollout") != rollout.position:
        state = State.SUPERSEDED
        why = f"record {record.position}, {record.kind}, moved {rollout.alias} to {record.facts['sequence']}"
    return replace(rollout, state=state, since=record.at, why=why, last=record.position)
