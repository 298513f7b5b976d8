"""From the text of a pass to machine code, which is kept between starts in the user's cache.

Texts are made by `source` of names that this package chose; nothing that a client or a `model.toml` says is in them.
The folder is named by a digest of everything else that machine code depends on. It knows numba and no step.

Compiling is Python work of about a second, beside the I/O thread, which gets its turns at the interpreter's switch
interval meanwhile: it happens when a combination of steps is loaded for the first time on a machine.
"""

import contextlib
import functools
import hashlib
import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numba
import numba.core.config
import numpy as np
from numba.core import caching, types

from serving.wire.compiler import base_folder, digest, prepare, target

_LOG = logging.getLogger(__name__)
_CONFIG: dict[str, Any] = vars(numba.core.config)
_njit = cast("Any", numba.njit)
_OPTIONS = {"error_model": "numpy", "_nrt": False}
"""Compiled code allocates nothing, so it does without numba's runtime, and an allocation is a compile error."""


@functools.cache
def folder() -> Path:
    """Return where machine code of pipelines is kept."""
    facts = (sys.version, numba.__version__, np.__version__, _CONFIG["BOUNDSCHECK"], _CONFIG["OPT"])
    cpu = target(_CONFIG["CPU_NAME"], _CONFIG["CPU_FEATURES"])
    return prepare(base_folder().parent / "pipelines", digest(Path(__file__).parent.glob("*.py"), *facts, *cpu))


def readable(dtype: np.dtype[Any], dimensions: int) -> Any:
    """Return numba's type of an array that is read: as it came in a message, it cannot be written."""
    return types.Array(numba.from_dtype(dtype), dimensions, "C", readonly=True)


def writable(dtype: np.dtype[Any], dimensions: int) -> Any:
    """Return numba's type of an array that is written."""
    return types.Array(numba.from_dtype(dtype), dimensions, "C")


@functools.lru_cache(1_024)
def part(function: Callable[..., Any], *, checks_bounds: bool = False) -> Any:
    """Return a function as a piece of compiled code: compiled into what calls it, and not called from Python."""
    options = {**_OPTIONS, "boundscheck": True} if checks_bounds else _OPTIONS
    return _njit(**options, no_cpython_wrapper=True, no_cfunc_wrapper=True)(function)


def compiled(
    text: str, name: str, parts: Mapping[str, Any], arguments: Sequence[Any], *, is_kept: bool = True
) -> Callable[..., Any]:
    """Compile the function `name` of a text, which calls `parts`, for arguments of these types; the GIL is given up.

    The machine code is kept for later starts where `is_kept`. Raises what numba raises.
    """
    began_s = time.process_time()
    namespace: dict[str, Any] = {"__name__": __name__, **parts}
    exec(compile(text, f"<{name}>", "exec"), namespace)  # noqa: S102 - a text of our own, see above
    function = namespace[name]
    # numba names what it keeps by this, and by the bytecode, which does not hold the names of what is called.
    function.__qualname__ = f"{name}_{hashlib.sha256(text.encode()).hexdigest()[:24]}"
    dispatcher = _njit(nogil=True, **_OPTIONS)(function)
    if is_kept:
        dispatcher._cache = _Cache(function)  # what numba's cache=True does, with a folder of our own
    dispatcher.compile(tuple(arguments))
    dispatcher.disable_compile()
    _LOG.debug("%s: %.2f s of CPU", function.__qualname__, time.process_time() - began_s)
    return cast("Callable[..., Any]", dispatcher)


def standalone(function: Callable[..., None], arguments: Sequence[Any]) -> Callable[..., None]:
    """Compile one function of this package, for arguments of these types of numba's."""
    names = ", ".join(f"a{index}" for index in range(len(arguments)))
    text = f"def run({names}):\n    work({names})\n# {function.__module__}.{function.__qualname__}\n"
    return compiled(text, "run", {"work": part(function)}, arguments)


class _Place:
    """Tells numba where machine code is. Its own locators look for a source file, and there is none."""

    def __init__(self, function: Callable[..., Any], file: str) -> None:
        self._py_file = file  # numba names it in a warning
        self._line = function.__code__.co_firstlineno

    @classmethod
    def from_function(cls, function: Callable[..., Any], file: str) -> "_Place":
        """See numba."""
        return cls(function, file)

    def ensure_cache_path(self) -> None:
        """See numba; called before it writes."""
        folder().mkdir(parents=True, exist_ok=True)

    def get_cache_path(self) -> str:
        """See numba."""
        return str(folder())

    def get_source_stamp(self) -> str:
        """See numba; the names of folder and function say it."""
        return ""

    def get_disambiguator(self) -> str | None:
        """See numba; the name of the function has a digest already."""
        return None


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
            _LOG.warning("pipelines are compiled anew at every start: %s cannot be written (%s)", folder(), error)
