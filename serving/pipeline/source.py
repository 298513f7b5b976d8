"""The text of the one function that the compiled passes of a stage become, and what it is called with.

    def run(flaws, ticks, clock, t0, t1, a0, a1): ...

`t` are tensors, `a` arguments of steps, all in the order in which they first appear. `flaws` [rows] are 0, or the
number of the pass that cannot take a row; clock[2] counts what was marked there. `ticks` [passes] count the nanoseconds
of each pass; the rest of `clock` is scratch. Texts name functions of this package only, and numbers that it has chosen.
"""

import functools
import itertools
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numba.core import types

from serving.errors import LoadError
from serving.pipeline.compiler import compiled, part, readable, writable
from serving.pipeline.passes import Pass
from serving.pipeline.step import Argument, Element, Flow, Kernel, Spread
from serving.types import DYNAMIC, Array, Datatype

PERIOD_MAX = 512
"""Arguments that differ by column are repeated to about so many, so that rows of few columns have long inner loops."""

_MONOTONIC = 1
_clock_gettime: Any = types.ExternalFunction("clock_gettime", types.int32(types.int32, types.voidptr))

View = Callable[[Array], Array]


@dataclass(frozen=True, slots=True)
class Operand:
    """A tensor as the function takes it."""

    flow: Flow
    view: View
    is_written: bool


@dataclass(frozen=True, slots=True)
class Function:
    """A compiled stage: `call(flaws, ticks, clock, *tensors, *arguments)`."""

    call: Callable[..., None]
    operands: tuple[Operand, ...]
    arguments: tuple[Array, ...]
    text: str


def nanoseconds(clock: Any) -> Any:
    """Return the time of the monotonic clock; compiled code only."""
    _clock_gettime(_MONOTONIC, clock.ctypes)
    return clock[0] * 1_000_000_000 + clock[1]


def compile_stage(passes: Sequence[Pass], first_mark: int) -> Function:
    """Compile the passes of a stage into one function. Raises LoadError."""
    text = _Text()
    for index, each in enumerate(passes):
        text.begin_pass(each)
        if isinstance(each.steps[0].work, Element):
            _write_loop(text, each, first_mark + index)
        else:
            _write_call(text, each, first_mark + index)
        text.end_pass(index)
    return text.compiled()


class _Text:
    """The text as it grows, and what its names stand for."""

    def __init__(self) -> None:
        self.operands: list[Operand] = []
        self._types: list[Any] = []
        self._arguments: list[Array] = []
        self._names: dict[Any, str] = {}
        self._parts: dict[str, Any] = {"nanoseconds": part(nanoseconds)}
        self._lines: list[str] = ["    began = nanoseconds(clock)"]
        self._counter = itertools.count()
        self._is_ours = True

    def begin_pass(self, each: Pass) -> None:
        """Say what follows."""
        self.line(1, "# " + ", ".join(step.name for step in each.steps))

    def end_pass(self, index: int) -> None:
        """Count the time."""
        self.line(1, "ended = nanoseconds(clock)")
        self.line(1, f"ticks[{index}] += ended - began")
        self.line(1, "began = ended")

    def line(self, depth: int, code: str) -> None:
        """Add a line."""
        self._lines.append("    " * depth + code)

    def fresh(self, prefix: str) -> str:
        """Return a name that is used once."""
        return f"{prefix}{next(self._counter)}"

    def tensor(self, flow: Flow, view: View, dimensions: int, *, is_written: bool) -> str:
        """Name a tensor, laid out by `view`."""
        name = f"t{len(self.operands)}"
        self.operands.append(Operand(flow, view, is_written))
        dtype = flow.spec.datatype.dtype
        self._types.append((writable if is_written else readable)(dtype, dimensions))
        return name

    def argument(self, array: Array) -> str:
        """Name an argument."""
        self._arguments.append(np.ascontiguousarray(array))
        return f"a{len(self._arguments) - 1}"

    def function(self, function: Callable[..., Any]) -> str:
        """Name a function of this package that is called."""
        if function not in self._names:
            name = f"{function.__name__.strip('_')}_{len(self._names)}"
            self._names[function] = name
            self._parts[name] = part(function)
            self.line(1, f"# {name}: {function.__module__}.{function.__qualname__}")
        return self._names[function]

    def foreign(self, function: Callable[..., Any]) -> str:
        """Name a function that is not of this package, of whose own names nothing gets into the text."""
        self._is_ours = False
        name = self._names[function] = f"foreign_{len(self._names)}"
        self._parts[name] = part(function, checks_bounds=True)
        return name

    def compiled(self) -> Function:
        """Compile what was written."""
        tensors = [f"t{index}" for index in range(len(self.operands))]
        arguments = [f"a{index}" for index in range(len(self._arguments))]
        head = f"def run({', '.join(['flaws', 'ticks', 'clock', *tensors, *arguments])}):"
        text = "\n".join([head, *self._lines, ""])
        integers = writable(np.dtype(np.int64), 1)
        kinds = [readable(array.dtype, array.ndim) for array in self._arguments]
        try:
            call = compiled(
                text, "run", {**self._parts, **_CASTS}, [integers, integers, integers, *self._types, *kinds],
                is_kept=self._is_ours,
            )  # fmt: skip
        except Exception as error:
            raise LoadError(f"[pipeline] does not compile: {_one_line(error)}") from error
        return Function(call, tuple(self.operands), tuple(self._arguments), text)


