"""Running one half of a pipeline on a batch: stages in order, in buffers that are used again for the next batch.

A program is shared by the threads of a servable; what a run writes lies in a `Workspace`, which one run has at a time.
A batch of a few rows is a few microseconds of work, so whatever is the same for all batches is done when a workspace
grows: its buffers, and calls of compiled code with all that they write to.
"""

import functools
import math
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from serving.errors import LoadError
from serving.pipeline.flaws import RefusedRowsError
from serving.pipeline.parallel import for_each
from serving.pipeline.passes import Pass, passes_of, stages_of
from serving.pipeline.refusal import NUMBERS_MAX, explanation
from serving.pipeline.source import View, compile_stage
from serving.pipeline.step import Dims, Flow, Half, Host, PerRow
from serving.types import DYNAMIC, Array

_FIRST_ROWS = 64
_FIRST_BYTES = 16 << 20
"""A buffer begins with room for so many rows, in so many bytes at most."""


Tensors = dict[int, Array]
"""Those of one batch, by their numbers, as far as anybody but compiled code looks at them."""
Empty = Callable[[tuple[int, ...], np.dtype[np.generic]], Array]
"""What gives an uninitialised array of a shape and dtype, as numpy's `empty`."""


class Workspace:
    """What one run at a time writes to, for `capacity` rows, grown to the largest batch, and what runs have measured.

    `buffers` are tensors, by their numbers, which the next run overwrites. `flaws` [capacity] has the marks of a run's
    rows, `reasons` says why libraries cannot take some. `calls` are those of compiled stages, by the numbers of their
    first passes, for these buffers. `ticks` are the nanoseconds of each pass over all runs, `rows` how many rows these
    had. Compiled code counts in `clock`, see `source`.
    """

    def __init__(self, kept: Sequence[Flow], passes: int, empty: Empty) -> None:
        self.rows = 0
        self.clock: NDArray[np.int64] = np.zeros(2 + passes, np.int64)
        self.ticks = self.clock[2:]
        self.capacity = -1
        self.flaws: NDArray[np.int64] = np.zeros(0, np.int64)
        self.reasons: dict[int, str] = {}
        self.is_clean = True
        self.buffers: dict[int, Array] = {}
        self.calls: dict[int, Callable[..., int]] = {}
        self._kept = tuple(kept)
        self._empty = empty

    def grow(self, rows: int) -> None:
        """Make room for so many rows."""
        row_bytes = max((math.prod(flow.dims) * flow.spec.datatype.item_bytes for flow in self._kept), default=0)
        capacity = _capacity(rows, row_bytes)
        self.buffers = {
            flow.number: self._empty((capacity, *flow.dims), flow.spec.datatype.dtype) for flow in self._kept
        }
        self.flaws = np.zeros(capacity, np.int64)
        self.capacity = capacity

    def clean(self) -> None:
        """Forget which rows could not be taken."""
        self.flaws.fill(0)
        self.reasons.clear()
        self.is_clean = True


class Stage(Protocol):
    """A part of a program."""

    def bind(self, workspace: Workspace) -> None:
        """Take notice of the buffers of a workspace that has grown."""

    def run(self, workspace: Workspace, tensors: Tensors, *, rows: int) -> int:
        """Read tensors, write tensors; return how many rows compiled code has marked."""


