"""Runs the command of a step: no shell, no input, a process group of its own, a time limit, its output kept in a file.

Knows nothing of steps.
"""

import contextlib
import math
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from serving.errors import ConfigError

LOG_BYTES_MAX = 16 << 20
"""Output beyond is read and dropped, so that a program never waits for us."""
STOP_TIMEOUT_S = 5.0
_CHUNK_BYTES = 1 << 16
_LAST_OUTPUT_S = 1.0
_TAIL_BYTES = 4_096
_FIELD_OF_START = 19  # of those behind the name in /proc/PID/stat, see proc(5)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended: its status, negative for a signal; `timed_out` when it was ended by us."""

    status: int
    timed_out: bool
    seconds: float


def run_command(
    arguments: Sequence[str], *, folder: Path, environment: Mapping[str, str], timeout_s: float, log: Path,
    started: Callable[[int], None] = lambda _: None,
) -> Ended:  # fmt: skip
    """Run a program to its end, with all of its process group. `started` is told its id, which is the group's too.

    What has left the group, as daemons do, goes on, and nobody waits for it or for what it prints.
    Raises ConfigError when it cannot be started, or `log` not be written. Whatever is raised here, an interrupt for
    example, ends it first.
    """
    begin = time.monotonic()
    with _created(log) as target:
        try:
            process = subprocess.Popen(  # noqa: S603 - the owner's own commands
                list(arguments), cwd=folder, env=dict(environment), stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise ConfigError(f"{arguments[0]} cannot be started: {error.strerror}") from None
        assert process.stdout is not None, "bug: output that is not piped"
        over, is_over = os.pipe()
        reader = threading.Thread(target=_copy, args=(process.stdout, target, over), name="output of a step")
        reader.start()
        try:
            started(process.pid)
            timed_out = not _ends_within(process, timeout_s)
        finally:
            _end(process)
            os.close(is_over)
            reader.join()
            os.close(over)
            process.stdout.close()
    return Ended(process.returncode, timed_out, time.monotonic() - begin)


def last_line(log: Path) -> str:
    """Return the last line of an output that is not empty, as text that prints."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
            lines = file.read().decode("utf-8", "replace").split("\n")
    except OSError:
        return ""
    text = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return "".join(character if character.isprintable() else "?" for character in text)[-500:]


def start_of(pid: int) -> int:
    """Return when a process started, in ticks since the machine did, so that a reused id is told apart; 0 for none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
        return int(text.rpartition(")")[2].split()[_FIELD_OF_START])
    except (OSError, ValueError, IndexError):
        return 0


def end_group(pid: int) -> None:
    """End every process of a group, at once."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _created(log: Path) -> IO[bytes]:
    try:
        return log.open("wb")
    except OSError as error:
        raise ConfigError(f"{log} cannot be written: {error.strerror}") from None


def _ends_within(process: "subprocess.Popen[bytes]", timeout_s: float) -> bool:
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        return False
    return True


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End a program, by request first, and whatever is left of its group, which would hold the pipe open."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        _ends_within(process, STOP_TIMEOUT_S)
    end_group(process.pid)
    process.wait()


def _copy(source: IO[bytes], target: IO[bytes], over: int) -> None:
    """Copy output as it comes, up to the bound, until the pipe `over` is closed at its other end."""
    left = LOG_BYTES_MAX
    for chunk in _chunks(source.fileno(), over):
        with contextlib.suppress(OSError):  # a full disk loses the output, not the step
            target.write(chunk[:left])
            target.flush()
        if left and len(chunk) >= left:
            with contextlib.suppress(OSError):
                target.write(b"\n... the rest is left out\n")
        left = max(0, left - len(chunk))


def _chunks(source: int, over: int) -> Iterator[bytes]:
    """Yield what comes to its end, but not for long once it is over: a daemon would hold the pipe open for ever."""
    poll = select.poll()
    poll.register(source, select.POLLIN)
    poll.register(over, select.POLLIN)
    deadline = math.inf
    while (left_s := deadline - time.monotonic()) > 0:
        ready = dict(poll.poll(None if deadline == math.inf else left_s * 1e3))
        if over in ready:
            poll.unregister(over)
            deadline = time.monotonic() + _LAST_OUTPUT_S
        if source in ready:
            chunk = os.read(source, _CHUNK_BYTES)
            if not chunk:
                return
            yield chunk
