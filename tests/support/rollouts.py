"""Rollouts of `affine` in real servers: a registry for them, and what tests ask and wait for."""

import dataclasses
import itertools
import threading
from pathlib import Path

from serving.registry.client import Registry
from serving.registry.names import Alias
from serving.release.policy import RolloutConfig
from serving.release.rollouts import Rollouts
from tests.support import graphs, registries
from tests.support.registries import OPEN, version, write_package

PRODUCTION = Alias("affine", "production")
QUICK = RolloutConfig(
    steps=(0.2, 0.5), shadow_requests_per_s=1000, block_s=0.02, block_requests_min=10, hold_s_max=1e4,
    latency_tolerance=9.0, latency_margin=20.0, errors_margin=0.2,
)  # fmt: skip
"""Margins so wide that a busy machine does not matter: latency is judged by the simulation."""
STAYS = dataclasses.replace(QUICK, errors_margin=1e-6, hold_s_max=1e6)
"""A rollout that no step of which is ever passed."""
STEP = dataclasses.replace(STAYS, steps=(0.25,), shadow_requests_per_s=0)


def registry_of_three(folder: Path) -> Path:
    """A registry in which package 1 is production; 2 is as good, 3 fails on half of what it is asked."""
    place = registries.filled(folder, 1)
    with Registry.open(str(place)) as registry:
        registry.push(write_package(folder / "good", 2))
        registry.push(write_package(folder / "brittle", 3, model=graphs.brittle(3.0)))
    return place


def start(place, sequence, config):
    with Registry.open(str(place), who="ada") as registry:
        return Rollouts(registry).start(version(sequence), "production", config=config, gate=OPEN)


def current(place):
    with Registry.open(str(place)) as registry:
        return Rollouts(registry).current(PRODUCTION)


def over(place):
    """Wait for the end of a rollout, and return it."""
    for _ in looks():
        found = current(place)
        if found.state.is_over:
            return found
    raise AssertionError("the rollout does not end")


def looks():
    """Come again and again, for as long as anything may take; a ledger has no event that could be waited for."""
    never = threading.Event()
    return itertools.takewhile(lambda _: not never.wait(0.02), range(10_000))


def routed(server):
    """Wait until a server routes to a canary."""
    server.wait_until(lambda: "affine" in server.server._repository.routings)


def events(place):
    """What the ledger says but for pushes, in order."""
    with Registry.open(str(place)) as registry:
        records = registry.history("affine")
    return [record.facts.get("event", record.kind) for record in records if record.kind != "push"]
