"""Kills push, promote and rollback at line after line, and looks at what is left; one JSON object per death.

A program of its own, because it forks: `python -m tests.faults.killed_registry VERB STEP FOLDER`.
"""

import json
import shutil
import sys
from pathlib import Path

from serving.registry.client import Registry
from serving.registry.names import Alias, Version
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

    return {"push": push, "promote": promote, "rollback": rollback}


def state(place: str):
    """What anybody can see: the packages, the alias, the records, and whether all is sound."""
    with Registry.open(place) as registry:
        audit = registry.verify()
        return {
            "sequences": registries.sequences(registry),
            "production": registry.aliases()[PRODUCTION],
            "records": len(registry.history()),
            "findings": [str(finding) for finding in audit.findings],
        }


def main(verb: str, step: int, folder: Path) -> None:
    template = registries.filled(folder)
    third = registries.write_package(folder / "package-3", 3)
    place = folder / "victim"
    for n in registries.points(step):
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(template, place)
        run = verbs(str(place), third)[verb]
        killed = registries.dies_at(n, run)
        after = state(str(place))
        if killed and after["records"] == 4:
            run()
        print(json.dumps({"line": n, "after": after, "in_the_end": state(str(place))}), flush=True)
        if not killed:
            return


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
