"""A server's rollouts: what the ledger asks for becomes arms in the repository, and what these do is written down.

    readings -> blocks -> sightings -> director -> trial -> arms

Needs what the registry's extra brings, so it is loaded when aliases are followed.
"""

import logging
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

from serving.aliased.blocks import Blocks
from serving.aliased.waiting import Waiting
from serving.clock import Clock
from serving.errors import ConfigError, PackageError, RegistryDamaged, RegistryError, printable
from serving.registry.cache import hold, pull_into, remove
from serving.registry.client import Registry
from serving.registry.follower import BUSY_TIMEOUT_S, AliasFollower
from serving.registry.names import Alias, Version
from serving.release.director import AWAY_S, Director, key_of
from serving.release.judge import Arm, Block
from serving.release.rollout import Rollout
from serving.release.sightings import Sighting
from serving.repository.manager import ModelRepository
from serving.repository.trials import Pinned, Reading, Trial

_log = logging.getLogger(__name__)

Readings = Mapping[str, Reading]
"""What the arms of each model have done so far."""


class FollowedAliases:
    """The aliases that a server follows, and the rollouts of those that may have some: our own registry's.

    `look` may take long; one thread at a time uses it. Meanwhile another one may have things go on without it.
    """

    def __init__(
        self, uri: str, aliases: Sequence[Alias], cache: Path, *,
        follower: AliasFollower, repository: ModelRepository, clock: Clock, waiting: Waiting,
    ) -> None:  # fmt: skip
        self._uri = uri
        self._follower = follower
        self._waiting = waiting
        server = uuid.uuid4().hex[:16]
        self._rollouts = [
            _FollowedRollout(alias, cache, repository, Director(alias, server, clock), follower.look, waiting)
            for alias in aliases
        ]

    def look(self, readings: Readings) -> None:
        """Follow the aliases, then their rollouts. What goes wrong is logged once, and what serves goes on serving."""
        with self._waiting.look():
            try:
                self._follower.look()
            except Exception:  # noqa: BLE001 - a mistake of ours must not leave a canary without a judge
                _log.exception("following aliases failed; trying again")
            self._look_at_rollouts(readings)

    def go_on(self) -> bool:
        """See to it that a look that waits for the registry for AWAY_S costs nothing; say whether it is so.

        What served last serves where nothing does, and canaries, which nobody judges, get no requests until it is over.
        """
        if self._waiting.seconds < AWAY_S:
            return False
        for each in self._rollouts:
            each.go_on()
        self._follower.go_on()
        return True

    def _look_at_rollouts(self, readings: Readings) -> None:
        for each in self._rollouts:
            each.see(readings.get(each.alias.model))
        if not self._rollouts:
            return
        try:
            registry = Registry.open(self._uri, busy_timeout_s=BUSY_TIMEOUT_S)
        except (ConfigError, RegistryError, OSError) as error:
            for each in self._rollouts:
                each.without_registry(str(error))
            return
        with registry:
            for each in self._rollouts:
                each.look(registry)

    def close(self) -> None:
        """Leave judging to other servers."""
        for each in self._rollouts:
            each.close()