class Program:
    """One half of a pipeline, compiled. `run` may be called by several threads, each with a workspace of its own.

    Results lie in the workspace, whose memory `empty` gives, or in memory of their own when they `outlive` the run.
    Raises LoadError when it does not compile.
    """

    def __init__(self, half: Half, *, outlive: bool, empty: Empty = np.empty) -> None:
        self._empty = empty
        self.passes = passes_of(half)
        self.places = ["cpu"] * len(self.passes)
        self._promised = [(index, *_promise(flow)) for index, flow in enumerate(half.given)]
        self._half = half
        outliving = {flow.number for flow in half.results if outlive}
        # What is written by us, in one shape: libraries return arrays of their own.
        self._kept = {
            flow.number: flow
            for each in self.passes
            for flow in each.writes
            if DYNAMIC not in flow.dims and flow.number not in outliving and not isinstance(each.steps[0].work, Host)
        }
        self._results = [flow.number for flow in half.results]
        self._viewed = _looked_at(self.passes, half) & self._kept.keys()
        self._stages: list[Stage] = []
        first = 0
        for group in stages_of(self.passes):
            self._stages.append(self._stage(group, first))
            first += len(group)
        self._one_call = self._all_in_one_call()

    def workspace(self) -> Workspace:
        """Return buffers for one run at a time."""
        return Workspace(tuple(self._kept.values()), len(self.passes), self._empty)

    def run(self, given: Sequence[Array], workspace: Workspace, *, is_strict: bool = True) -> list[Array]:
        """Compute the results of a batch, of arrays as the half was promised them.

        Raises RefusedRowsError, unless not `is_strict`: then rows that cannot be taken become some numbers. Raises
        ValueError when an array is not what was promised.
        """
        rows = len(given[0]) if given and given[0].ndim else 0
        arrays = []
        for index, dims, dtype in self._promised:
            array = given[index]
            if array.dtype is not dtype or array.shape != (rows, *dims):
                check_promised(self._half.given[index], array, rows)
            flags = array.flags
            arrays.append(array if flags.c_contiguous and flags.aligned else np.array(array, order="C"))
        if rows > workspace.capacity:
            self._grow(workspace, rows)
        if not workspace.is_clean:
            workspace.clean()
        workspace.is_clean = False  # perhaps, also when a stage fails
        tensors: Tensors = {}
        if (one_call := self._one_call) is None:
            marked = self._run_stages(arrays, workspace, tensors, rows=rows)
            results = [tensors[number] for number in self._results]
        elif one_call.is_plain:
            marked = workspace.calls[0](rows, *arrays)
            results = [workspace.buffers[number][:rows] for number in self._results]
        else:
            around = [*arrays, *[np.empty((rows, *dims), dtype) for dims, dtype in one_call.made]]
            marked = workspace.calls[0](rows, *[around[place] for place in one_call.operands])
            results = [
                workspace.buffers[number][:rows] if place is None else around[place]
                for number, place in one_call.results
            ]
        workspace.rows += rows
        if not marked and not workspace.reasons:
            workspace.is_clean = True
        elif is_strict:
            tensors.update(zip(self._results, results, strict=True))
            raise RefusedRowsError(self._reasons(workspace, {**self._numbered(arrays), **tensors}))
        return results

    def _run_stages(self, given: Sequence[Array], workspace: Workspace, tensors: Tensors, *, rows: int) -> int:
        """Fill in the tensors of a batch; return how many rows compiled code has marked."""
        tensors.update(self._numbered(given))
        for number in self._viewed:
            tensors[number] = workspace.buffers[number][:rows]
        marked = 0
        for stage in self._stages:
            marked += stage.run(workspace, tensors, rows=rows)
        return marked

    def _numbered(self, given: Sequence[Array]) -> Tensors:
        return {flow.number: array for flow, array in zip(self._half.given, given, strict=True)}

    def _stage(self, group: Sequence[Pass], first: int) -> Stage:
        if group[0].is_compiled:
            return _CompiledStage(group, first, self._kept)
        work = group[0].steps[0].work
        return _HostStage(group[0], first, work) if isinstance(work, Host) else _RowStage(group[0], first)

    def _all_in_one_call(self) -> "_OneCall | None":
        """Say how a batch is one call of compiled code, if it is: most are, and Python takes its time."""
        stage = self._stages[0] if len(self._stages) == 1 else None
        given = [flow.number for flow in self._half.given]
        made = {flow.number: flow for flow in self._half.results if flow.number not in {*given, *self._kept}}
        if not isinstance(stage, _CompiledStage) or any(DYNAMIC in flow.dims for flow in made.values()):
            return None
        places = {number: place for place, number in enumerate([*given, *made])}
        if any(number not in places or view is not None for number, view in stage.others):
            return None
        operands = [places[number] for number, _ in stage.others]
        results = [(number, places.get(number)) for number in self._results]
        is_plain = operands == list(range(len(given))) and all(place is None for _, place in results)
        return _OneCall(
            [(flow.dims, flow.spec.datatype.dtype) for flow in made.values()], operands, results, is_plain=is_plain
        )

    def _grow(self, workspace: Workspace, rows: int) -> None:
        workspace.grow(rows)
        for stage in self._stages:
            stage.bind(workspace)

    def _reasons(self, workspace: Workspace, tensors: Tensors) -> dict[int, str]:
        reasons = dict(workspace.reasons)
        left = NUMBERS_MAX
        every = {**workspace.buffers, **tensors}
        for row in np.flatnonzero(workspace.flaws).tolist():
            each = self.passes[int(workspace.flaws[row]) - 1]
            values = np.asarray(every[each.reads[0].number][row])
            reasons.setdefault(row, explanation(each, values, left))
            left -= values.size
        return reasons


