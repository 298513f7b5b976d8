"""The policy's own functions, compiled: the same code objects with numba behind the names that they call.

A numba function can call only numba functions. So each function is taken as it is and given new globals, in which the
functions of these modules are their compiled selves; nothing is written twice, and what is simulated is what is served.
"""

from collections.abc import Callable
from types import FunctionType, ModuleType, SimpleNamespace
from typing import Any, TypeVar, cast

import numba

from serving.batching import demand, policy, service_time

MODULES: tuple[ModuleType, ...] = (service_time, demand, policy)
LARGE = frozenset({"decide", "learn"})
"""What is called and not inlined. An array handed to a function costs two atomic counts, so small ones are inlined."""
LEFT_OUT = frozenset({"take_at_ns", "decide_in_window", "rank", "ladder"})
"""Functions that only Python calls."""


F = TypeVar("F", bound=Callable[..., object])
_njit = cast("Any", numba.njit)


def kernel(function: F) -> F:
    """Compile a function when it is first called."""
    return cast("F", _njit(function))


def inlined(function: F) -> F:
    """Compile a function into those that call it."""
    return cast("F", _njit(forceinline=True)(function))


def compiled() -> SimpleNamespace:
    """Return all functions of the pure modules, compiled when they are first called."""
    names: dict[str, Any] = {}
    for module in MODULES:
        scope = {**vars(module)}
        for name, function in vars(module).items():
            if not isinstance(function, FunctionType) or name in LEFT_OUT:
                continue
            if function.__module__ == module.__name__:
                copy = FunctionType(function.__code__, scope, name, function.__defaults__)
                names[name] = _njit(copy, forceinline=name not in LARGE)
        scope.update(names)
    return SimpleNamespace(**names)
