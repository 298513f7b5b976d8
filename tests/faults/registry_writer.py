"""Pushes packages and promotes each: `python -m tests.faults.registry_writer PLACE WHO PACKAGE...`.

It begins when a line comes on standard input, so that several of them begin together.
"""

import sys
from pathlib import Path

from serving.registry.client import Registry
from tests.support.registries import OPEN


def main(place: str, who: str, *packages: str) -> None:
    print("ready", flush=True)
    sys.stdin.readline()
    for package in packages:
        with Registry.open(place, who=who, create=True) as registry:
            pushed = registry.push(Path(package)).pushed
            registry.promote(pushed.version, who, gate=OPEN)
            print(pushed.sequence, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
