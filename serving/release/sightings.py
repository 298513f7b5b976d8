"""What servers see of a rollout, written down where all of them read it: beside the ledger, in the registry's folder.

    FOLDER/rollouts/POSITION/STEP-SINCE-SERVER.jsonl     a line per block of time in which a server compared the arms
    FOLDER/rollouts/POSITION/judge.lock                  held by the server that judges

Both arms of a block are of one server, so what differs between machines cancels out and the blocks of all servers are
judged together. The verdict is a function of these lines: a server that takes over reads them all and goes on. They are
no part of the ledger, whose records hold what was concluded from them, and may be removed when a rollout is over.
"""

import contextlib
import fcntl
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from serving.errors import RegistryAway
from serving.release.judge import Arm, Block
from serving.release.rollout import Rollout

FOLDER = "rollouts"
FILE_BYTES_MAX = 4 << 20
LINE_BYTES_MAX = 4096
SERVERS_MAX = 1000
"""What is read of one step: so many files, and so much of each."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """What one server saw in one block. `trouble` says why the package does not serve there.

    `differing` counts answers of a shadow that were not production's.
    """

    block: Block
    trouble: str = ""
    differing: int = 0


class Sightings:
    """The lines of one step of a rollout. One thread uses it. Methods raise RegistryAway without a usable folder."""

    def __init__(self, registry: Path, rollout: Rollout) -> None:
        self.folder = registry / FOLDER / str(rollout.position)
        since = re.sub(r"[^0-9T]", "", rollout.since)
        self._stem = f"{rollout.step}-{since}"

    def add(self, server: str, sightings: Iterable[Sighting]) -> None:
        """Write down what a server saw. A line is whole, or, when the machine dies, not counted."""
        lines = b"".join(_line(sighting) for sighting in sightings)
        with _used(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            with (self.folder / f"{self._stem}-{server}.jsonl").open("ab", buffering=0) as file:
                file.write(lines)

    def all(self) -> list[Sighting]:
        """Return what all servers saw, server by server."""
        return self.new({})

    def new(self, read_bytes: dict[str, int]) -> list[Sighting]:
        """Return what was written since; `read_bytes` says how far each file was read, and is brought up to now."""
        found = []
        for path in sorted(self.folder.glob(f"{self._stem}-*.jsonl"))[:SERVERS_MAX]:
            begin = read_bytes.get(path.name, 0)
            with _used(self.folder), path.open("rb") as file:
                file.seek(begin)
                text = file.read(FILE_BYTES_MAX - begin)
            whole = text[: text.rfind(b"\n") + 1]
            read_bytes[path.name] = begin + len(whole)
            found += [sighting for line in whole.split(b"\n") if (sighting := _parsed(line)) is not None]
        return found

    def claim(self) -> IO[bytes] | None:
        """Become the judge: what is returned makes it so until it is closed, or the process dies; None when one is."""
        with _used(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            file = (self.folder / "judge.lock").open("ab")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                return None
            except BaseException:
                file.close()
                raise
            return file


def totals(sightings: Iterable[Sighting]) -> dict[str, Any]:
    """Sum up requests and errors of both arms, for people and for the ledger."""
    sightings = list(sightings)
    blocks = [sighting.block for sighting in sightings]
    arms = {"canary": [block.canary for block in blocks], "control": [block.control for block in blocks]}
    summed: dict[str, Any] = {
        name: {"requests": sum(arm.requests for arm in each), "errors": sum(arm.errors for arm in each)}
        for name, each in arms.items()
    }
    differing = sum(sighting.differing for sighting in sightings)
    return {"blocks": len(blocks), **summed, "differing": differing}


@contextlib.contextmanager
def _used(folder: Path) -> Iterator[None]:
    """Say in one line that the folder cannot be used."""
    try:
        yield
    except OSError as error:
        raise RegistryAway(f"{folder} cannot be used: {error.strerror or error}") from error


def _line(sighting: Sighting) -> bytes:
    return json.dumps(asdict(sighting), separators=(",", ":")).encode() + b"\n"


def _parsed(line: bytes) -> Sighting | None:
    """Read a line; None for what is none, such as one that was cut off when a machine died."""
    with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        if len(line) <= LINE_BYTES_MAX:
            value = json.loads(line)
            block = Block(_arm(value["block"]["canary"]), _arm(value["block"]["control"]))
            return Sighting(block, str(value["trouble"]), _count(value["differing"]))
    return None


def _arm(value: Mapping[str, Any]) -> Arm:
    latency_us = {str(name): float(number) for name, number in value["latency_us"].items()}
    if not all(0 < number < 1e12 for number in latency_us.values()):
        raise ValueError
    requests, errors = _count(value["requests"]), _count(value["errors"])
    if errors > requests:
        raise ValueError
    return Arm(requests, errors, latency_us)


def _count(value: object) -> int:
    if not isinstance(value, int) or not 0 <= value < 1 << 48:
        raise ValueError
    return value
