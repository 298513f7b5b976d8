"""Running one half of a pipeline on CPU and GPU: `BeforeModel` ends on the GPU, `BehindModel` begins there.

Chunks of rows take turns on two streams, each through all stages: while one is copied, the other is computed on. A
program is shared by the threads of a servable; what a run writes lies in a `Workspace`, which one run has at a time.
"""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.gpu.device import Gpu
from serving.gpu.memory import GpuArray, empty
from serving.gpu.streams import StreamPair, packed, upload
from serving.pipeline.flaws import RefusedRowsError
from serving.pipeline.gpu import division
from serving.pipeline.gpu.stages import Stage, can_run, is_view, stages_of
from serving.pipeline.passes import Pass, passes_of
from serving.pipeline.program import Program, check_promised
from serving.pipeline.program import Workspace as HostWorkspace
from serving.pipeline.refusal import NUMBERS_MAX, explanation
from serving.pipeline.step import Flow, Half
from serving.types import Array


class Workspace:
    """The buffers of one run at a time, on the host and on the GPU, and what its runs have measured.

    Those on the GPU grow to the largest batch, rounded up to a power of two rows.
    """

    def __init__(self, host: HostWorkspace, *, is_gpu_first: bool) -> None:
        self.host = host
        self._is_gpu_first = is_gpu_first
        self.streams = StreamPair()
        self.gpu_ns = 0
        self._unflawed: NDArray[np.int64] = np.zeros(0, np.int64)
        self._buffers: dict[int, Any] = {}

    @property
    def rows(self) -> int:
        """How many rows its runs had."""
        return self.host.rows

    @property
    def ticks(self) -> NDArray[np.int64]:
        """The nanoseconds of each pass of the host over all runs, and of the GPU's part, in the order of their runs."""
        return np.insert(self.host.ticks, 0 if self._is_gpu_first else len(self.host.ticks), self.gpu_ns)

    def buffer(self, number: int, rows: int, dims: Sequence[int], dtype: np.dtype[np.generic]) -> Any:
        """Return the GPU's memory for a tensor, [rows, *dims], by its number; the next run overwrites it."""
        buffer = self._buffers.get(number)
        if buffer is None or buffer.shape[0] < rows or tuple(buffer.shape[1:]) != tuple(dims):
            capacity = 1 << max(0, rows - 1).bit_length()
            buffer = self._buffers[number] = empty((capacity, *dims), dtype)
        return buffer if buffer.shape[0] == rows else buffer[:rows]

    def unflawed(self, rows: int) -> NDArray[np.int64]:
        """Return a mark of 0 for each row."""
        if len(self._unflawed) < rows:
            self._unflawed = np.zeros(rows, np.int64)
        return self._unflawed[:rows]


_FLAWS = -1
"""The number under which a workspace has the marks of rows."""


class BeforeModel:
    """Preprocessing whose last steps run on a GPU. Results are `GpuArray`s, overwritten by the next run.

    As `Program`, thread-safe: each run has a workspace of its own. Raises LoadError when it does not compile.
    """

    def __init__(self, half: Half, gpu: Gpu) -> None:
        self._device = gpu
        divided = division.before(half, can_run)
        self._host = Program(divided.host, outlive=False, empty=gpu.pinned)
        self._gpu = _Part(divided.gpu, gpu)
        self.passes: list[Pass] = [*self._host.passes, *self._gpu.as_pass]
        self.places = [*self._host.places, *("gpu" for _ in self._gpu.as_pass)]

    def workspace(self) -> Workspace:
        """Return buffers for one run at a time."""
        with self._device.active():
            return Workspace(self._host.workspace(), is_gpu_first=False)

    def run(self, given: Sequence[Array], workspace: Workspace, *, is_strict: bool = True) -> list[Array]:
        """See `Program.run`."""
        return self._gpu.run(self._host.run(given, workspace.host, is_strict=is_strict), workspace, is_strict=is_strict)


class BehindModel:
    """Postprocessing whose first steps run on a GPU, where the model left its outputs. Results are arrays of the host.

    As `Program`, thread-safe: each run has a workspace of its own. Raises LoadError when it does not compile.
    """

    def __init__(self, half: Half, gpu: Gpu) -> None:
        self._device = gpu
        divided = division.after(half, can_run)
        self._gpu = _Part(divided.gpu, gpu)
        self._host = Program(divided.host, outlive=True)
        self._given = [flow.number for flow in half.given]
        self._takes = ([flow.number for flow in divided.gpu.given], [flow.number for flow in divided.host.given])
        self._results = [flow.number for flow in divided.gpu.results]
        self.passes: list[Pass] = [*self._gpu.as_pass, *self._host.passes]
        self.places = [*("gpu" for _ in self._gpu.as_pass), *self._host.places]

    def workspace(self) -> Workspace:
        """Return buffers for one run at a time."""
        with self._device.active():
            return Workspace(self._host.workspace(), is_gpu_first=True)

    def run(self, given: Sequence[Array], workspace: Workspace, *, is_strict: bool = True) -> list[Array]:
        """See `Program.run`."""
        tensors = dict(zip(self._given, given, strict=True))
        there, here = self._takes
        results = self._gpu.run([tensors[number] for number in there], workspace, is_strict=is_strict)
        tensors.update(zip(self._results, results, strict=True))
        arrays = [np.asarray(tensors[number]) for number in here]
        return self._host.run(arrays, workspace.host, is_strict=is_strict)


