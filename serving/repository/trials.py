"""What a rollout needs of the model repository: its arms, loaded beside what serves, and who gets which request.

A trial says what a model's requests are to be spread over. The canary and the control are servables of their own, each
with its own queue, so that they can be compared; the control is one more copy of the package that serves. A shadow is
computed on threads of its own, so that its batches never hold up the I/O thread.
"""

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from serving.clock import Clock
from serving.config import load_model_config
from serving.errors import ConfigError, LoadError
from serving.model import Post, Servable
from serving.repository.entry import Changed, Load
from serving.repository.handle import Handle, close_when_idle
from serving.repository.mirror import Aside, Mirror
from serving.repository.routing import POINTS, Routing
from serving.statistics.latency import Histogram

_log = logging.getLogger(__name__)


class Pinned(NamedTuple):
    """A package from elsewhere."""

    version: int
    digest: str
    path: Path


@dataclass(frozen=True, slots=True)
class Trial:
    """One step of a rollout: `share` of the requests for the candidate and as many for the control; 0 for a shadow.

    `key` tells it from every other one. A shadow gets `requests_per_s` copies at most; answers differ beyond
    `tolerance`.
    """

    key: str
    salt: int
    share: float
    candidate: Pinned
    control: Pinned
    requests_per_s: float = 0.0
    tolerance: float = 0.0


@dataclass(frozen=True, slots=True)
class ArmReading:
    """What an arm has done since it began: requests answered, those of them that failed, and how long the others took.

    Nothing is timed of a shadow.
    """

    version: int
    requests: int
    errors: int
    latency: Histogram | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """Both arms of a trial at one moment, in monotonic ns. `dropped` counts what a shadow has left out, by why."""

    key: str
    at_ns: int
    share: float
    canary: ArmReading
    control: ArmReading
    differing: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ArmLoads:
    """How an arm is loaded: one that answers requests, and one that answers copies."""

    routed: Load
    shadow: Load


@dataclass(slots=True)
class _Arms:
    """A trial under way, or one whose packages do not serve, and why."""

    trial: Trial
    canary: Handle | None = None
    control: Handle | None = None
    mirror: Mirror | None = None
    trouble: str = ""

    def handles(self) -> list[Handle]:
        return [handle for handle in (self.canary, self.control) if handle is not None]


