"""Runs the commands that a person would type, as processes of their own, and shows what they print."""

import contextlib
import os
import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import click

from serving.config import ENVIRONMENT_PREFIX
from serving.errors import ConfigError

COMMAND_TIMEOUT_S = 900.0
_LINES_MAX = 1_000
_STOP_TIMEOUT_S = 60.0

Show = Callable[[str], None]
"""Takes a line that a program prints."""


class Program:
    """`penstock ARGUMENTS` in a folder. Use it in a `with`, which ends it; a thread of its own reads what it prints.

    `show` takes each line; the last ones are kept.
    """

    def __init__(self, arguments: Sequence[str], folder: Path, environment: Mapping[str, str], show: Show) -> None:
        self.shown = f"penstock {shlex.join(arguments)}"
        self.lines: list[str] = []
        self._show = show
        self._changed = threading.Condition()
        self._ended = False
        variables = {name: value for name, value in os.environ.items() if not name.startswith(ENVIRONMENT_PREFIX)}
        self._process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-m", "serving", *arguments], cwd=folder, env={**variables, **environment}, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, name=self.shown, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_STOP_TIMEOUT_S)
        self._process.kill()
        self._process.wait()
        self._reader.join()

    def wait(self, timeout_s: float = COMMAND_TIMEOUT_S) -> int:
        """Return its exit status when it ends. Raises ConfigError when that takes too long."""
        try:
            status = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise ConfigError(f"`{self.shown}` did not end within {timeout_s:.0f} s") from None
        self._reader.join()
        return status

    def wait_for(self, pattern: str, timeout_s: float = COMMAND_TIMEOUT_S) -> re.Match[str]:
        """Return what a line that it prints says, when it comes. Raises ConfigError when it ends before."""
        with self._changed:
            self._changed.wait_for(lambda: self._find(pattern) or self._ended, timeout_s)
            found = self._find(pattern)
        if found is None:
            raise ConfigError(f"`{self.shown}` did not say what was expected: {'; '.join(self.lines[-3:])}")
        return found

    def _find(self, pattern: str) -> re.Match[str] | None:
        return next((match for line in self.lines if (match := re.search(pattern, line))), None)

    def _read(self) -> None:
        assert self._process.stdout is not None, "bug: output that is not piped"
        with self._process.stdout as source:
            for line in source:
                self._show(line.rstrip())
                with self._changed:
                    self.lines = [*self.lines[1 - _LINES_MAX :], line.rstrip()]
                    self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()


class Terminal:
    """Starts programs in one folder with one registry, and shows each as a person would have typed it."""

    def __init__(self, folder: Path, registry: Path) -> None:
        self.folder, self._environment = folder, {f"{ENVIRONMENT_PREFIX}REGISTRY": str(registry)}

    @contextlib.contextmanager
    def start(self, *arguments: str, quiet: bool = False) -> Iterator[Program]:
        """Start a program that goes on beside the tour; `quiet` shows none of what it prints."""
        click.echo(f"$ penstock {shlex.join(arguments)} &")
        show = _nothing if quiet else lambda line: click.echo(f"  | {line}")
        with Program(arguments, self.folder, self._environment, show) as program:
            yield program

    def run(self, *arguments: str, status: int = 0) -> list[str]:
        """Run a program to its end, and return its lines. Raises ConfigError for another exit status."""
        click.echo(f"$ penstock {shlex.join(arguments)}")
        with Program(arguments, self.folder, self._environment, lambda line: click.echo(f"  {line}")) as program:
            ended = program.wait()
        if ended != status:
            raise ConfigError(f"`{program.shown}` ended with status {ended}, expected {status}")
        return program.lines


def _nothing(_: str) -> None:
    """Show nothing."""
