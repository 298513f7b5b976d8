"""What steps made, kept by the key of what they were made from. One run at a time has a workplace.

WORK/lock                         held by the run that goes on
WORK/run                          which run that is; left behind by one that was killed
WORK/steps/STEP/KEY/              what a step made, and `result.json`, which tells the digest of each output
WORK/steps/STEP/KEY/output.log    what it printed
WORK/drafts/STEP/                 a step under way; renamed when it has ended well
WORK/failed/STEP.log              what it printed when it failed last
"""

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.errors import ConfigError
from serving.release.pipeline.digests import digest_path
from serving.release.pipeline.process import end_group, start_of

KEPT_MAX = 10
"""Results of one step that are kept, the last used ones."""
RESULT_BYTES_MAX = 1 << 20
LOG_FILE, RESULT_FILE, PROCESS_FILE = "output.log", "result.json", "process.json"
OUT_FOLDER, SCRATCH_FOLDER = "out", "scratch"
_KEY_CHARACTERS = 32


@dataclass(frozen=True, slots=True)
class Result:
    """What a step made: the digest of each output by its path, where they lie, and in which run and how long."""

    folder: Path
    outputs: Mapping[str, str]
    run: int
    seconds: float

    def path(self, output: str) -> Path:
        """Return where an output lies."""
        return self.folder / OUT_FOLDER / output


class Workplace:
    """The folder of one pipeline's results. Use it within `locked`; one thread uses it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()

    @contextlib.contextmanager
    def locked(self, *, wait: bool) -> Iterator[None]:
        """Keep other runs out. Raises ConfigError when there is one, unless told to wait for its end."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise ConfigError(f"{self.folder} cannot be written: {error.strerror}") from None
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConfigError(f"another run of this pipeline goes on in {self.folder}; wait for its end, or give "
                                  "this one a --work folder of its own") from None  # fmt: skip
            self._clean()
            yield
        finally:
            os.close(lock)

    # ---- which run --------------------------------------------------------------------------------------------------

    def killed_run(self) -> int | None:
        """Return the run that was killed here, None when the last one came to its end."""
        try:
            return int((self.folder / "run").read_text()[:20])
        except (OSError, ValueError):
            return None

    def begin_run(self, run: int) -> None:
        """Note which run goes on."""
        with _said(self.folder):
            (self.folder / "run").write_text(f"{run}\n")

    def end_run(self) -> None:
        """Note that it came to its end, however that was."""
        with _said(self.folder):
            (self.folder / "run").unlink(missing_ok=True)

    # ---- results ----------------------------------------------------------------------------------------------------

    def find(self, step: str, key: str, outputs: Sequence[str]) -> Result | None:
        """Return what was made from the same, None when there is nothing or it is not what it was."""
        folder = self._place(step, key)
        facts = _read_json(folder / RESULT_FILE)
        try:
            result = Result(folder, dict(facts["outputs"]), int(facts["run"]), float(facts["seconds"]))
            is_whole = facts["key"] == key and all(
                digest_path(result.path(name)).digest == result.outputs.get(name) for name in outputs
            )
        except (KeyError, TypeError, ValueError, ConfigError):
            return None
        if not is_whole:
            return None
        os.utime(folder)  # when it was used last
        return result

    def begin(self, step: str) -> Path:
        """Return a folder for a step: it runs in one inside, and writes its outputs into another."""
        draft = self.folder / "drafts" / step
        with _said(draft):
            shutil.rmtree(draft, ignore_errors=True)
            for name in (OUT_FOLDER, SCRATCH_FOLDER):
                (draft / name).mkdir(parents=True)
        return draft

    def started(self, draft: Path, pid: int) -> None:
        """Note which process works in a draft, so that one that outlives its run can be ended."""
        with _said(draft):
            (draft / PROCESS_FILE).write_text(json.dumps({"pid": pid, "start": start_of(pid)}))

    def keep(self, draft: Path, key: str, outputs: Sequence[str], *, run: int, seconds: float) -> Result:
        """Keep what a step made, as a whole or not at all. Raises ConfigError for an output that is not there."""
        made = draft / OUT_FOLDER
        for name in outputs:
            if not (made / name).exists():
                raise ConfigError(f"it ended well, and did not make {{out:{name}}}")
        digests = {name: digest_path(made / name).digest for name in outputs}
        facts = {"key": key, "outputs": digests, "run": run, "seconds": seconds}
        folder = self._place(draft.name, key)
        with _said(folder):
            (draft / PROCESS_FILE).unlink(missing_ok=True)
            shutil.rmtree(draft / SCRATCH_FOLDER, ignore_errors=True)
            (draft / RESULT_FILE).write_text(json.dumps(facts, indent=1))
            folder.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(folder, ignore_errors=True)
            draft.rename(folder)
        self._forget(draft.name)
        return Result(folder, digests, run, seconds)

    def fail(self, draft: Path) -> Path:
        """Remove a draft, and keep what its program printed; return where."""
        log = self.folder / "failed" / f"{draft.name}.log"
        with _said(log):
            log.parent.mkdir(parents=True, exist_ok=True)
            if (draft / LOG_FILE).exists():
                (draft / LOG_FILE).replace(log)
        shutil.rmtree(draft, ignore_errors=True)
        return log

    def _clean(self) -> None:
        """Remove what a run left that was killed, and end programs of it that go on: nobody waits for them."""
        for draft in (self.folder / "drafts").glob("*"):
            facts = _read_json(draft / PROCESS_FILE)
            pid, start = facts.get("pid"), facts.get("start")
            if isinstance(pid, int) and pid > 1 and start and start_of(pid) == start:
                end_group(pid)
            shutil.rmtree(draft, ignore_errors=True)

    def _forget(self, step: str) -> None:
        """Remove the results that were not used for longest."""
        folders = sorted((self.folder / "steps" / step).iterdir(), key=lambda folder: folder.stat().st_mtime_ns)
        for folder in folders[:-KEPT_MAX]:
            shutil.rmtree(folder, ignore_errors=True)

    def _place(self, step: str, key: str) -> Path:
        return self.folder / "steps" / step / key.rpartition(":")[2][:_KEY_CHARACTERS]


@contextlib.contextmanager
def _said(path: Path) -> Iterator[None]:
    """Say in one line that something cannot be written."""
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{error.filename or path} cannot be written: {error.strerror}") from None


def _read_json(path: Path) -> dict[str, Any]:
    """Return the object in a file of ours; empty when it is missing or damaged."""
    try:
        with path.open("rb") as file:
            value = json.loads(file.read(RESULT_BYTES_MAX))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
