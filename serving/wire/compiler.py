"""Where kernels are compiled, and where the machine code is kept between starts.

numba's own key misses edits in another file that a cached kernel calls and ignores the bounds-check setting, so the
folder is named by a digest of everything that machine code depends on: all kernel sources, Python, numba, numpy, the
bounds-check setting and the CPU. Where the sources lie is no part of it. The folder is used as it is: what it holds is
loaded, the rest is compiled, and kept where it can be written. It knows the file system and numba, and no kernel.
"""

import contextlib
import functools
import hashlib
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar, cast

import llvmlite.binding
import numba
import numba.core.config
import numpy as np
from numba.core import caching

F = TypeVar("F", bound=Callable[..., Any])

FOLDERS_KEPT_MAX = 6
"""Old folders that survive pruning: a few versions side by side, with and without bounds checks."""

_LOG = logging.getLogger(__name__)


def digest(sources: Iterable[Path], *facts: object) -> str:
    """Name the machine code that `sources` give under `facts`."""
    key = hashlib.sha256()
    for path in sorted(sources):
        key.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    for fact in facts:
        key.update(repr(fact).encode() + b"\0")
    return key.hexdigest()[:24]


def target(name: str | None, features: str | None) -> tuple[str, str]:
    """Return the CPU and its features to compile for: what is set, be it no feature at all, or this machine's."""
    return (
        llvmlite.binding.get_host_cpu_name() if name is None else name,
        llvmlite.binding.get_host_cpu_features().flatten() if features is None else features,
    )


def base_folder() -> Path:
    """Return the folder of the user's cache that holds one folder per digest."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "penstock" / "kernels"


def prepare(base: Path, name: str) -> Path:
    """Return `base/name`, made and marked as used where that is possible: a cache may be there to be read alone."""
    folder = base / name
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        os.utime(folder)  # pruning keeps what was used last
        prune(base, keep=folder)
    return folder


def prune(base: Path, *, keep: Path) -> None:
    """Remove all but the folders used last. Another process may prune at the same time, so a lost race is no error."""

    def used_ns(folder: Path) -> int:
        with contextlib.suppress(OSError):
            return folder.stat().st_mtime_ns
        return 0

    others = sorted((path for path in base.iterdir() if path != keep), key=used_ns, reverse=True)
    for folder in others[FOLDERS_KEPT_MAX:]:
        shutil.rmtree(folder, ignore_errors=True)


class _Place:
    """Tells numba where one function's machine code is: in `CACHE`, under a name that no other text shares.

    numba's own locators refuse a folder that they cannot write to, also when all that is needed is in it.
    """

    def __init__(self, function: Callable[..., Any], file: str) -> None:
        self._py_file = file  # numba names it in a warning
        self._line = function.__code__.co_firstlineno

    @classmethod
    def from_function(cls, function: Callable[..., Any], file: str) -> "_Place":
        """See numba."""
        return cls(function, file)

    def ensure_cache_path(self) -> None:
        """See numba; called before it writes."""
        CACHE.mkdir(parents=True, exist_ok=True)

    def get_cache_path(self) -> str:
        """See numba."""
        return str(CACHE)

    def get_source_stamp(self) -> str:
        """See numba; the name says it."""
        return ""

    def get_disambiguator(self) -> str:
        """See numba; covers what the folder's digest does not: a subpackage, whose files call each other."""
        return f"{self._line}-{_digest_beside(Path(self._py_file))}"


@functools.cache
def _digest_beside(file: Path) -> str:
    """Name the machine code that a file gives together with all sources in its folder."""
    return digest(file.parent.glob("*.py"), file.name)


class _Impl(caching.CompileResultCacheImpl):  # type: ignore[misc]
    _locator_classes = (_Place,)


class _Cache(caching.FunctionCache):  # type: ignore[misc]
    """Machine code on disk. What cannot be read is compiled, and what cannot be written is not kept."""

    _impl_class = _Impl

    def load_overload(self, *which: Any) -> Any:
        """See numba."""
        with contextlib.suppress(OSError):
            return super().load_overload(*which)
        return None

    def save_overload(self, *what: Any) -> None:
        """See numba."""
        try:
            super().save_overload(*what)
        except OSError as error:
            _say_that_nothing_is_kept(error.strerror)


@functools.cache
def _say_that_nothing_is_kept(reason: str) -> None:
    """Warn, once per reason."""
    _LOG.warning("kernels are compiled anew at every start: %s cannot be written (%s)", CACHE, reason)


_njit = cast("Any", numba.njit)
_OPTIONS = {"error_model": "numpy", "_nrt": False}
"""Kernels allocate nothing, so they are compiled without numba's runtime (`_nrt`): counting references to the arrays
that parts hand to each other took more than half of a decode call. An allocation is a compile error by that."""
_WITHOUT_WRAPPERS = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
"""For what is not called from Python: the wrappers took a quarter of the time to compile."""


def kernel(*signatures: str, nogil: bool = False) -> Callable[[F], F]:
    """Compile a function for exactly `signatures`, now, from the cache where it can.

    Any other argument type is a TypeError at the call and never a compile that would stall the event loop. The GIL is
    kept unless `nogil`: giving up and taking back the GIL costs more than a wire kernel runs. The caller's arrays must
    live as long as the call, which they do: nothing keeps one.
    """

    def compile_now(function: F) -> F:
        compiled = _njit(nogil=nogil, **_OPTIONS)(function)
        compiled._cache = _Cache(function)  # what numba's cache=True does, with a cache of our own
        for signature in signatures:
            compiled.compile(signature)
        compiled.disable_compile()
        KERNELS.append(compiled)
        return cast("F", compiled)

    return compile_now


def part(function: F) -> F:
    """Mark a piece of a kernel. It is compiled into every kernel that calls it and is not called from Python."""
    return cast("F", _njit(**_OPTIONS, **_WITHOUT_WRAPPERS)(function))


def inlined(function: F) -> F:
    """Mark a part that every request runs through. It is compiled into the place of each call.

    A call that hands over all arrays of a decode call pushes some sixty words, which is more than most parts do.
    """
    return cast("F", _njit(**_OPTIONS, **_WITHOUT_WRAPPERS, forceinline=True)(function))


int64 = cast("Callable[[Any], int]", np.int64)
"""Makes a signed 64-bit integer of a byte or a flag; mixing signed and unsigned would make a float."""

unsigned = cast("Callable[[Any], int]", np.uint64)
"""Makes a number that numba need not test for being negative where it is an index."""

KERNELS: list[Any] = []
"""Every kernel that was compiled in this process, for the test that counts signatures."""

_CONFIG: dict[str, Any] = vars(numba.core.config)

BOUNDS_CHECKED = bool(_CONFIG["BOUNDSCHECK"])

CACHE = prepare(
    base_folder(),
    digest(
        Path(__file__).parent.glob("*.py"),
        sys.version,
        numba.__version__,
        np.__version__,
        BOUNDS_CHECKED,
        _CONFIG["OPT"],
        *target(_CONFIG["CPU_NAME"], _CONFIG["CPU_FEATURES"]),
    ),
)