class _Part:
    """The steps of a half that run on a GPU, compiled."""

    def __init__(self, half: Half, gpu: Gpu) -> None:
        self._half = half
        self._device = gpu
        self._passes = passes_of(half)
        self._stages: list[Stage] = []
        for index, each in enumerate(self._passes):
            self._stages += stages_of(each, index + 1, gpu)
        self._can_refuse = any(stage.can_refuse for stage in self._stages)

    @property
    def as_pass(self) -> tuple[Pass, ...]:
        """All its steps as one pass, as they are timed together; none where it has none."""
        return (Pass(self._half.steps),) if self._half.steps else ()

    def run(self, given: Sequence[Array], space: Workspace, *, is_strict: bool) -> list[Array]:
        """Compute the results, as `GpuArray`s. Raises RefusedRowsError, and ValueError for what was not promised."""
        if not given:
            return []
        began_ns = time.monotonic_ns()
        rows = len(given[0])
        for flow, array in zip(self._half.given, given, strict=True):
            check_promised(flow, array, rows)
        with self._device.active():
            tensors = self._room(given, rows, space)
            uploads = [
                (flow.number, packed(array))
                for flow, array in zip(self._half.given, given, strict=True)
                if not isinstance(array, GpuArray)
            ]
            try:
                self._launch(uploads, tensors, rows, space)
            finally:  # nothing that is being copied, or written to, may go before
                space.streams.join()
            space.gpu_ns += time.monotonic_ns() - began_ns
            if self._can_refuse and is_strict and rows:
                self._check_flaws(tensors, rows)
        results: list[Any] = [GpuArray(tensors[flow.number], self._device) for flow in self._half.results]
        return results

    def _room(self, given: Sequence[Array], rows: int, space: Workspace) -> dict[int, Any]:
        """Return memory for every tensor; what lies there already is where it is."""
        tensors: dict[int, Any] = {}
        for flow, array in zip(self._half.given, given, strict=True):
            if isinstance(array, GpuArray):
                tensors[flow.number] = array.data
            else:
                tensors[flow.number] = _buffer(flow, rows, array.shape[1:], space)
        for step in self._half.steps:
            for flow in step.writes:
                if rows and is_view(step):
                    tensors[flow.number] = tensors[step.reads[0].number].reshape(rows, *flow.dims)
                else:
                    tensors[flow.number] = _buffer(flow, rows, flow.dims, space)
        tensors[_FLAWS] = (
            space.buffer(_FLAWS, rows, (), np.dtype(np.int64)) if rows else empty((0,), np.dtype(np.int64))
        )
        return tensors

    def _launch(
        self, uploads: Sequence[tuple[int, Array]], tensors: dict[int, Any], rows: int, space: Workspace
    ) -> None:
        row_bytes = sum(array.nbytes for _, array in uploads) // max(1, rows)
        for stream, begin, end in space.streams.chunks(rows, row_bytes):
            parts = tensors
            if end - begin < rows:
                parts = {number: tensor[begin:end] if tensor.size else tensor for number, tensor in tensors.items()}
            for number, array in uploads:
                upload(array[begin:end], parts[number], stream)
            if self._can_refuse:
                upload(space.unflawed(end - begin), parts[_FLAWS], stream)
            for stage in self._stages:
                stage.launch(stream, parts, parts[_FLAWS])

    def _check_flaws(self, tensors: dict[int, Any], rows: int) -> None:
        flaws = tensors[_FLAWS].copy_to_host()[:rows]
        if not flaws.any():
            return
        reasons, left = {}, NUMBERS_MAX
        for row in np.flatnonzero(flaws).tolist():
            each = self._passes[int(flaws[row]) - 1]
            values = tensors[each.reads[0].number][row : row + 1].copy_to_host()[0]
            reasons[row] = explanation(each, np.asarray(values), left)
            left -= values.size
        raise RefusedRowsError(reasons)


def _buffer(flow: Flow, rows: int, dims: Sequence[int], space: Workspace) -> Any:
    dtype = flow.spec.datatype.dtype
    return space.buffer(flow.number, rows, dims, dtype) if rows else empty((0, *dims), dtype)
