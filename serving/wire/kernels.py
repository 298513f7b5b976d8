"""All kernels at once, and what it took to have them.

A cold compile takes most of a minute, so whoever asks for the kernels is told when one begins. It knows the modules of
this package by their names alone, and no kernel.
"""

import importlib
import logging
import pkgutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numba.core.event

from serving.wire import __name__ as package
from serving.wire import __path__ as folders
from serving.wire import compiler

Note = Callable[[str, float | None], None]
"""Takes a kernel's name, with None when its compilation begins and with the seconds of CPU when it has ended."""

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Loaded:
    """What `load` did: kernels by where they came from, and the seconds of CPU that all of it took."""

    cache: Path
    compiled: int
    loaded: int
    cpu_s: float


def load(note: Note | None = None, *, others: Iterable[str] = ()) -> Loaded:
    """Compile every kernel, or load it from the cache. Kernels that this process has already cost nothing.

    `others` names modules outside of this package that have kernels too.
    """
    began_s = time.process_time()
    known = len(compiler.KERNELS)
    compiles = _Compiles(note or _Log().note)
    with numba.core.event.install_listener("numba:compile", compiles):
        for name in (*(f"{package}.{module.name}" for module in pkgutil.iter_modules(folders)), *others):
            importlib.import_module(name)
    cpu_s = time.process_time() - began_s
    if compiles.count and note is None:
        _LOG.info("compiled %d kernels in %.1f s of CPU", compiles.count, cpu_s)
    loaded = len(compiler.KERNELS) - known - compiles.count
    return Loaded(compiler.CACHE, compiles.count, loaded, cpu_s)


class _Log:
    """Says at the first kernel what the log would be silent about for most of a minute."""

    def __init__(self) -> None:
        self._has_begun = False

    def note(self, _name: str, _cpu_s: float | None) -> None:
        if not self._has_begun:
            self._has_begun = True
            text = "compiling the kernels, once for this version and machine; most of a minute of CPU, kept in %s"
            _LOG.info(text, compiler.CACHE)


class _Compiles(numba.core.event.Listener):  # type: ignore[misc]
    """Counts what numba compiles: kernels, and not the parts that it compiles on the way to one."""

    def __init__(self, note: Note) -> None:
        self.count = 0
        self._note = note
        self._depth = 0
        self._began_s = 0.0

    def on_start(self, event: Any) -> None:
        """See numba."""
        if not self._depth:
            self._began_s = time.process_time()
            self._note(_name(event), None)
        self._depth += 1

    def on_end(self, event: Any) -> None:
        """See numba."""
        self._depth -= 1
        if not self._depth:
            self.count += 1
            self._note(_name(event), time.process_time() - self._began_s)


def _name(event: Any) -> str:
    function = event.data["dispatcher"].py_func
    return f"{function.__module__.removeprefix(f'{package}.')}.{function.__name__}"
