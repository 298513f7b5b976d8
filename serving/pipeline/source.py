"""The text of the one function that the compiled passes of a stage become, and what it is called with.

    def run(flaws, clock, a0, t1, rows, t0): ...

`a` are arguments of steps, `t` tensors, numbered in the order in which they first appear. In front of `rows` stands
what is the same for every batch; tensors among that, and `flaws`, have room for more rows than came. `flaws` are 0, or
the number of the pass that cannot take a row, from 1 on; how many were marked is returned. `clock` begins with two
numbers of scratch, behind which the nanoseconds of each pass are counted. A call costs as much as some dozens of rows,
and each further array more, so all numbers that a pass takes of its steps are one. Texts name functions of this package
only, and numbers that it has chosen.
"""

import itertools
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numba.core import types

from serving.errors import LoadError
from serving.pipeline.compiler import compiled, part, readable, writable
from serving.pipeline.passes import Pass
from serving.pipeline.step import Element, Flow, Kernel, Spread, as_it_is
from serving.types import Array, Datatype

PERIOD_MAX = 512
"""Blocks have about so many numbers, and arguments that differ by column are repeated as often: loops must be long."""

_MONOTONIC = 1
_clock_gettime: Any = types.ExternalFunction("clock_gettime", types.int32(types.int32, types.voidptr))

View = Callable[[Array], Array]


@dataclass(frozen=True, slots=True)
class Operand:
    """A tensor as the function takes it: laid out by `view`, where that is another layout."""

    name: str
    flow: Flow
    view: View | None
    kind: Any  # numba's type


@dataclass(frozen=True, slots=True)
class Function:
    """A compiled stage: `call(flaws, clock, *arguments, *kept, rows, *others)`, which returns what it marked."""

    call: Callable[..., int]
    arguments: tuple[Array, ...]
    kept: tuple[Operand, ...]
    others: tuple[Operand, ...]


def nanoseconds(clock: Any) -> Any:
    """Return the time of the monotonic clock; compiled code only."""
    _clock_gettime(_MONOTONIC, clock.ctypes)
    return clock[0] * 1_000_000_000 + clock[1]


def compile_stage(passes: Sequence[Pass], first: int, kept: Collection[int]) -> Function:
    """Compile the passes of a stage, of which the first has a number, into one function. Raises LoadError.

    `kept` are the numbers of tensors that lie in the same place for every batch.
    """
    text = _Text(kept)
    for index, each in enumerate(passes, first):
        text.begin_pass(each)
        if isinstance(each.steps[0].work, Element):
            _write_loop(text, each, index)
        else:
            _write_call(text, each, index)
        text.end_pass(index)
    return text.compiled()


class _Text:
    """The text as it grows, and what its names stand for."""

    def __init__(self, kept: Collection[int]) -> None:
        self._kept = kept
        self._operands: list[Operand] = []
        self._arguments: list[Array] = []
        self._names: dict[Any, str] = {}
        self._parts: dict[str, Any] = {"nanoseconds": part(nanoseconds)}
        self._lines: list[str] = []
        self._counter = itertools.count()
        self._is_ours = True

    def begin_pass(self, each: Pass) -> None:
        """Say what follows."""
        self.line(1, "# " + ", ".join(step.name for step in each.steps))

    def end_pass(self, index: int) -> None:
        """Count the time."""
        self.line(1, "ended = nanoseconds(clock)")
        self.line(1, f"clock[{index + 2}] += ended - began")
        self.line(1, "began = ended")

    def line(self, depth: int, code: str) -> None:
        """Add a line."""
        self._lines.append("    " * depth + code)

    def fresh(self, prefix: str) -> str:
        """Return a name that is used once."""
        return f"{prefix}{next(self._counter)}"

    def tensor(self, flow: Flow, view: View, *, is_written: bool) -> str:
        """Name a tensor, laid out by `view`."""
        kind = (writable if is_written else readable)(flow.spec.datatype.dtype, dimensions(flow, view))
        name, probe = f"t{len(self._operands)}", _probe(flow)
        self._operands.append(Operand(name, flow, view if view(probe).shape != probe.shape else None, kind))
        return name

    def numbers(self, flow: Flow, *, is_written: bool) -> str:
        """Name the numbers of a tensor, one behind the other."""
        tensor, name = self.tensor(flow, as_it_is, is_written=is_written), self.fresh("f")
        self.line(1, f"{name} = {tensor}.reshape({tensor}.size)")
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
        kept = tuple(operand for operand in self._operands if operand.flow.number in self._kept)
        others = tuple(operand for operand in self._operands if operand not in kept)
        arguments = [f"a{index}" for index in range(len(self._arguments))]
        tensors = [operand.name for operand in kept], [operand.name for operand in others]
        head = [
            f"def run({', '.join(['flaws', 'clock', *arguments, *tensors[0], 'rows', *tensors[1]])}):",
            "    began = nanoseconds(clock)",
            *(f"    {name} = {name}[: rows * ({name}.shape[0] // flaws.shape[0])]" for name in tensors[0]),
            "    flaws, marked = flaws[:rows], 0",
        ]
        text = "\n".join([*head, *self._lines, "    return marked", ""])
        integers = writable(np.dtype(np.int64), 1)
        kinds = [
            integers, integers, *(readable(array.dtype, array.ndim) for array in self._arguments),
            *(operand.kind for operand in kept), types.int64, *(operand.kind for operand in others),
        ]  # fmt: skip
        try:
            call = compiled(text, "run", {**self._parts, **CASTS}, kinds, is_kept=self._is_ours)
        except Exception as error:
            raise LoadError(f"[pipeline] does not compile: {one_line(error)}") from error
        return Function(call, tuple(self._arguments), kept, others)