class _FollowedRollout:
    """The rollouts of one alias, one after the other."""

    def __init__(
        self, alias: Alias, cache: Path, repository: ModelRepository, director: Director,
        follow: Callable[[], None], waiting: Waiting,
    ) -> None:  # fmt: skip
        self.alias = alias
        self._follow = follow
        self._waiting = waiting
        self.director = director
        self._serving = cache / str(alias)
        self._folder = cache / f"{alias}.rollout"
        self._repository = repository
        self._blocks: Blocks | None = None
        self._key = ""
        self._told = ""
        self._pulled: tuple[Pinned, Pinned] | None = None
        self._held: IO[bytes] | None = None  # of the folder, which other servers may use as well
        self._was_withdrawn = False

    def close(self) -> None:
        """Leave judging and the packages to other servers."""
        self.director.close()
        self._let_go()

    def go_on(self) -> None:
        """Send all requests to production while a look does not come back, which has the step run again. Any thread."""
        rollout = self.director.watched
        if rollout is None:
            return
        if not self._was_withdrawn:
            _log.warning("%s: the registry has us wait for %.0f s by now; until it answers %s gets no requests",
                         self.alias, self._waiting.seconds, rollout.candidate)  # fmt: skip
        self._was_withdrawn = True
        self._repository.follow_trial(self.alias.model, None)

    def see(self, reading: Reading | None) -> None:
        """Cut what the arms have done into blocks, and hand these to the director."""
        if reading is None or reading.key != self._key or self._was_withdrawn:
            self._blocks, self._was_withdrawn = None, False  # arms that come back count from nothing
            return
        rollout = self.director.watched
        if self._blocks is not None:
            self.director.see(reading.key, self._blocks.add(reading))
        elif rollout is not None:
            self._blocks = Blocks(rollout.config, reading)

    def look(self, registry: Registry) -> None:
        """Look at the ledger, and run the step that it asks for."""
        try:
            rollout = self.director.look(registry)
            damage = self._pull(registry, rollout) if rollout is not None and key_of(rollout) != self._key else ""
        except (ConfigError, RegistryError, PackageError, OSError) as error:
            self.without_registry(str(error))
            return
        except Exception as error:  # noqa: BLE001 - as above
            _log.exception("%s: its rollout cannot be looked at; trying again", self.alias)
            self.without_registry(f"{type(error).__name__}; see above")  # or else nobody would judge it for ever
            return
        self._told = ""
        if rollout is None and self._key:
            self._follow()  # a package that was promoted serves before its arm goes
        self._run(rollout, damage)
        if rollout is None:
            self._let_go()
            remove(self._folder)

    def without_registry(self, trouble: str) -> None:
        """Go on with the step at hand for a while."""
        if self.director.watched is not None and trouble != self._told:
            _log.warning("%s: its rollout goes on without the registry: %s", self.alias, trouble)
            self._told = trouble
        rollout = self.director.without_registry(trouble)
        if rollout is None or key_of(rollout) == self._key:
            self._run(rollout)

    def _run(self, rollout: Rollout | None, damage: str = "") -> None:
        """Have the repository run a step, or none; say once why it cannot, such as damage to the package."""
        key = key_of(rollout) if rollout is not None else ""
        is_new, self._key = key != self._key, key
        if is_new:
            self._blocks = None
        trial = self._trial(rollout, *self._pulled) if rollout is not None and self._pulled is not None else None
        with self._waiting.work():
            trouble = self._repository.follow_trial(self.alias.model, trial) or damage
        if trouble and is_new and rollout is not None:
            _log.error("%s: %s cannot be tried: %s", self.alias, rollout.candidate, trouble)
            nothing = Arm(0, 0, {})
            self.director.see(key, [Sighting(Block(nothing, nothing), trouble=printable(trouble)[:500])])

    def _trial(self, rollout: Rollout, candidate: Pinned, control: Pinned) -> Trial:
        config = rollout.config
        return Trial(
            key=key_of(rollout),
            salt=rollout.salt,
            share=rollout.now.share,
            candidate=candidate,
            control=control,
            requests_per_s=config.shadow_requests_per_s,
            tolerance=config.shadow_tolerance,
        )

    def _pull(self, registry: Registry, rollout: Rollout) -> str:
        """Place both packages of a step; return what is wrong with the candidate when the registry has it damaged."""
        self._pulled = None
        self._held = self._held or hold(self._folder)
        control = self._place(registry, rollout.control)
        try:
            try:
                candidate = self._place(registry, rollout.candidate)
            except RegistryDamaged:  # the copy in the cache, perhaps, which is gone now
                candidate = self._place(registry, rollout.candidate)
        except (RegistryDamaged, PackageError) as error:
            return str(error)
        self._pulled = (candidate, control)
        return ""

    def _place(self, registry: Registry, version: Version) -> Pinned:
        """Return a package in the cache; the one that serves lies there already."""
        pushed = registry.resolve(version)
        is_there = any(self._serving.glob(f"{pushed.sequence}-*"))
        pulled = pull_into(self._serving if is_there else self._folder, registry, pushed)
        return Pinned(pulled.sequence, pulled.digest, pulled.path)

    def _let_go(self) -> None:
        if self._held is not None:
            self._held.close()
            self._held = None
