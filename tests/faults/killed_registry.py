"""Kills push, promote, rollback, a rollout's end and a swap at line after line; an object per death tells what is left.

A program of its own, because it forks: `python -m tests.faults.killed_registry VERB STEP FOLDER`.
"""

import json
import shutil
import sys
from pathlib import Path

from serving import package
from serving.registry.client import Registry
from serving.registry.follower import AliasFollower
from serving.registry.names import Alias, Version
from serving.release.policy import RolloutConfig
from serving.release.rollouts import Rollouts
from tests.support import registries
from tests.support.registries import OPEN

PRODUCTION = Alias("affine", "production")


def verbs(place: str, third: Path):
    def push():
        with Registry.open(place, who="child") as registry:
            registry.push(third)

    def promote():
        with Registry.open(place, who="child") as registry:
            registry.promote(Version("affine", 1), "production", gate=OPEN)

    def rollback():
        with Registry.open(place, who="child") as registry:
            registry.rollback(PRODUCTION)

    def take_over():
        with Registry.open(place, who="child") as registry:
            rollouts = Rollouts(registry)
            rollouts.advance(rollouts.current(PRODUCTION), "good enough", {"blocks": 3})

    def swap():
        AliasFollower(place, [PRODUCTION], Path(place) / "cache", deliver).look()

    return {"push": push, "promote": promote, "rollback": rollback, "take_over": take_over, "swap": swap}


def deliver(_, pulled):
    """Stand for a server: verify what is handed over."""
    for each in pulled:
        package.verify(each.path)
    return []


def state(place: str):
    """What anybody can see: the packages, the alias, the records, and whether all is sound."""
    with Registry.open(place) as registry:
        audit = registry.verify()
        return {
            "sequences": registries.sequences(registry),
            "production": registry.aliases()[PRODUCTION],
            "records": len(registry.history()),
            "findings": [str(finding) for finding in audit.findings],
            "cached": cached(Path(place)),
        }


def cached(place: Path) -> list[int]:
    """What a server would serve from its cache that starts now, without a registry: every byte verified."""
    seen: list[int] = []

    def note(_, pulled):
        seen[:] = [package.verify(each.path) and each.sequence for each in pulled]
        return []

    AliasFollower(str(place / "away"), [PRODUCTION], place / "cache", note).look()
    return seen


def main(verb: str, step: int, folder: Path) -> None:
    template = registries.filled(folder)
    third = registries.write_package(folder / "package-3", 3)
    place = folder / "victim"
    if verb == "swap":  # from the first package to the second
        cached = AliasFollower(str(template), [PRODUCTION], template / "cache", deliver)
        with Registry.open(str(template)) as registry:
            registry.rollback(PRODUCTION)
            cached.look()
            registry.rollback(PRODUCTION, to=2)
    if verb == "take_over":
        with Registry.open(str(template)) as registry:
            config = RolloutConfig(steps=(0.5,), shadow_requests_per_s=0)
            Rollouts(registry).start(Version("affine", 1), "production", config=config, gate=OPEN)
    before = state(str(template))["records"]
    for n in registries.points(step):
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(template, place)
        run = verbs(str(place), third)[verb]
        killed = registries.dies_at(n, run)
        after = state(str(place))
        if killed and (after["records"] == before or verb == "swap"):
            run()
        print(json.dumps({"line": n, "after": after, "in_the_end": state(str(place))}), flush=True)
        if not killed:
            return


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
