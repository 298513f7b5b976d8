"""Running one half of a pipeline on a batch: stages in order, in buffers that are used again for the next batch.

A program is shared by the threads of a servable; what a run writes lies in a `Workspace`, which one run has at a time.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from serving.errors import LoadError
from serving.pipeline.flaws import RefusedRowsError
from serving.pipeline.parallel import for_each
from serving.pipeline.passes import Pass, passes_of, stages_of
from serving.pipeline.refusal import NUMBERS_MAX, explanation
from serving.pipeline.source import compile_stage
from serving.pipeline.step import Dims, Flow, Half, Host, PerRow
from serving.types import DYNAMIC, Array

_FIRST_ROWS = 64
_FIRST_BYTES = 16 << 20
"""A buffer begins with room for so many rows, in so many bytes at most."""


class Workspace:
    """The buffers of one run at a time, grown to the largest batch, and what its runs have measured.

    `ticks` are the nanoseconds of each pass over all runs, `rows` how many rows these had.
    """

    def __init__(self, passes: int) -> None:
        self.rows = 0
        self.ticks: NDArray[np.int64] = np.zeros(passes, np.int64)
        self.clock: NDArray[np.int64] = np.zeros(3, np.int64)  # of compiled code, see `source`
        self._flaws: NDArray[np.int64] = np.zeros(_FIRST_ROWS, np.int64)
        self._buffers: dict[int, Array] = {}

    @property
    def is_flawed(self) -> bool:
        """Whether compiled code has marked a row since `flaws`."""
        return bool(self.clock[2])

    def flaws(self, rows: int) -> NDArray[np.int64]:
        """Return a mark of 0 for each row."""
        if len(self._flaws) < rows:
            self._flaws = np.zeros(_capacity(rows), np.int64)
        if self.clock[2]:
            self._flaws.fill(0)
            self.clock[2] = 0
        return self._flaws[:rows]

    def buffer(self, flow: Flow, rows: int, dims: Dims) -> Array:
        """Return room for a tensor whose dimensions are fixed; it is overwritten by the next run."""
        buffer = self._buffers.get(flow.number)
        if buffer is None or len(buffer) < rows:
            row_bytes = math.prod(dims) * flow.spec.datatype.dtype.itemsize
            shape = (_capacity(rows, row_bytes), *dims)
            buffer = self._buffers[flow.number] = np.empty(shape, flow.spec.datatype.dtype)
        return buffer[:rows]


@dataclass(slots=True)
class Run:
    """One batch on its way: `tensors` by their numbers, and the rows that cannot be taken."""

    rows: int
    workspace: Workspace
    tensors: dict[int, Array]
    flaws: NDArray[np.int64]
    reasons: dict[int, str]
    outliving: frozenset[int]

    def room(self, flow: Flow, dims: Dims, *, is_fixed: bool) -> Array:
        """Return the memory that a tensor is written to; what `is_fixed` behind its rows lies in the workspace."""
        if flow.number in self.outliving or not is_fixed:
            return np.empty((self.rows, *dims), flow.spec.datatype.dtype)
        return self.workspace.buffer(flow, self.rows, dims)


class Stage(Protocol):
    """A part of a program."""

    def run(self, run: Run) -> None:
        """Read tensors, write tensors, mark rows."""


class Program:
    """One half of a pipeline, compiled. `run` may be called by several threads, each with a workspace of its own.

    Results lie in the workspace, or in memory of their own when they `outlive` the run. Raises LoadError when it does
    not compile.
    """

    def __init__(self, half: Half, *, outlive: bool) -> None:
        self.passes = passes_of(half)
        self.places = ["cpu"] * len(self.passes)
        self._half = half
        self._outliving = frozenset(flow.number for flow in half.results if outlive)
        self._promised = [(flow.number, *_promise(flow)) for flow in half.given]
        self._stages: list[Stage] = []
        first = 0
        for group in stages_of(self.passes):
            self._stages.append(self._stage(group, first))
            first += len(group)

    def workspace(self) -> Workspace:
        """Return buffers for one run at a time."""
        return Workspace(len(self.passes))

    def run(self, given: Sequence[Array], workspace: Workspace, *, is_strict: bool = True) -> list[Array]:
        """Compute the results of a batch, of arrays as the half was promised them.

        Raises RefusedRowsError, unless not `is_strict`: then rows that cannot be taken become some numbers. Raises
        ValueError when an array is not what was promised.
        """
        rows = len(given[0]) if given and given[0].ndim else 0
        tensors = {}
        for (number, shape, dtype), flow, array in zip(self._promised, self._half.given, given, strict=True):
            is_usual = array.ndim > 0 and array.dtype is dtype and array.shape[1:] == shape and len(array) == rows
            if not is_usual:
                check_promised(flow, array, rows)
            tensors[number] = _as_compiled_code_reads(array)
        run = Run(rows, workspace, tensors, workspace.flaws(rows), {}, self._outliving)
        for stage in self._stages:
            stage.run(run)
        workspace.rows += rows
        if is_strict and (run.reasons or workspace.is_flawed):
            raise RefusedRowsError(self._reasons(run))
        return [run.tensors[flow.number] for flow in self._half.results]

    def _stage(self, group: Sequence[Pass], first: int) -> Stage:
        if group[0].is_compiled:
            return _CompiledStage(group, first)
        work = group[0].steps[0].work
        return _HostStage(group[0], first, work) if isinstance(work, Host) else _RowStage(group[0], first)

    def _reasons(self, run: Run) -> dict[int, str]:
        reasons = dict(run.reasons)
        left = NUMBERS_MAX
        for row in np.flatnonzero(run.flaws).tolist():
            each = self.passes[int(run.flaws[row]) - 1]
            values = np.asarray(run.tensors[each.reads[0].number][row])
            reasons.setdefault(row, explanation(each, values, left))
            left -= values.size
        return reasons


class _CompiledStage:
    """Passes that are one compiled function. What it writes lies in the workspace, also what the model takes."""

    def __init__(self, group: Sequence[Pass], first: int) -> None:
        self._function = compile_stage(group, first + 1)
        self._ticks = slice(first, first + len(group))
        self._writes = [
            (flow, flow.dims, each if DYNAMIC in flow.dims else None) for each in group for flow in each.writes
        ]  # with the pass that says what open dimensions are

    def run(self, run: Run) -> None:
        """See `Stage`."""
        tensors = run.tensors
        for flow, dims, each in self._writes:
            if each is None:
                tensors[flow.number] = run.room(flow, dims, is_fixed=True)
                continue
            actual = [tensors[given.number].shape[1:] for given in each.reads]
            followed = each.steps[-1].follow(actual)[each.writes.index(flow)]
            tensors[flow.number] = run.room(flow, followed, is_fixed=False)
        operands = [operand.view(tensors[operand.flow.number]) for operand in self._function.operands]
        workspace = run.workspace
        self._function.call(
            run.flaws, workspace.ticks[self._ticks], workspace.clock, *operands, *self._function.arguments
        )


class _HostStage:
    """A step of a library on whole arrays."""

    def __init__(self, each: Pass, index: int, work: Host) -> None:
        self._each = each
        self._index = index
        self._work = work

    def run(self, run: Run) -> None:
        """See `Stage`."""
        began_ns = time.monotonic_ns()
        reasons: dict[int, str] = {}
        written = self._work.function([run.tensors[flow.number] for flow in self._each.reads], reasons)
        for flow, array in zip(self._each.writes, written, strict=True):
            run.tensors[flow.number] = array
        step = self._each.steps[0]
        for row, reason in reasons.items():
            run.reasons.setdefault(row, f"{step.name} of '{step.reads[0].spec.name}': {reason}")
        run.workspace.ticks[self._index] += time.monotonic_ns() - began_ns


class _RowStage:
    """Steps of a library on one row at a time, rows side by side; the last step's rows have one shape."""

    def __init__(self, each: Pass, index: int) -> None:
        self._each = each
        self._index = index
        if each.writes[0].is_ragged:
            last = each.steps[-1].name
            raise LoadError(f"[pipeline] {last} leaves rows of different shapes; the next step must give them one")

    def run(self, run: Run) -> None:
        """See `Stage`."""
        began_ns = time.monotonic_ns()
        given = run.tensors[self._each.reads[0].number]
        flow = self._each.writes[0]
        out = run.tensors[flow.number] = run.room(flow, flow.dims, is_fixed=True)

        def work(row: int) -> None:
            """Do one row; what cannot be done leaves zeros, and a reason."""
            value: Any = given[row]
            step = self._each.steps[0]
            try:
                for step in self._each.steps:
                    assert isinstance(step.work, PerRow), "bug: a step that does not work row by row"
                    value = step.work.function(value)
                out[row] = value
            except ValueError as error:
                out[row] = 0
                run.reasons.setdefault(row, f"{step.name} of '{step.reads[0].spec.name}': {error}")

        for_each(run.rows, work)
        run.workspace.ticks[self._index] += time.monotonic_ns() - began_ns


