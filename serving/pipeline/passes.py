"""Which steps run together: a pass goes through the memory of a batch once. Pure.

A chain of element-wise steps whose tensors nobody else reads is one pass. So is a chain of steps that a library does
row by row. Passes keep the order of the steps that begin them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from serving.pipeline.step import Element, Flow, Half, Kernel, PerRow, Step


@dataclass(frozen=True, slots=True)
class Pass:
    """Steps that go through the batch together; what lies between them is never written to memory."""

    steps: tuple[Step, ...]

    @property
    def reads(self) -> tuple[Flow, ...]:
        """What the first step reads."""
        return self.steps[0].reads

    @property
    def writes(self) -> tuple[Flow, ...]:
        """What the last step writes."""
        return self.steps[-1].writes

    @property
    def is_compiled(self) -> bool:
        """Whether numba compiles it."""
        return isinstance(self.steps[0].work, Element | Kernel)


def passes_of(half: Half) -> list[Pass]:
    """Group the steps of one half."""
    readers: dict[int, int] = {}
    for flow in (*(flow for step in half.steps for flow in step.reads), *half.results):
        readers[flow.number] = readers.get(flow.number, 0) + 1
    chains: list[list[Step]] = []
    ends: dict[int, list[Step]] = {}  # the chain whose last step writes a tensor
    for step in half.steps:
        chain = ends.get(step.reads[0].number) if len(step.reads) == 1 else None
        if chain is not None and readers[step.reads[0].number] == 1 and _go_together(chain[-1], step):
            chain.append(step)
        else:
            chain = [step]
            chains.append(chain)
        for flow in step.writes:
            ends[flow.number] = chain
    return [Pass(tuple(chain)) for chain in chains]


def stages_of(passes: Sequence[Pass]) -> list[list[Pass]]:
    """Put neighbours that are compiled together: each such group is one function."""
    stages: list[list[Pass]] = []
    for each in passes:
        if stages and each.is_compiled and stages[-1][0].is_compiled:
            stages[-1].append(each)
        else:
            stages.append([each])
    return stages


def _go_together(first: Step, second: Step) -> bool:
    """Say whether two steps, one behind the other, can be one pass."""
    kinds = type(first.work), type(second.work)
    return kinds in {(Element, Element), (PerRow, PerRow)} and len(first.writes) == 1
