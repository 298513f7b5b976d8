"""The text of the one function that the compiled passes of a stage become, and what it is called with.

    def run(flaws, ticks, clock, t0, t1, a0, a1): ...

`t` are tensors, `a` arguments of steps, all in the order in which they first appear. `flaws` [rows] are 0, or the
number of the pass that cannot take a row; clock[2] counts what was marked there. `ticks` [passes] count the nanoseconds
of each pass; the rest of `clock` is scratch. Texts name functions of this package only, and numbers that it has chosen.
"""

import itertools
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
from serving.types import Array, Datatype

PERIOD_MAX = 512
"""Blocks have about so many numbers, and arguments that differ by column are repeated as often: loops must be long."""

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
                text, "run", {**self._parts, **CASTS}, [integers, integers, integers, *self._types, *kinds],
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
    """Write a pass of element-wise steps: a loop over blocks of the numbers of all rows, and one within a block.

    The loop within has no branches. Where it has been signalled that a number is refused, another one finds its row.
    """
    elements = [step.work for step in each.steps if isinstance(step.work, Element)]
    columns = (each.reads[0].dims or (1,))[-1]
    has_columns = any(argument.spread is Spread.COLUMN for work in elements for argument in work.arguments)
    repeats = max(1, PERIOD_MAX // columns) if has_columns and columns else 1
    numbers = columns * repeats if has_columns else PERIOD_MAX
    source = text.tensor(each.reads[0], _flat, 1, is_written=False)
    target = text.tensor(each.writes[0], _flat, 1, is_written=True)
    length = text.argument(np.array([max(1, numbers)]))
    arguments = [[_argument(text, argument, repeats) for argument in work.arguments] for work in elements]
    text.line(1, f"for start in range(0, {source}.shape[0], {length}[0]):")
    text.line(2, f"given = {source}[start : start + {length}[0]]")
    text.line(2, f"taken = {target}[start : start + {length}[0]]")
    names = _write_numbers(text, each, elements, arguments, marks=False)
    if not names:
        return
    text.line(2, f"if {' or '.join(f'{name} < 0' for name in names)}:")
    _write_numbers(text, each, elements, arguments, marks=True)
    text.line(4, f"row = (start + at) // ({source}.shape[0] // flaws.shape[0])")
    text.line(4, "if refused and flaws[row] == 0:")
    text.line(5, f"flaws[row] = {mark}")
    text.line(5, "clock[2] += 1")


def _write_numbers(
    text: _Text, each: Pass, elements: Sequence[Element], arguments: Sequence[Sequence[str]], *, marks: bool
) -> list[str]:
    """Write the loop within a block; return the names of what is negative when a number of it is refused.

    With `marks` nothing is written to the block, and `refused` says whether the last number is.
    """
    code: list[str] = []
    names: set[str] = set()
    last = "given[at]"
    for step, work, taken in zip(each.steps, elements, arguments, strict=True):
        value, result = text.fresh("v"), text.fresh("r")
        kind = step.writes[0].spec.datatype
        code.append(f"{value} = {CAST_NAMES[work.computes]}({last})")
        code.append(f"{result} = {CAST_NAMES[kind]}({text.function(work.function)}({', '.join([value, *taken])}))")
        last = result
        if work.refuses is None:
            continue
        given = f"({', '.join([value, result, *taken])})"
        if marks:
            code.append(f"refused |= {text.function(work.refuses)}{given}")
        elif work.signals is None:
            code.append(f"signal_32 |= int32(-int32({text.function(work.refuses)}{given}))")
            names.add("signal_32")
        else:
            name = f"signal_{work.computes.item_bytes * 8}"
            code.append(f"{name} |= {text.function(work.signals)}{given}")
            names.add(name)
    depth = 3 if marks else 2
    for name in sorted(names):
        text.line(depth, f"{name} = int{name.removeprefix('signal_')}(0)")
    text.line(depth, "for at in range(given.shape[0]):")
    for line in ("refused = False", *code) if marks else (*code, f"taken[at] = {last}"):
        text.line(depth + 1, line)
    return sorted(names)


def _write_call(text: _Text, each: Pass, mark: int) -> None:
    """Write a pass that is the call of one kernel."""
    (step,) = each.steps
    work = step.work
    assert isinstance(work, Kernel), "bug: a pass that is neither elements nor a kernel is compiled"
    flows = (*step.reads, *step.writes)
    names = [
        text.tensor(flow, view, dimensions(flow, view), is_written=index >= len(step.reads))
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
    """Name an argument as the loop within a block uses it."""
    if argument.spread is Spread.ONE:
        name = text.fresh("c")  # read once: what is written could lie there, as far as a compiler knows
        text.line(1, f"{name} = {text.argument(argument.array)}[0]")
        return name
    if argument.spread is Spread.COLUMN:
        return f"{text.argument(np.tile(argument.array, repeats))}[at]"
    return text.argument(argument.array)


def _flat(array: Array) -> Array:
    return array.reshape(array.size)


def dimensions(flow: Flow, view: View) -> int:
    """Return how many dimensions a view of a tensor has."""
    return view(np.zeros((1, *(1 for _ in flow.dims)), np.uint8)).ndim


CAST_NAMES: dict[Datatype, str] = {
    Datatype.BOOL: "bool",
    **{
        kind: kind.dtype.name
        for kind in Datatype
        if kind not in {Datatype.BOOL, Datatype.BYTES, Datatype.FP16, Datatype.BF16}
    },
}
"""What numba calls the types of numbers."""
CASTS = {name: getattr(numba, name) for name in CAST_NAMES.values() if name != "bool"}
