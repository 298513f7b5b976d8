"""Answers on their way to a file: kept chunk by chunk in a folder beside it, so that a killed run can go on.

The folder holds `answers`, to which each chunk is appended as .npy records, and `checkpoint.json`, which says how many
rows and bytes of it count and for which job. What was appended after the last checkpoint is cut off when a run goes on,
so there is never half a row. A folder is used by one process at a time.
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from serving.errors import ConfigError
from serving.types import Array

ANSWERS, CHECKPOINT = "answers", "checkpoint.json"
_NEXT = f"{CHECKPOINT}.next"
_NAMES = frozenset({ANSWERS, CHECKPOINT, _NEXT})


class Spool:
    """The answers of a job so far. `rows` counts those that a kill would leave. Used by one thread; close it.

    A folder of another job is begun anew. Raises ConfigError when another process uses the folder, when it holds what
    no spool does, such as a link or a file of somebody's, or it cannot be written.
    """

    def __init__(self, folder: Path, job: Mapping[str, Any]) -> None:
        self._folder = folder
        self._job = dict(job)
        with self._writing():
            folder.mkdir(parents=True, exist_ok=True)
            _check_own(folder)
            self._file = (folder / ANSWERS).open("a+b")
            self._lock()
        self.rows, self._bytes = self._progress()
        with self._writing():
            self._file.truncate(self._bytes)

    def append(self, rows: int, arrays: Sequence[Array]) -> None:
        """Keep the answers of some rows, one array per output; they survive a kill once this returns."""
        with self._writing():
            for array in arrays:
                np.lib.format.write_array(self._file, array, allow_pickle=False)
            self._file.flush()
            os.fsync(self._file.fileno())
            self.rows, self._bytes = self.rows + rows, self._file.tell()
            self._write_checkpoint()

    def chunks(self, outputs: int) -> Iterator[list[Array]]:
        """Yield what was kept, chunk by chunk, from the first row on."""
        with (self._folder / ANSWERS).open("rb") as file:
            while file.tell() < self._bytes:
                yield [np.lib.format.read_array(file, allow_pickle=False) for _ in range(outputs)]

    def close(self) -> None:
        """Let another process have the folder."""
        self._file.close()

    def remove(self) -> None:
        """Close, and remove the folder, unless somebody put something of theirs into it."""
        with contextlib.suppress(OSError):
            for name in _NAMES:
                (self._folder / name).unlink(missing_ok=True)
            self._folder.rmdir()
        self.close()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise ConfigError(f"{self._folder} is in use by another process that scores into it") from None

    def _progress(self) -> tuple[int, int]:
        """Return the rows and bytes that count: those of the checkpoint, if it is of this job."""
        try:
            checkpoint = json.loads((self._folder / CHECKPOINT).read_bytes())
            rows, length = int(checkpoint["rows"]), int(checkpoint["bytes"])
            same = checkpoint["job"] == self._job and 0 <= length <= os.fstat(self._file.fileno()).st_size
        except (OSError, ValueError, KeyError, TypeError):
            return 0, 0
        return (rows, length) if same else (0, 0)

    def _write_checkpoint(self) -> None:
        draft = self._folder / _NEXT
        with draft.open("w") as file:
            json.dump({"job": self._job, "rows": self.rows, "bytes": self._bytes}, file)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._folder / CHECKPOINT)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ConfigError(f"{self._folder} cannot be written: {error.strerror}") from None


def _check_own(folder: Path) -> None:
    """Refuse a folder that a spool did not make: it is written into, and emptied at the end."""
    with os.scandir(folder) as entries:
        strange = [item.name for item in entries if item.name not in _NAMES or not item.is_file(follow_symlinks=False)]
    if strange or folder.is_symlink():
        raise ConfigError(
            f"{folder} is where answers are kept until all are there, and holds {min(strange, default='a link')!r}; "
            "move it away, or name another file of answers"
        )
