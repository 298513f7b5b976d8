"""Results for scripts: one JSON object per line and run, and one for what a command concludes from its runs.

Every line stands alone: it carries the machine, the commit, the seed, the scenario and the time of day. A figure that
is not known is null, never NaN, which JSON does not have.
"""

import contextlib
import dataclasses
import json
import math
import sys
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import IO, Any, Self

import numpy as np

from bench.report.views import Context, Run, View
from serving.errors import ConfigError

STDOUT = "-"


def line_of_run(kind: str, run: Run, context: Context) -> str:
    """Write a run of a command, named by its `kind`: the outcome's own names, and those of the context."""
    return _line({"kind": kind, "label": run.label, **run.outcome.to_json(), **_context(context)})


def line_of_result(view: View, context: Context) -> str:
    """Write what a command concludes, without its runs; `result` is true in it, to tell it from a run."""
    figures = {item.name: getattr(view, item.name) for item in dataclasses.fields(view) if item.name not in _RUNS}
    return _line({"kind": view.kind, "result": True, **figures, **_context(context)})


_RUNS = ("run", "runs")


class JsonLines:
    """A context manager that writes lines to a file or, for `-`, to stdout, each as soon as it is known.

    The file is opened on entry, so that a place that cannot be written is known before anything is measured. Raises
    ConfigError for one. Used by the command's thread alone.
    """

    def __init__(self, destination: str, *, append: bool = False) -> None:
        self._destination = destination
        self._mode = "a" if append else "w"
        self._file: IO[str] | None = None

    def __enter__(self) -> Self:
        if self._destination == STDOUT:
            self._file = sys.stdout
            return self
        try:
            self._file = Path(self._destination).open(self._mode, encoding="utf-8")
        except (OSError, ValueError) as error:
            raise ConfigError(f"--json cannot write {self._destination!r}: {_reason(error)}") from None
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None and self._file is not sys.stdout:
            with contextlib.suppress(OSError):  # every line was flushed, or its error was raised
                self._file.close()

    def write(self, line: str) -> None:
        """Write one line, and hand it to the system at once. Raises ConfigError when the system does not take it."""
        assert self._file is not None, "bug: lines are written inside of `with`"
        try:
            self._file.write(line + "\n")
            self._file.flush()
        except OSError as error:
            raise ConfigError(f"--json cannot write {self._destination!r}: {_reason(error)}") from None


def _context(context: Context) -> dict[str, Any]:
    return {item.name: getattr(context, item.name) for item in dataclasses.fields(context)}


def _line(values: Mapping[str, Any]) -> str:
    return json.dumps(_plain(values), allow_nan=False)


def _plain(value: Any) -> Any:  # noqa: PLR0911 - one return per kind of value
    """Return a value as JSON has it."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: _plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, datetime):
        return value.isoformat(timespec="seconds")
    return str(value)


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
