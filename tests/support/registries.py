"""Registries for tests, and packages to push into them."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from serving import package
from serving.registry.client import Registry
from serving.registry.names import Version
from tests.support import graphs, packages

WHO = "ada@lab"


def OPEN(_):  # noqa: N802 - stands for a gate
    """A gate that lets everything through."""
    return {}


def write_package(path: Path, number: int = 1, *, name: str = "affine", **changes) -> Path:
    """Write the package of y = `number` x + 1; packages of different numbers differ in model and evaluation."""
    model = graphs.affine(scale=float(number))
    values = {"name": name, "model": model, "evaluation": {"accuracy": number / 100}, "golden": None, **changes}
    package.write(packages.contents(**values), path)
    return path


def filled(folder: Path, count: int = 2) -> Path:
    """Make a registry of so many packages of `affine`, each promoted to production in its turn."""
    place = folder / "registry"
    with Registry.open(str(place), who=WHO, create=True) as registry:
        for number in range(1, count + 1):
            pushed = registry.push(write_package(folder / f"package-{number}", number)).pushed
            registry.promote(pushed.version, "production", gate=OPEN)
    return place


def sequences(registry: Registry) -> list[int]:
    return [pushed.sequence for pushed in registry.packages("affine")]


def version(sequence: int) -> Version:
    return Version("affine", sequence)


class Killer:
    """Ends the process, as `kill -9` would, before the n-th line below folders of `serving` that it comes to.

    A line counts up to `repeats_max` times, so that loops do not make the count endless.
    """

    def __init__(self, n: int, *folders: str, repeats_max: int = 3) -> None:
        self._left = n
        self._seen: dict[tuple[str, int], int] = {}
        self._repeats_max = repeats_max
        self._folders = [f"{os.sep}serving{os.sep}{folder}{os.sep}" for folder in folders]

    def start(self) -> None:
        sys.settrace(self._trace)

    def _trace(self, frame, event, _argument):
        file = frame.f_code.co_filename
        if not any(folder in file for folder in self._folders):
            return None
        if event == "line":
            place = (file, frame.f_lineno)
            self._seen[place] = self._seen.get(place, 0) + 1
            if self._seen[place] <= self._repeats_max:
                self._left -= 1
                if self._left == 0:
                    os._exit(137)
        return self._trace


def dies_at(n: int, verb, *folders: str) -> bool:
    """Run a verb in a child that is killed at its n-th line; False when it ended before."""
    child = os.fork()
    if child == 0:
        status = 1
        with contextlib.suppress(BaseException):
            Killer(n, *(folders or ("registry",))).start()
            verb()
            status = 0
        os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in {0, 137}, "the verb failed in the child"
    return status == 137


def points(step: int) -> Iterator[int]:
    """Every step-th line, without an end."""
    n = 1
    while True:
        yield n
        n += step
