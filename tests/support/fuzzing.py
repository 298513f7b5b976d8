"""Cases made from seeds: running them, keeping those that fail, making them smaller. Knows no kernel."""

import json
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

SHRINK_CHECKS_MAX = 400


@dataclass(frozen=True)
class Target:
    """Something to fuzz: `pieces` makes a case from a seed, `check` raises when it breaks a law.

    A case whose target makes no pieces is its seed alone, and is not made smaller.
    """

    name: str
    check: Callable[[int, list[bytes]], None]
    pieces: Callable[[int], list[bytes]] = lambda _seed: []


@dataclass(frozen=True)
class Failure:
    """A case that broke a law, and where; without pieces it is the whole case of its seed."""

    target: str
    seed: int
    pieces: list[bytes] | None
    place: str
    report: str

    def save(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.target}-{self.seed}.json"
        pieces = None if self.pieces is None else [piece.hex() for piece in self.pieces]
        fields = {"target": self.target, "seed": self.seed, "place": self.place, "report": self.report}
        path.write_text(json.dumps(fields | {"pieces": pieces}, indent=1))
        return path


def load(path: Path) -> tuple[str, int, list[bytes] | None]:
    """Return target, seed and pieces of a saved case."""
    fields = json.loads(path.read_text())
    pieces = fields["pieces"]
    return fields["target"], fields["seed"], None if pieces is None else [bytes.fromhex(piece) for piece in pieces]


def place_of(error: BaseException) -> str:
    """Name a failure by its type and the line that raised it, so that the same one is known again."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} at {Path(last.filename).name}:{last.lineno}"


def run(target: Target, seed: int) -> Failure | None:
    """Run the case of a seed; a failing one comes back smaller, where its target makes pieces."""
    pieces = target.pieces(seed)
    try:
        target.check(seed, pieces)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is a finding
        place = place_of(error)
        smaller = shrink(target, seed, pieces, place)
        return Failure(target.name, seed, smaller, place, "".join(traceback.format_exception(error)))
    return None


def shrink(target: Target, seed: int, pieces: list[bytes], place: str) -> list[bytes]:
    """Leave out pieces, in halves and then one by one, as long as the case fails at the same place."""
    checks_left, span = SHRINK_CHECKS_MAX, len(pieces) // 2
    while span:
        at = 0
        while at < len(pieces) and checks_left:
            fewer = pieces[:at] + pieces[at + span :]
            checks_left -= 1
            if fails_at(target, seed, fewer) == place:
                pieces = fewer
            else:
                at += span
        span //= 2
    return pieces


def fails_at(target: Target, seed: int, pieces: list[bytes]) -> str | None:
    try:
        target.check(seed, pieces)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is a finding
        return place_of(error)
    return None