class Trials:
    """The trials of a repository, one per model. `follow` and `close` run on loader threads, the rest on the I/O one.

    `changed` is called whenever who gets which request has changed. `aside` is where a shadow's large answers are
    compared.
    """

    def __init__(self, loads: ArmLoads, clock: Clock, post: Post, changed: Changed, *, aside: Aside) -> None:
        self._loads = loads
        self._clock = clock
        self._post = post
        self._changed = changed
        self._aside = aside
        self._changing = threading.Lock()
        self._is_closed = False
        self._arms: Mapping[str, _Arms] = MappingProxyType({})
        self._mirrored: dict[str, Servable] = {}
        self.routings: Mapping[str, Routing] = MappingProxyType({})

    # ---- on the I/O thread -----------------------------------------------------------------------------------------

    def readings(self) -> dict[str, Reading]:
        """Return what the arms of each trial have done, by model."""
        now_ns = self._clock.now_ns()
        return {name: reading for name, arms in self._arms.items() if (reading := _read(arms, now_ns)) is not None}

    # ---- on loader threads -----------------------------------------------------------------------------------------

    def follow(self, serving: Servable | None, name: str, trial: Trial | None, config_path: Path) -> str:
        """Have a model's requests spread as a trial says, or, without one, all answered by what serves.

        `serving` is the servable of the model that is mirrored. Returns why the trial cannot be, if so. What fails is
        not tried again.
        """
        with self._changing:
            known = self._arms.get(name)
            if (known.trial.key if known is not None else "") != (trial.key if trial is not None else ""):
                self._replace(name, known, self._arms_for(name, known, trial, config_path))
            arms = self._arms.get(name)
            self._reflect(name, serving, arms.mirror if arms is not None else None)
            return arms.trouble if arms is not None else ""

    def close(self) -> None:
        """End all trials, for good."""
        with self._changing:
            self._is_closed = True
            for name, arms in list(self._arms.items()):
                self._replace(name, arms, None)

    def _reflect(self, name: str, serving: Servable | None, mirror: Mirror | None) -> None:
        """Have what serves mirrored; what served before, and may stay warm, is mirrored no more."""
        before = self._mirrored.pop(name, None)
        if before is not None and (before is not serving or mirror is None):
            before.mirror = None
        if serving is not None and mirror is not None:
            serving.mirror = mirror
            self._mirrored[name] = serving

    def _replace(self, name: str, before: _Arms | None, after: _Arms | None) -> None:
        """Publish new arms, then let the old ones go when their last request is answered."""
        others = {model: arms for model, arms in self._arms.items() if model != name}
        self._arms = MappingProxyType({**others, name: after} if after is not None else others)
        found = {model: routing for model, arms in self._arms.items() if (routing := _routing(model, arms)) is not None}
        if found or self.routings:
            self.routings = MappingProxyType(found)
            self._changed()
        kept = after.handles() if after is not None else []
        for handle in before.handles() if before is not None else ():
            if handle not in kept:
                close_when_idle(handle)

    def _arms_for(self, name: str, known: _Arms | None, trial: Trial | None, config_path: Path) -> _Arms | None:
        """Return the arms of a trial: those of the step before where only shares change, or new ones."""
        if trial is None or self._is_closed:
            return None
        if known is not None and known.control is not None and trial.share:
            before = known.trial
            if (before.candidate, before.control) == (trial.candidate, trial.control):
                return _Arms(trial, known.canary, known.control)
        return self._load(name, trial, config_path)

    def _load(self, name: str, trial: Trial, config_path: Path) -> _Arms:
        """Load the arms of a trial, beside those of the one before; all that it needs, or none."""
        arms = _Arms(trial)
        try:
            self._fill(arms, name, config_path)
        except (ConfigError, LoadError) as error:
            trouble = str(error)
        except Exception as error:  # noqa: BLE001 - logged, and told
            _log.exception("%s: a trial could not begin", name)
            trouble = f"{type(error).__name__} while loading; the server's log has the details"
        else:
            return arms
        for handle in arms.handles():
            close_when_idle(handle)
        return _Arms(trial, trouble=trouble)

    def _fill(self, arms: _Arms, name: str, config_path: Path) -> None:
        """Load what a trial needs. Raises ConfigError and LoadError; the arms then hold what was loaded before."""
        trial, config = arms.trial, load_model_config(config_path)
        load = self._loads.routed if trial.share else self._loads.shadow
        arms.canary = Handle(load(name, trial.candidate.version, trial.candidate.path, config))
        _check_digest(arms.canary.servable, trial.candidate.digest)
        if not trial.share:
            arms.mirror = Mirror(arms.canary, self._clock, self._post, self._aside,
                                 requests_per_s=trial.requests_per_s, tolerance=trial.tolerance)  # fmt: skip
            return
        arms.control = Handle(load(name, trial.control.version, trial.control.path, config))
        _check_digest(arms.control.servable, trial.control.digest)
        if arms.canary.servable.signature != arms.control.servable.signature:
            raise LoadError("its signature is not that of the package that it shall replace")


def _check_digest(servable: Servable, digest: str) -> None:
    if servable.package_digest != digest:
        raise LoadError(f"{servable.package_digest or 'no package'} lies where {digest} was expected")


def _routing(model: str, arms: _Arms) -> Routing | None:
    if arms.canary is None or arms.control is None:
        return None
    below = min(POINTS // 2, max(1, round(arms.trial.share * POINTS)))
    return Routing(model, arms.trial.salt, below, arms.canary, arms.control)


def _read(arms: _Arms, now_ns: int) -> Reading | None:
    trial, mirror = arms.trial, arms.mirror
    if mirror is not None:
        shadow = ArmReading(trial.candidate.version, mirror.requests, mirror.errors)
        mirrored = ArmReading(trial.control.version, mirror.requests, 0)  # only what production has answered is copied
        return Reading(trial.key, now_ns, 0.0, shadow, mirrored, mirror.differing, dict(mirror.dropped))
    if arms.canary is None or arms.control is None:
        return None
    return Reading(trial.key, now_ns, trial.share, _of(arms.canary.servable), _of(arms.control.servable))


def _of(servable: Servable) -> ArmReading:
    statistics = servable.statistics
    latency, errors = statistics.stages["request"], statistics.fail.count
    return ArmReading(servable.version, latency.count + errors, errors, latency.copy())