class _OneCall(NamedTuple):
    """How a program that is one call finds what it takes and gives.

    Tensors have places in a list: first those that are given, then those that are `made` for each batch, here as their
    dimensions and dtypes. `operands` are the places of what the call takes. `results` are numbers of tensors and their
    places, None for those in the workspace. It `is_plain` when it takes what is given, and all results lie there.
    """

    made: list[tuple[Dims, np.dtype[np.generic]]]
    operands: list[int]
    results: list[tuple[int, int | None]]
    is_plain: bool


class _CompiledStage:
    """Passes that are one compiled function. `others` are the tensors that it takes besides those of the workspace."""

    def __init__(self, group: Sequence[Pass], first: int, kept: Collection[int]) -> None:
        self._function = compile_stage(group, first, kept)
        self._first = first
        self.others = [(operand.flow.number, operand.view) for operand in self._function.others]
        self._new = [(flow, each) for each in group for flow in each.writes if flow.number not in kept]

    def bind(self, workspace: Workspace) -> None:
        """See `Stage`."""
        buffers = [_laid_out(workspace.buffers[operand.flow.number], operand.view) for operand in self._function.kept]
        workspace.calls[self._first] = functools.partial(
            self._function.call,
            workspace.flaws, workspace.clock, *self._function.arguments, *buffers,
        )  # fmt: skip

    def run(self, workspace: Workspace, tensors: Tensors, *, rows: int) -> int:
        """See `Stage`."""
        for flow, each in self._new:
            dims = flow.dims
            if DYNAMIC in dims:
                given = [tensors[read.number].shape[1:] for read in each.reads]
                dims = each.steps[-1].follow(given)[each.writes.index(flow)]
            tensors[flow.number] = np.empty((rows, *dims), flow.spec.datatype.dtype)
        others = [tensors[number] if view is None else view(tensors[number]) for number, view in self.others]
        return workspace.calls[self._first](rows, *others)


def _laid_out(array: Array, view: View | None) -> Array:
    return array if view is None else view(array)


class _HostStage:
    """A step of a library on whole arrays."""

    def __init__(self, each: Pass, index: int, work: Host) -> None:
        self._each = each
        self._index = index
        self._work = work

    def bind(self, workspace: Workspace) -> None:
        """See `Stage`."""

    def run(self, workspace: Workspace, tensors: Tensors, *, rows: int) -> int:  # noqa: ARG002 - see `Stage`
        """See `Stage`."""
        began_ns = time.monotonic_ns()
        reasons: dict[int, str] = {}
        written = self._work.function([tensors[flow.number] for flow in self._each.reads], reasons)
        for flow, array in zip(self._each.writes, written, strict=True):
            tensors[flow.number] = array
        step = self._each.steps[0]
        for row, reason in reasons.items():
            workspace.reasons.setdefault(row, f"{step.name} of '{step.reads[0].spec.name}': {reason}")
        workspace.ticks[self._index] += time.monotonic_ns() - began_ns
        return 0


class _RowStage:
    """Steps of a library on one row at a time, rows side by side; the last step's rows have one shape."""

    def __init__(self, each: Pass, index: int) -> None:
        self._each = each
        self._index = index
        if each.writes[0].is_ragged:
            last = each.steps[-1].name
            raise LoadError(f"[pipeline] {last} leaves rows of different shapes; the next step must give them one")

    def bind(self, workspace: Workspace) -> None:
        """See `Stage`."""

    def run(self, workspace: Workspace, tensors: Tensors, *, rows: int) -> int:
        """See `Stage`."""
        began_ns = time.monotonic_ns()
        given, flow = tensors[self._each.reads[0].number], self._each.writes[0]
        out = tensors.get(flow.number)
        if out is None:
            out = tensors[flow.number] = np.empty((rows, *flow.dims), flow.spec.datatype.dtype)

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
                workspace.reasons.setdefault(row, f"{step.name} of '{step.reads[0].spec.name}': {error}")

        for_each(rows, work)
        workspace.ticks[self._index] += time.monotonic_ns() - began_ns
        return 0


def _looked_at(passes: Sequence[Pass], half: Half) -> set[int]:
    """Return the numbers of tensors that more than compiled code looks at, or whose shapes others follow."""
    flows = [*half.results]
    for each in passes:
        if not each.is_compiled:
            flows += (*each.reads, *each.writes)
        elif any(DYNAMIC in flow.dims for flow in each.writes):
            flows += each.reads
    return {flow.number for flow in flows}


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


def _capacity(rows: int, row_bytes: int = 1) -> int:
    """Return how many rows to make room for; where a row is large, no more than a power of two asks for."""
    first = max(1, min(_FIRST_ROWS, _FIRST_BYTES // max(1, row_bytes)))
    return max(first, 1 << max(0, rows - 1).bit_length())
