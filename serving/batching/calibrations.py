"""Where the samples of a sweep are kept, so that loading the same files on the same machine again needs no sweep.

What was learnt of batches since then takes their place when it differs, so that the next load begins with it.

One small JSON file per digest of the model's files, its session, and the machine. Nothing here is trusted: a file that
does not hold what is expected counts as none, and a folder that cannot be written is as good as an empty one.
"""

import hashlib
import json
import logging
import math
import os
import platform
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from serving.batching.loads import Loads
from serving.batching.sweep import Sample
from serving.cores import usable_cores

Part = tuple[str, int, Iterable[bytes]]
"""A file of a model: its name, its length, its bytes in chunks."""

MATERIAL = 0.25
"""What was learnt is kept in place of a sweep when it differs by more than this part."""
FILES_MAX = 256
"""The files used last are kept."""
_FILE_BYTES_MAX = 65_536
_CHUNK_BYTES = 1 << 20
_log = logging.getLogger(__name__)


def usual_folder() -> Path:
    """Return the folder in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "penstock" / "calibration"


class Calibrations:
    """A folder of samples, or none that keeps nothing. Any thread. Bound: FILES_MAX files.

    `loads` tells when the machine is busy with other things than serving.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self.loads = Loads()

    def key(self, parts: Iterable[Part], *facts: object) -> str:
        """See `key_of`; a folder that keeps nothing needs none."""
        return key_of(parts, *facts) if self._folder is not None else ""

    def read(self, key: str) -> list[Sample] | None:
        """Return the samples kept under a key, in order of rows; None when there are none."""
        if self._folder is None:
            return None
        path = self._folder / f"{key}.json"
        try:
            with path.open("rb") as file:
                samples = json.loads(file.read(_FILE_BYTES_MAX))
            found = [(int(rows), float(duration_ns)) for rows, duration_ns in samples]
            rows_of = [rows for rows, _ in found]
            is_sound = rows_of == sorted(set(rows_of)) and all(
                rows > 0 and math.isfinite(duration_ns) and duration_ns >= 0 for rows, duration_ns in found
            )
            if not is_sound or not found:
                return None
            os.utime(path)  # used now
        except (OSError, ValueError, TypeError, RecursionError):
            return None
        return found

    def write(self, key: str, samples: Sequence[Sample]) -> None:
        """Keep samples under a key, if there are some, and as far as the folder can be written."""
        if self._folder is None or not samples:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=self._folder, suffix=".new", delete=False) as file:
                draft = Path(file.name)
                try:
                    json.dump(samples, file)
                    file.flush()
                    draft.replace(self._folder / f"{key}.json")
                finally:
                    draft.unlink(missing_ok=True)  # where the disk is full, so that it is not filled by these as well
            _prune(self._folder)
        except OSError as error:
            _log.info("%s: batch times are not kept: %s", self._folder, error.strerror)


def differ(kept: Sequence[Sample], learnt: Sequence[Sample]) -> bool:
    """Say whether what was learnt later tells of a size that is not kept, or of much longer or shorter runs."""
    kept_ns = dict(kept)
    return any(
        rows not in kept_ns or abs(learnt_ns - kept_ns[rows]) > MATERIAL * kept_ns[rows] for rows, learnt_ns in learnt
    )


def _prune(folder: Path) -> None:
    files = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in files[FILES_MAX:]:
        path.unlink(missing_ok=True)


def key_of(parts: Iterable[Part], *facts: object) -> str:
    """Return the key of the parts of a model on this machine, with further facts that a run's time depends on."""
    digest = hashlib.blake2b(digest_size=16)
    for name, length, chunks in parts:
        digest.update(f"{name}\0{length}\0".encode(errors="surrogateescape"))
        for chunk in chunks:
            digest.update(chunk)
    digest.update(repr((_machine(), *facts)).encode())
    return digest.hexdigest()


def files_of(folder: Path) -> Iterator[Part]:
    """Return the files of a version's folder as parts."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        yield str(path.relative_to(folder)), path.stat().st_size, _chunks(path)


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk


def _machine() -> tuple[str, str, int]:
    """Name the CPU and count the cores that this process may use."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    except OSError:
        cpu = ""
    return platform.machine(), cpu, usable_cores()
