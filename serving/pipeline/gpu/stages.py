"""What a pass over a batch is on a GPU: one function, compiled for it, and what it is called with.

Three kinds: the twin of a kernel, a chain of element-wise steps whose text is written here, and resizing.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numba import cuda

from serving.errors import LoadError
from serving.gpu.device import Compiled, Gpu, Share, array_type, device_function
from serving.gpu.memory import uploaded
from serving.pipeline import kernels, pixels
from serving.pipeline.gpu import elements as element_twins
from serving.pipeline.gpu import kernels as twins
from serving.pipeline.passes import Pass
from serving.pipeline.source import CAST_NAMES, CASTS, View, dimensions, one_line
from serving.pipeline.step import Argument, Element, Flow, Host, Kernel, PerRow, Spread, Step, as_it_is
from serving.pipeline.tabular import Flatten
from serving.types import DYNAMIC, Array

_INT64 = np.dtype(np.int64)

_TWINS: Mapping[Callable[..., Any], tuple[Callable[..., None], Share]] = {
    kernels.argmax: (twins.argmax, Share.BLOCK),
    kernels.boxes: (twins.boxes, Share.BLOCK),
    kernels.channels_first: (twins.channels_first, Share.EACH),
    kernels.channels_last: (twins.channels_last, Share.EACH),
    kernels.concat_2: (twins.concat_2, Share.EACH),
    kernels.l2_normalise: (twins.l2_normalise, Share.BLOCK),
    kernels.pool_max: (twins.pool_max, Share.EACH),
    kernels.pool_mean: (twins.pool_mean, Share.EACH),
    kernels.select: (twins.select, Share.EACH),
    kernels.softmax: (twins.softmax, Share.BLOCK),
    kernels.top_k: (twins.top_k, Share.BLOCK),
}


class Stage(Protocol):
    """A pass on a GPU."""

    can_refuse: bool

    def launch(self, stream: Any, tensors: Mapping[int, Any], flaws: Any) -> None:
        """Begin to write `tensors`, by their numbers, for rows of a batch; mark in `flaws` [rows] those it refuses."""


def can_run(step: Step) -> bool:
    """Say whether a step has a twin, and tensors whose rows have a length that is known."""
    flows = (*step.reads, *step.writes)
    if any(flow.is_ragged or DYNAMIC in flow.dims or flow.spec.datatype not in CAST_NAMES for flow in flows):
        return False
    work = step.work
    if isinstance(work, Kernel):
        return work.function in _TWINS and not work.marks
    if isinstance(work, PerRow):
        return isinstance(work.function, pixels.Resize)
    return isinstance(work, Element) or is_view(step)


def is_view(step: Step) -> bool:
    """Say whether a step sees its tensor in another shape, and writes nothing."""
    return isinstance(step.work, Host) and isinstance(step.work.function, Flatten)


def stages_of(each: Pass, mark: int, gpu: Gpu) -> Iterator[Stage]:
    """Compile a pass; rows that it refuses get `mark`. One that writes nothing has no stage. Raises LoadError."""
    try:
        if isinstance(each.steps[0].work, Element):
            yield _ElementStage(each, mark, gpu)
            return
        for step in () if is_view(each.steps[0]) else each.steps:
            yield _KernelStage(step, gpu) if isinstance(step.work, Kernel) else _resizing(step, gpu)
    except LoadError:
        raise
    except Exception as error:
        names = ", ".join(step.name for step in each.steps)
        raise LoadError(f"[pipeline] {names}: does not compile for the GPU: {one_line(error)}") from error


@dataclass(frozen=True, slots=True)
class _Call:
    """A function, and what it is called with: views of tensors, then arguments that lie in the GPU's memory."""

    compiled: Compiled
    operands: tuple[tuple[Flow, View], ...]
    arguments: tuple[Any, ...]
    counted: int  # the operand whose vectors, or whose numbers, are the items

    def __call__(self, stream: Any, tensors: Mapping[int, Any], *more: Any) -> None:
        arrays = [view(tensors[flow.number]) for flow, view in self.operands]
        counted = arrays[self.counted]
        items = counted.shape[0] if self.compiled.share is Share.BLOCK else counted.size
        self.compiled.launch(stream, int(items), *arrays, *more, *self.arguments)


def _call(
    gpu: Gpu, function: Callable[..., None], share: Share, operands: Sequence[tuple[Flow, View]],
    arguments: Sequence[Argument], *, counted: int, more: Sequence[Any] = (),
) -> _Call:  # fmt: skip
    """Compile a function for its operands, arguments of `more` types, and arguments."""
    kinds = [array_type(flow.spec.datatype.dtype, dimensions(flow, view)) for flow, view in operands]
    kinds += [*more, *(array_type(argument.array.dtype, argument.array.ndim) for argument in arguments)]
    with gpu.active():
        there = tuple(uploaded(argument.array) for argument in arguments)
    return _Call(gpu.compiled(function, kinds, share), tuple(operands), there, counted)


