"""What a servable holds of its pipeline: two programs, the signature that clients see, and a report.

    preprocess -> the model runs -> postprocess

It is called on the assembled batch, by an instance thread or on the I/O thread. Compiled code gives up the GIL.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from serving.config import PipelineConfig
from serving.pipeline.composition import Surroundings, compose
from serving.pipeline.passes import Pass
from serving.pipeline.program import Program
from serving.pipeline.step import Flow, Half, Host, Kernel, PerRow, Work
from serving.tensors import whole
from serving.types import Array, Signature

if TYPE_CHECKING:
    from serving.gpu.device import Gpu


class Space(Protocol):
    """What one run at a time of a program writes to, and what its runs have measured: see `program.Workspace`."""

    @property
    def rows(self) -> int:
        """How many rows its runs had."""

    @property
    def ticks(self) -> Any:
        """The nanoseconds of each pass over all runs."""


class Runs(Protocol):
    """One half of a pipeline, compiled: for the CPU alone, or for a GPU as well. `places` says where each pass runs."""

    passes: list[Pass]
    places: list[str]

    def workspace(self) -> Any:
        """Return buffers for one run at a time."""

    def run(self, given: Sequence[Array], workspace: Any, *, is_strict: bool = True) -> list[Array]:
        """Compute the results of a batch: see `program.Program`."""


@dataclass(frozen=True, slots=True)
class Buffers:
    """What one run at a time writes to."""

    before: Space
    after: Space


class Pipeline:
    """Pre- and postprocessing of one servable. Raises LoadError when its declaration does not fit the model.

    Thread-safe: a `runner` runs one batch at a time, and has buffers of its own. What `preprocess`
    returns is overwritten by its next run, what `postprocess` returns is not. With a `gpu`, steps next to the model run
    there as far as they can: then `preprocess` returns tensors in its memory, and `postprocess` takes such.
    """

    def __init__(
        self, config: PipelineConfig, model: Signature, surroundings: Surroundings, *, gpu: "Gpu | None" = None
    ) -> None:
        composed = compose(config, model, surroundings)
        self.signature = composed.signature
        self._measured = composed.lengths
        self._before, self._after = _programs(composed.before, composed.after, gpu)
        self._buffers: dict[object, Buffers] = {}
        self.reads_on_gpu = "gpu" in self._after.places  # what the model gives
        steps = (*composed.before.steps, *composed.after.steps)
        self.has_ragged_answers = any(spec.is_ragged for spec in self.signature.outputs)
        self.is_quick = all(_is_quick(step.work) for step in steps)

    def preprocess(self, inputs: Sequence[Array], runner: object, *, is_strict: bool = True) -> list[Array]:
        """Turn what clients sent, in the order of `signature`, into what the model takes. Raises RefusedRowsError."""
        return self._before.run(inputs, self._buffers_of(runner).before, is_strict=is_strict)

    def postprocess(self, outputs: Sequence[Array], runner: object, given: Sequence[Array]) -> list[Array]:
        """Turn what the model gave into answers; `given` are the inputs of `preprocess`.

        Raises ValueError when that is not what the model said it gives.
        """
        lengths = [np.fromiter(map(len, given[index]), np.int64, len(given[index])) for index in self._measured]
        return self._after.run([*outputs, *lengths], self._buffers_of(runner).after, is_strict=False)

    def answered(self, rows: Sequence[Array]) -> list[Array]:
        """Return rows of the answers, those of one request, as tensors: where they have shapes of their own as well."""
        specs = self.signature.outputs
        return [whole(array, spec) if spec.is_ragged else array for array, spec in zip(rows, specs, strict=True)]

    def _buffers_of(self, runner: object) -> Buffers:
        buffers = self._buffers.get(runner)
        if buffers is None:
            buffers = self._buffers[runner] = Buffers(self._before.workspace(), self._after.workspace())
        return buffers

    def report(self) -> list[dict[str, Any]]:
        """Return a line per pass: its steps, the tensors it reads and writes, and nanoseconds per row so far."""
        every = list(self._buffers.values())
        lines: list[dict[str, Any]] = []
        for when, program, spaces in (
            ("before", self._before, [buffers.before for buffers in every]),
            ("after", self._after, [buffers.after for buffers in every]),
        ):
            rows = sum(space.rows for space in spaces)
            for index, (each, place) in enumerate(zip(program.passes, program.places, strict=True)):
                ns = sum(int(space.ticks[index]) for space in spaces)
                lines.append(
                    {
                        "when": when,
                        "steps": [step.name for step in each.steps],
                        "runs_on": place,
                        "compiled": each.is_compiled or place == "gpu",
                        "reads": [_described(flow) for flow in each.reads],
                        "writes": [_described(flow) for flow in each.writes],
                        "rows": rows,
                        "ns_per_row": round(ns / rows, 1) if rows else None,
                    }
                )
        return lines


def _programs(before: Half, after: Half, gpu: "Gpu | None") -> tuple[Runs, Runs]:
    """Compile both halves."""
    if gpu is None:
        return Program(before, outlive=False), Program(after, outlive=True)
    from serving.pipeline.gpu.program import BeforeModel, BehindModel  # noqa: PLC0415 - brings numba.cuda

    return BeforeModel(before, gpu), BehindModel(after, gpu)


def _is_quick(work: Work) -> bool:
    """Say whether work may run on the I/O thread."""
    if isinstance(work, Kernel):
        return work.is_trusted
    return not isinstance(work, PerRow) and (not isinstance(work, Host) or work.is_quick)


def _described(flow: Flow) -> str:
    shape = "[rows of their own shapes]" if flow.is_ragged else list(flow.spec.shape)
    return f"{flow.spec.name} {flow.spec.datatype.wire_name} {shape}"
