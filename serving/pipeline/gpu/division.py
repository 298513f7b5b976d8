"""Which steps of a half run on the GPU, next to the model, and which tensors go over the bus. Pure.

Before the model these are the last steps, behind it the first ones, as far as all of them can run there: so a batch
goes over the bus once in each direction.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from serving.pipeline.step import Flow, Half, Step


@dataclass(frozen=True, slots=True)
class Division:
    """A half in two: before the model what `host` gives is what `gpu` is given, behind it the other way round.

    Of what the model gives, `gpu` is given what its steps read, and `host` what else it needs, by itself.
    """

    host: Half
    gpu: Half


def before(half: Half, can_run: Callable[[Step], bool]) -> Division:
    """Divide what runs before the model. All that the model takes is a result of the GPU's part."""
    wanted: dict[int, list[bool]] = {}  # of each tensor: whether those who read it are on the GPU
    is_there = [False] * len(half.steps)
    for index in reversed(range(len(half.steps))):
        step = half.steps[index]
        is_there[index] = can_run(step) and all(all(wanted.get(flow.number, ())) for flow in step.writes)
        for flow in step.reads:
            wanted.setdefault(flow.number, []).append(is_there[index])
    mine, others = _shared_out(half.steps, is_there)
    taken = _not_written_by(mine, (*_read_by(mine), *half.results))
    return Division(Half(half.given, others, taken), Half(taken, mine, half.results))


def after(half: Half, can_run: Callable[[Step], bool]) -> Division:
    """Divide what runs behind the model. All that is answered is a result of the host's part."""
    there = {flow.number for flow in half.given}
    is_there = []
    for step in half.steps:
        is_there.append(can_run(step) and all(flow.number in there for flow in step.reads))
        if is_there[-1]:
            there |= {flow.number for flow in step.writes}
        else:
            there -= {flow.number for flow in step.writes}
    mine, others = _shared_out(half.steps, is_there)
    taken = _not_written_by(others, (*_read_by(others), *half.results))
    written = {flow.number for step in mine for flow in step.writes}
    results = tuple(flow for flow in taken if flow.number in written)
    return Division(Half(taken, others, half.results), Half(_not_written_by(mine, _read_by(mine)), mine, results))


def _shared_out(steps: Sequence[Step], is_there: Sequence[bool]) -> tuple[tuple[Step, ...], tuple[Step, ...]]:
    """Return the steps of the GPU, and the others."""
    pairs = list(zip(steps, is_there, strict=True))
    return tuple(step for step, mine in pairs if mine), tuple(step for step, mine in pairs if not mine)


def _read_by(steps: Iterable[Step]) -> tuple[Flow, ...]:
    return tuple(flow for step in steps for flow in step.reads)


def _not_written_by(steps: Iterable[Step], flows: Iterable[Flow]) -> tuple[Flow, ...]:
    """Return flows, each once, in their order, without those that these steps write."""
    written = {flow.number for step in steps for flow in step.writes}
    return tuple({flow.number: flow for flow in flows if flow.number not in written}.values())