def _one_line(error: Exception) -> str:
    """Return what numba says, without its colours and advice."""
    text = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", str(error)).split())
    text = re.sub(r"^(Failed in nopython mode pipeline \(step: [^)]*\) )+", "", text)
    return text[:400] or type(error).__name__


def _write_loop(text: _Text, each: Pass, mark: int) -> None:
    """Write a pass of element-wise steps: one loop over rows, spots and columns."""
    elements = [step.work for step in each.steps if isinstance(step.work, Element)]
    dims = each.reads[0].dims
    view, repeats = _layout(dims, elements)
    source = text.tensor(each.reads[0], view, 3, is_written=False)
    target = text.tensor(each.writes[0], view, 3, is_written=True)
    code: list[str] = []
    refuses: list[str] = []
    last = f"{source}[row, spot, column]"
    for step, work in zip(each.steps, elements, strict=True):
        value, result = text.fresh("v"), text.fresh("r")
        arguments = [_argument(text, argument, repeats) for argument in work.arguments]
        kind = step.writes[0].spec.datatype
        code.append(f"{value} = {_CAST_NAMES[work.computes]}({last})")
        call = f"{text.function(work.function)}({', '.join([value, *arguments])})"
        code.append(f"{result} = {_CAST_NAMES[kind]}({call})")
        if work.refuses is not None:
            refuses.append(f"{text.function(work.refuses)}({', '.join([value, result, *arguments])})")
            code.append(f"refused += int32({refuses[-1]})")
        last = result
    text.line(1, f"for row in range({source}.shape[0]):")
    if refuses:
        text.line(2, "refused = int32(0)  # as wide as FP32, so that counting is a vector instruction too")
    text.line(2, f"for spot in range({source}.shape[1]):")
    text.line(3, f"for column in range({source}.shape[2]):")
    for line in (*code, f"{target}[row, spot, column] = {last}"):
        text.line(4, line)
    if refuses:
        text.line(2, "if refused and flaws[row] == 0:")
        text.line(3, f"flaws[row] = {mark}")
        text.line(3, "clock[2] += 1")


def _write_call(text: _Text, each: Pass, mark: int) -> None:
    """Write a pass that is the call of one kernel."""
    (step,) = each.steps
    work = step.work
    assert isinstance(work, Kernel), "bug: a pass that is neither elements nor a kernel is compiled"
    flows = (*step.reads, *step.writes)
    names = [
        text.tensor(flow, view, _dimensions(flow, view), is_written=index >= len(step.reads))
        for index, (flow, view) in enumerate(zip(flows, work.views, strict=True))
    ]
    names += [text.argument(argument.array) for argument in work.arguments]
    names += ["flaws", str(mark)] if work.marks else []
    if not work.is_trusted:
        for name in names[len(step.reads) : len(flows)]:
            text.line(1, f"{name}[...] = 0")
        text.line(1, f"{text.foreign(work.function)}({', '.join(names)})")
        return
    text.line(1, f"{'clock[2] += ' * work.marks}{text.function(work.function)}({', '.join(names)})")


def _argument(text: _Text, argument: Argument, repeats: int) -> str:
    if argument.spread is Spread.ONE:
        return f"{text.argument(argument.array)}[0]"
    if argument.spread is Spread.COLUMN:
        return f"{text.argument(np.tile(argument.array, repeats))}[column]"
    return text.argument(argument.array)


def _layout(dims: tuple[int, ...], elements: Sequence[Element]) -> tuple[View, int]:
    """Choose how a tensor lies for a loop, [rows, spots, columns], and how often arguments by column are repeated."""
    period, repeats = 0, 1
    if any(argument.spread is Spread.COLUMN for work in elements for argument in work.arguments):
        columns = dims[-1] if dims else 1
        spots = math.prod(dims[:-1]) if DYNAMIC not in dims else 1
        repeats = max(count for count in range(1, max(1, PERIOD_MAX // columns) + 1) if spots % count == 0)
        period = columns * repeats
    if DYNAMIC in dims:
        return functools.partial(_periodic, period=period), repeats
    numbers = math.prod(dims)
    return functools.partial(_fixed, spots=numbers // period if period else 1, period=period or numbers), repeats


def _fixed(array: Array, *, spots: int, period: int) -> Array:
    return array.reshape(len(array), spots, period)


def _periodic(array: Array, *, period: int) -> Array:
    numbers = math.prod(array.shape[1:])
    return array.reshape(len(array), numbers // period if period else 1, period or numbers)


def _dimensions(flow: Flow, view: View) -> int:
    """Return how many dimensions a view has."""
    return view(np.zeros((1, *(1 for _ in flow.dims)), np.uint8)).ndim


_CAST_NAMES: dict[Datatype, str] = {
    Datatype.BOOL: "bool",
    **{
        kind: kind.dtype.name
        for kind in Datatype
        if kind not in {Datatype.BOOL, Datatype.BYTES, Datatype.FP16, Datatype.BF16}
    },
}
_CASTS = {name: getattr(numba, name) for name in _CAST_NAMES.values() if name != "bool"}