def _promise(flow: Flow) -> tuple[Dims, np.dtype[np.generic]]:
    """Return the dimensions behind the rows, and the dtype, of an array that is given; rows may be objects."""
    return ((), np.dtype(np.object_)) if flow.is_ragged else (flow.dims, flow.spec.datatype.dtype)


def check_promised(flow: Flow, array: Array, rows: int) -> None:
    """Check an array, which compiled code will index without looking. Raises ValueError."""
    dims, dtype = _promise(flow)
    is_right = (
        array.dtype == dtype
        and array.ndim == len(dims) + 1
        and len(array) == rows
        and all(expected in {DYNAMIC, actual} for actual, expected in zip(array.shape[1:], dims, strict=True))
    )
    if not is_right:
        raise ValueError(
            f"tensor '{flow.spec.name}' is {array.dtype} {list(array.shape)}, "
            f"expected {dtype} [{rows}, {', '.join(map(str, dims))}]"
        )


def _as_compiled_code_reads(array: Array) -> Array:
    flags = array.flags
    return array if flags.c_contiguous and flags.aligned else np.array(array, order="C")


def _capacity(rows: int, row_bytes: int = 1) -> int:
    """Return how many rows to make room for; where a row is large, no more than a power of two asks for."""
    first = max(1, min(_FIRST_ROWS, _FIRST_BYTES // max(1, row_bytes)))
    return max(first, 1 << max(0, rows - 1).bit_length())