class _KernelStage:
    """The twin of a kernel."""

    can_refuse = False

    def __init__(self, step: Step, gpu: Gpu) -> None:
        work = step.work
        assert isinstance(work, Kernel), "bug: a step that is no kernel has the twin of one"
        function, share = _TWINS[work.function]
        operands = list(zip((*step.reads, *step.writes), work.views, strict=True))
        counted = 0 if share is Share.BLOCK else len(step.reads)
        self._call = _call(gpu, function, share, operands, work.arguments, counted=counted)

    def launch(self, stream: Any, tensors: Mapping[int, Any], flaws: Any) -> None:  # noqa: ARG002 - it refuses nothing
        """See `Stage`."""
        self._call(stream, tensors)


def _resizing(step: Step, gpu: Gpu) -> "_ResizeStage":
    work = step.work
    assert isinstance(work, PerRow), "bug: a step that is neither of numbers nor a kernel nor of rows"
    assert isinstance(work.function, pixels.Resize), "bug: a step without a twin runs on the GPU"
    return _ResizeStage(step, work.function, gpu)


class _ResizeStage:
    """Resizing images that all have one size."""

    can_refuse = False

    def __init__(self, step: Step, how: pixels.Resize, gpu: Gpu) -> None:
        height, width, _ = step.reads[0].dims
        if max(height, width) > pixels.LENGTH_MAX:
            raise LoadError(f"[pipeline] resize: images of {width} x {height}, expected at most {pixels.LENGTH_MAX}")
        if how.method == "nearest":
            function: Callable[..., None] = twins.nearest
            tables: list[Array] = [pixels.nearest(height, how.height), pixels.nearest(width, how.width)]
        else:
            function = twins.resample
            rows = pixels.weights(height, how.height, how.method, how.antialias)
            tables = [*rows, *pixels.weights(width, how.width, how.method, how.antialias)]
        operands = [(flow, as_it_is) for flow in (*step.reads, *step.writes)]
        arguments = [Argument(table) for table in tables]
        self._call = _call(gpu, function, Share.EACH, operands, arguments, counted=1)

    def launch(self, stream: Any, tensors: Mapping[int, Any], flaws: Any) -> None:  # noqa: ARG002 - it refuses nothing
        """See `Stage`."""
        self._call(stream, tensors)


class _ElementStage:
    """A chain of element-wise steps: one function of each number."""

    def __init__(self, each: Pass, mark: int, gpu: Gpu) -> None:
        works = [step.work for step in each.steps if isinstance(step.work, Element)]
        self.can_refuse = any(work.refuses is not None for work in works)
        flows = (each.reads[0], each.writes[0])
        function = _function_of(each, works, mark)
        arguments = [argument for work in works for argument in work.arguments]
        self._call = _call(
            gpu, function, Share.EACH, [(flow, _flat) for flow in flows], arguments, counted=0,
            more=[array_type(_INT64, 1)],
        )  # fmt: skip

    def launch(self, stream: Any, tensors: Mapping[int, Any], flaws: Any) -> None:
        """See `Stage`."""
        self._call(stream, tensors, flaws)


def _function_of(each: Pass, works: Sequence[Element], mark: int) -> Callable[..., None]:
    """Write the function of a chain: names of this package, and numbers that it has chosen, are all that it holds."""
    columns = (each.reads[0].dims or (1,))[-1]
    names: dict[str, Any] = {"cuda": cuda, **CASTS}
    arguments, lines, refusals = _arguments(works, columns), [], []
    last = "given[at]"
    for index, (step, work) in enumerate(zip(each.steps, works, strict=True)):
        names[f"f{index}"] = device_function(element_twins.TWINS.get(work.function, work.function))
        taken = [next(arguments) for _ in work.arguments]
        lines.append(f"v{index} = {CAST_NAMES[work.computes]}({last})")
        call = f"f{index}({', '.join([f'v{index}', *taken])})"
        lines.append(f"r{index} = {CAST_NAMES[step.writes[0].spec.datatype]}({call})")
        last = f"r{index}"
        if work.refuses is not None:
            names[f"refuses{index}"] = device_function(element_twins.TWINS.get(work.refuses, work.refuses))
            refusals.append(f"refuses{index}({', '.join([f'v{index}', last, *taken])})")
    if refusals:
        lines += ["row = at // (given.shape[0] // flaws.shape[0])"]
        lines += [f"if ({' or '.join(refusals)}) and flaws[row] == 0:", f"    flaws[row] = {mark}"]
    lines.append(f"taken[at] = {last}")
    count = sum(len(work.arguments) for work in works)
    heads = ", ".join(["given", "taken", "flaws", *(f"a{index}" for index in range(count))])
    loop = "    for at in range(cuda.grid(1), given.shape[0], cuda.gridsize(1)):"
    text = "\n".join([f"def run({heads}):", loop, *(f"        {line}" for line in lines), ""])
    exec(compile(text, "<run>", "exec"), names)  # noqa: S102 - a text of our own, see above
    function: Callable[..., None] = names["run"]
    return function


def _arguments(works: Sequence[Element], columns: int) -> Iterator[str]:
    """Say how the function of a chain reads each argument."""
    every = (argument for work in works for argument in work.arguments)
    for index, argument in enumerate(every):
        places = {Spread.ONE: "[0]", Spread.COLUMN: f"[at % {max(1, columns)}]", Spread.WHOLE: ""}
        yield f"a{index}{places[argument.spread]}"


def _flat(array: Any) -> Any:
    return array.reshape(array.size)