def one_line(error: Exception) -> str:
    """Return what numba says, without its colours and advice."""
    text = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", str(error)).split())
    text = re.sub(r"^(Failed in nopython mode pipeline \(step: [^)]*\) )+", "", text)
    return text[:400] or type(error).__name__


def _write_loop(text: _Text, each: Pass, index: int) -> None:
    """Write a pass of element-wise steps: a loop over blocks of the numbers of all rows, and one within a block.

    The loop within has no branches. Where it has been signalled that a number is refused, another one finds its row.
    """
    elements = [step.work for step in each.steps if isinstance(step.work, Element)]
    arguments, length = _write_arguments(text, elements, (each.reads[0].dims or (1,))[-1])
    source = text.numbers(each.reads[0], is_written=False)
    target = text.numbers(each.writes[0], is_written=True)
    text.line(1, f"for start in range(0, {source}.shape[0], {length}):")
    text.line(2, f"given = {source}[start : start + {length}]")
    text.line(2, f"taken = {target}[start : start + {length}]")
    names = _write_numbers(text, each, elements, arguments, marks=False)
    if not names:
        return
    text.line(2, f"if {' or '.join(f'{name} < 0' for name in names)}:")
    _write_numbers(text, each, elements, arguments, marks=True)
    text.line(4, f"row = (start + at) // ({source}.shape[0] // rows)")
    text.line(4, "if refused and flaws[row] == 0:")
    text.line(5, f"flaws[row] = {index + 1}")
    text.line(5, "marked += 1")


def _write_arguments(text: _Text, elements: Sequence[Element], columns: int) -> tuple[list[list[str]], str]:
    """Name the arguments of steps as the loop within a block uses them, and how many numbers a block has.

    Those for one number are read from tables, a row for each, of one datatype: repeated where they differ by column.
    """
    every = [argument for work in elements for argument in work.arguments]
    has_columns = any(argument.spread is Spread.COLUMN for argument in every)
    width = columns * max(1, PERIOD_MAX // columns) if has_columns else 1
    tables: dict[Any, list[Array]] = {}
    for argument in every:
        if argument.spread is not Spread.WHOLE:
            tables.setdefault(argument.array.dtype, []).append(np.resize(argument.array, width))
    names = {dtype: text.argument(np.stack(rows)) for dtype, rows in tables.items()}
    places = {dtype: itertools.count() for dtype in tables}
    arguments = []
    for work in elements:
        taken = []
        for argument in work.arguments:
            if argument.spread is Spread.WHOLE:
                taken.append(text.argument(argument.array))
                continue
            name, dtype = text.fresh("c"), argument.array.dtype
            is_one = argument.spread is Spread.ONE
            # One is read once: what is written could lie there, as far as a compiler knows.
            text.line(1, f"{name} = {names[dtype]}[{next(places[dtype])}{', 0' * is_one}]")
            taken.append(name if is_one else f"{name}[at]")
        arguments.append(taken)
    table = next((name for dtype, name in names.items() if has_columns), None)
    return arguments, f"{table}.shape[1]" if table else str(PERIOD_MAX)


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
        function = text.function(work.smooth or work.function)
        code.append(f"{result} = {CAST_NAMES[kind]}({function}({', '.join([value, *taken])}))")
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


def _write_call(text: _Text, each: Pass, index: int) -> None:
    """Write a pass that is the call of one kernel."""
    (step,) = each.steps
    work = step.work
    assert isinstance(work, Kernel), "bug: a pass that is neither elements nor a kernel is compiled"
    flows = (*step.reads, *step.writes)
    names = [
        text.tensor(flow, view, is_written=place >= len(step.reads))
        for place, (flow, view) in enumerate(zip(flows, work.views, strict=True))
    ]
    names += [text.argument(argument.array) for argument in work.arguments]
    names += ["flaws", str(index + 1)] if work.marks else []
    if not work.is_trusted:
        for name in names[len(step.reads) : len(flows)]:
            text.line(1, f"{name}[...] = 0")
        text.line(1, f"{text.foreign(work.function)}({', '.join(names)})")
        return
    text.line(1, f"{'marked += ' * work.marks}{text.function(work.function)}({', '.join(names)})")


def dimensions(flow: Flow, view: View) -> int:
    """Return how many dimensions a view of a tensor has."""
    return view(_probe(flow)).ndim


def _probe(flow: Flow) -> Array:
    """Return an array of the tensor's rank whose dimensions all differ, so that another layout shows."""
    return np.zeros((2, *range(3, 3 + len(flow.dims))), np.uint8)


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
