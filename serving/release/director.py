"""One server's part in a rollout: says what it saw, and, when it is the judge, decides and records it.

Of the servers that follow an alias, the one that holds a lock beside the ledger is the judge; the operating system
takes the lock from a process that dies, and the next one that looks takes over, from what all have written down. While
the registry is away nobody can judge, so after AWAY_S the canary gets no more requests until it is back.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import IO

from serving.clock import Clock
from serving.errors import RegistryAway, RegistryError, printable
from serving.registry.client import Registry
from serving.registry.names import Alias
from serving.release.judge import Action
from serving.release.rollout import Rollout, State
from serving.release.rollouts import Rollouts
from serving.release.sightings import Sighting, Sightings
from serving.release.verdict import StepVerdict, blocks_max

AWAY_S = 30.0

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Watched:
    """The step that is watched: what this server has seen and not written down yet, and its judge, if it is that."""

    rollout: Rollout
    sightings: Sightings
    unwritten: list[Sighting] = field(default_factory=list)
    read_bytes: dict[str, int] = field(default_factory=dict)
    verdict: StepVerdict | None = None
    lock: IO[bytes] | None = None

    def close(self) -> None:
        if self.lock is not None:
            self.lock.close()
            self.lock = None


class Director:
    """Directs the rollouts of one alias in one server, whose name is `server`. One thread at a time uses it."""

    def __init__(self, alias: Alias, server: str, clock: Clock) -> None:
        self._alias = alias
        self._server = server
        self._clock = clock
        self._watched: _Watched | None = None
        self._condemned = ""  # the step that this judge has ended, whether or not the ledger has it
        self._away_since_ns: int | None = None
        self._trouble = ""

    @property
    def watched(self) -> Rollout | None:
        """The rollout that is watched, as it was when last looked at."""
        return self._watched.rollout if self._watched is not None else None

    def see(self, key: str, sightings: Sequence[Sighting]) -> None:
        """Note what this server saw of the step of that key; beyond what a step may last, only the first count."""
        watched = self._watched
        if watched is not None and key_of(watched.rollout) == key:
            room = blocks_max(watched.rollout.config) - len(watched.unwritten)
            watched.unwritten += sightings[: max(0, room)]

    def look(self, registry: Registry) -> Rollout | None:
        """Look at the ledger, write down what was seen, judge. Returns the rollout whose step this server shall run.

        Raises RegistryError when the registry cannot be used; `without_registry` is for then.
        """
        rollouts = Rollouts(registry)
        rollout = rollouts.current(self._alias)
        if rollout is None or rollout.state is not State.RUNNING:
            self._away_since_ns, self._trouble = None, ""
            self.close()
            return None
        self._watch(registry, rollout)
        assert self._watched is not None, "bug: a rollout that runs is not watched"
        moved = self._judge(self._watched, rollouts)
        self._away_since_ns, self._trouble = None, ""
        if moved != rollout:
            return self.look(registry)
        return rollout if key_of(rollout) != self._condemned else None

    def without_registry(self, trouble: str) -> Rollout | None:
        """Say what to run while the registry is away: the step at hand, but not for long without a judge."""
        now_ns = self._clock.now_ns()
        if self._away_since_ns is None:
            self._away_since_ns = now_ns
        watched = self._watched
        if watched is None or key_of(watched.rollout) == self._condemned:
            return None
        if now_ns - self._away_since_ns > AWAY_S * 1e9:
            if trouble != self._trouble:
                _log.warning("%s: nobody judges %s while the registry is away; it gets no requests until it is back",
                             self._alias, watched.rollout.candidate)  # fmt: skip
            self._trouble = trouble
            return None
        return watched.rollout

    def close(self) -> None:
        """Let another server judge."""
        if self._watched is not None:
            self._watched.close()
        self._watched = None

    def _watch(self, registry: Registry, rollout: Rollout) -> None:
        """Begin to watch a step, unless it is watched already."""
        if self._watched is not None and key_of(self._watched.rollout) == key_of(rollout):
            return
        self.close()
        self._watched = _Watched(rollout, Sightings(registry.folder, rollout))
        _log.info("%s: rolling out package %d, step %d of %d: %s", self._alias, rollout.candidate.sequence,
                  rollout.step + 1, len(rollout.steps), rollout.now)  # fmt: skip

    def _judge(self, watched: _Watched, rollouts: Rollouts) -> Rollout:
        """Write down what was seen; as the judge, decide. Returns the rollout as it is then."""
        if watched.unwritten:
            watched.sightings.add(self._server, watched.unwritten)
            watched.unwritten.clear()
        if watched.lock is None:
            watched.lock = watched.sightings.claim()
            if watched.lock is None:
                return watched.rollout
            watched.verdict, watched.read_bytes = StepVerdict(watched.rollout), {}
        assert watched.verdict is not None, "bug: a judge without a verdict"
        held_s = watched.rollout.held_s(self._clock.wall_ns())
        found = watched.verdict.look(watched.sightings.new(watched.read_bytes), held_s)
        if found.action is Action.HOLD:
            return watched.rollout
        evidence, act = watched.verdict.evidence, rollouts.advance
        if found.action is Action.ROLL_BACK:
            self._condemned, act = key_of(watched.rollout), rollouts.roll_back
        return self._act(watched.rollout, rollouts, lambda: act(watched.rollout, found.why, evidence))

    def _act(self, rollout: Rollout, rollouts: Rollouts, act: Callable[[], Rollout]) -> Rollout:
        """Record a decision. A promotion that is refused ends the rollout."""
        try:
            moved = act()
        except RegistryAway:
            raise
        except RegistryError as error:
            now = rollouts.current(self._alias)
            if now is None or key_of(now) != key_of(rollout) or now.state is not State.RUNNING:
                return now or rollout  # somebody else was faster
            moved = rollouts.roll_back(rollout, printable(f"it may not go on: {error}")[:1000], {})
        _log.info("%s: package %d: %s", self._alias, rollout.candidate.sequence, describe(moved))
        return moved


def key_of(rollout: Rollout) -> str:
    """Return what tells a step from every other one, and from itself before a pause."""
    return f"{rollout.position}.{rollout.step}.{rollout.since}"


def describe(rollout: Rollout) -> str:
    """Return one line about what has become of a rollout."""
    where = f"step {rollout.step + 1} of {len(rollout.steps)}, {rollout.now}" if not rollout.state.is_over else ""
    return ", ".join(part for part in (rollout.state.value, where, rollout.why) if part)
