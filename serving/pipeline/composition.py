"""From the declarations of a pipeline to checked steps: which tensor goes where, with which datatype and shape.

Preprocessing begins with what the client sends and must end with what the model takes; postprocessing begins with what
the model gives. A name stands for the tensor that was written last under it. The client's signature follows. Nothing
runs here, and nothing is compiled.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from serving.config import PipelineConfig, Table, nearest
from serving.errors import LoadError
from serving.pipeline.catalogue import FURTHER_NAMES, NATURAL, OF_SEVERAL, POSTPROCESS, PREPROCESS, Builder
from serving.pipeline.files import Files
from serving.pipeline.parameters import Parameters, declared
from serving.pipeline.step import ROW_BYTES_MAX, Draft, Flow, Half, Step
from serving.types import DYNAMIC, Datatype, Signature, TensorSpec

STEPS_MAX = 256


@dataclass(frozen=True, slots=True)
class Composition:
    """Both halves, and the signature that clients see.

    `lengths` are the positions of inputs whose rows' lengths follow the model's outputs into `after`.
    """

    signature: Signature
    before: Half
    after: Half
    lengths: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What steps may know besides their tensors: the files beside the graph, and whether Python of them may run."""

    files: Files
    allow_user_code: bool = False


def compose(config: PipelineConfig, model: Signature, surroundings: Surroundings) -> Composition:
    """Check a declaration against a model's signature. Raises LoadError."""
    if not model.batchable:
        raise LoadError("[pipeline] needs a model whose inputs and outputs have rows as an open first dimension")
    if len(config.preprocess) + len(config.postprocess) > STEPS_MAX:
        raise LoadError(f"[pipeline] has more than {STEPS_MAX} steps")
    before = _before(config, model, surroundings)
    inputs = tuple(flow.spec for flow in before.given)
    flows = _after(config, model, surroundings, inputs)
    after = _answering(config, flows)
    outputs = tuple(replace(flow.spec, is_ragged=flow.is_ragged) for flow in after.results)
    lengths = tuple(inputs.index(spec) for spec in flows.measured)
    return Composition(Signature(inputs, outputs, batchable=True), before, after, lengths)


def _before(config: PipelineConfig, model: Signature, surroundings: Surroundings) -> Half:
    flows = _Flows(PREPROCESS, "preprocess", surroundings)
    known = {spec.name: spec for spec in model.inputs}
    for spec in map(declared, config.inputs):
        if spec.name in flows.unread:
            raise LoadError(f"[[pipeline.inputs]] '{spec.name}' is there twice")
        flows.give(spec)
    for table in config.preprocess:
        for name in _names_read(table):
            natural = NATURAL.get(str(table.get("step")))
            found = known.get(name) if natural is None else replace(natural, name=name)
            if name not in flows.named and found is not None:
                flows.give(found)
        flows.add(table)
    for spec in model.inputs:  # what no step has written comes as the client sends it
        if spec.name not in flows.named:
            flows.give(spec)
    results = tuple(flows.named[spec.name] for spec in model.inputs)
    for flow, spec in zip(results, model.inputs, strict=True):
        _check_fits(flow, spec)
    if unread := flows.unread - {flow.spec.name for flow in results if flow in flows.given}:
        raise LoadError(f"[[pipeline.inputs]] '{min(unread)}' is read by no step")
    return Half(tuple(flows.given), tuple(flows.steps), results)


def _after(
    config: PipelineConfig, model: Signature, surroundings: Surroundings, inputs: Sequence[TensorSpec]
) -> "_Flows":
    """Add the steps behind the model; lengths of rows that they need are given behind its outputs."""
    flows = _Flows(POSTPROCESS, "postprocess", surroundings, {spec.name: spec for spec in inputs if spec.is_ragged})
    for spec in model.outputs:
        flows.give(spec)
    for table in config.postprocess:
        flows.add(table)
    return flows


def _answering(config: PipelineConfig, flows: "_Flows") -> Half:
    """Choose what is answered."""
    if not config.outputs:
        return Half(tuple(flows.given), tuple(flows.steps), tuple(flows.unconsumed()))
    for name in config.outputs:
        if name not in flows.named:
            raise LoadError(f"[pipeline] outputs: there is no tensor '{name}'{nearest(name, flows.named)}")
    if len(set(config.outputs)) != len(config.outputs):
        raise LoadError("[pipeline] outputs: a name is there twice")
    return Half(tuple(flows.given), tuple(flows.steps), tuple(flows.named[name] for name in config.outputs))


class _Flows:
    """The tensors of one half as its steps are added."""

    def __init__(
        self, catalogue: Mapping[str, Builder], key: str, surroundings: Surroundings,
        measurable: Mapping[str, TensorSpec] | None = None,
    ) -> None:  # fmt: skip
        self.measured: list[TensorSpec] = []
        self._lengths: dict[str, Flow] = {}
        self._measurable = measurable or {}
        self.named: dict[str, Flow] = {}
        self.given: list[Flow] = []
        self.steps: list[Step] = []
        self.unread: set[str] = set()
        self._read: set[Flow] = set()
        self._catalogue = catalogue
        self._key = key
        self._surroundings = surroundings
        self._numbers = itertools.count()

    def give(self, spec: TensorSpec) -> None:
        """Begin with a tensor."""
        _check_row(spec, f"[pipeline] '{spec.name}'")
        flow = self.named[spec.name] = Flow(spec, next(self._numbers), spec.is_ragged)
        self.given.append(flow)
        self.unread.add(spec.name)

    def unconsumed(self) -> Iterator[Flow]:
        """Return the tensors that no step has read."""
        return (flow for flow in self.named.values() if flow not in self._read)

    def add(self, table: Table) -> None:
        """Add one declared step. Raises LoadError."""
        place = f"[[pipeline.{self._key}]]"
        step = table.get("step")
        if not isinstance(step, str):
            raise LoadError(f"{place} has no step, expected one of {', '.join(sorted(self._catalogue))}")
        if step not in self._catalogue:
            raise LoadError(f"{place} unknown step '{step}'{nearest(step, self._catalogue)}")
        names = _names_read(table)
        where = f"{place} {step} of {', '.join(map(repr, names)) or 'nothing'}"
        parameters = Parameters(
            table, where, self._surroundings.files, allow_user_code=self._surroundings.allow_user_code
        )
        for key in ("step", "input", "inputs", "output", "outputs"):
            parameters.has(key)
        reads = [self._find(name, parameters) for name in names]
        if not reads:
            raise parameters.error("input is missing, expected the name of a tensor")
        if len(reads) > 1 and step not in OF_SEVERAL:
            raise parameters.error(f"{len(reads)} inputs are named, expected one")
        taken = [*reads, self._lengths_of(parameters)] if step == "cut" else reads
        draft = self._catalogue[step](parameters, taken)
        parameters.finish()
        self._append(step, draft, reads, parameters)

    def _lengths_of(self, parameters: Parameters) -> Flow:
        """Return the lengths of the rows of the input that a step names by `like`."""
        name = parameters.text("like")
        if name not in self._measurable:
            raise parameters.error(f"like = {name!r}, expected the name of an input declared with ragged = true")
        if name not in self._lengths:
            spec = TensorSpec(f"lengths of '{name}'", Datatype.INT64, (DYNAMIC,))
            self._lengths[name] = Flow(spec, next(self._numbers))
            self.given.append(self._lengths[name])
            self.measured.append(self._measurable[name])
        return self._lengths[name]

    def _find(self, name: str, parameters: Parameters) -> Flow:
        if name not in self.named:
            hint = "; declare it in [[pipeline.inputs]]" if self._key == "preprocess" else ""
            raise parameters.error(
                f"there is no tensor '{name}'{nearest(name, self.named) if self.named else ''}{hint}"
            )
        if self._key == "postprocess" and self.named[name].is_ragged:
            raise parameters.error(f"the rows of '{name}' were cut, and no step takes them then; let it be cut last")
        self.unread.discard(name)
        return self.named[name]

    def _append(self, step: str, draft: Draft, reads: Sequence[Flow], parameters: Parameters) -> None:
        """Add the step, or the chain of steps, that a draft is; name what the last one wrote."""
        written: list[Flow] = []
        link: Draft | None = draft
        taken = tuple(draft.reads or reads)
        self._read.update(reads)
        while link is not None:
            dims = link.follow([flow.dims for flow in taken])
            specs = [TensorSpec("", kind, (DYNAMIC, *each)) for kind, each in zip(link.datatypes, dims, strict=True)]
            for spec in specs:
                _check_row(spec, parameters.where)
            writes = tuple(
                Flow(replace(spec, name=reads[0].spec.name), next(self._numbers), link.is_ragged) for spec in specs
            )
            self.steps.append(Step(step, taken, writes, link.work, link.follow, link.complaint))
            written[-1:] = writes[: len(writes) - link.scratch]
            link = link.then
            if link is not None:
                taken = (written[-1], *(link.reads or ()))
        for name, flow in zip(_names_written(step, parameters, reads, len(written)), written, strict=True):
            self._rename(flow, name)

    def _rename(self, flow: Flow, name: str) -> None:
        named = replace(flow, spec=replace(flow.spec, name=name))
        self.named[name] = named
        self.steps = [
            replace(step, writes=tuple(named if item == flow else item for item in step.writes))
            if flow in step.writes else step
            for step in self.steps
        ]  # fmt: skip


def _names_read(table: Table) -> list[str]:
    """Return what a step's declaration says that it reads."""
    names = table.get("inputs", table.get("input", []))
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise LoadError(f"[pipeline] input = {names!r}, expected the name of a tensor")
    for one, several in (("input", "inputs"), ("output", "outputs")):
        if one in table and several in table:
            raise LoadError(f"[pipeline] a step has both {one} and {several}, expected one of them")
    return names


def _names_written(step: str, parameters: Parameters, reads: Sequence[Flow], count: int) -> list[str]:
    if parameters.has("outputs"):
        names = list(parameters.names("outputs"))
    else:
        first = parameters.text("output", reads[0].spec.name)
        names = [first, *FURTHER_NAMES.get(step, ())]
    if len(names) != count or len(set(names)) != count or not all(names):
        raise parameters.error(f"outputs = {names}, expected {count} names that differ")
    return names


def _check_row(spec: TensorSpec, where: str) -> None:
    """Refuse rows that no server has memory for, before one is made."""
    row_bytes = math.prod(length for length in spec.shape[1:] if length != DYNAMIC) * spec.datatype.item_bytes
    if row_bytes > ROW_BYTES_MAX:
        raise LoadError(f"{where}: a row takes {row_bytes} bytes, expected at most {ROW_BYTES_MAX}")


def _check_fits(flow: Flow, spec: TensorSpec) -> None:
    """Check what preprocessing gives against what the model takes."""
    if flow.is_ragged:
        raise LoadError(f"[pipeline] '{spec.name}' has rows of different shapes at the end; bring them to one shape")
    if flow.spec.is_binary:
        raise LoadError(f"[pipeline] '{spec.name}' is binary, and the model takes text; a step must read it")
    datatype = flow.spec.datatype
    if datatype is not spec.datatype:
        raise LoadError(
            f"[pipeline] preprocessing makes '{spec.name}' {datatype.wire_name}, the model takes "
            f"{spec.datatype.wire_name}; add a cast"
        )
    fits = len(flow.spec.shape) == len(spec.shape) and all(
        theirs == DYNAMIC or ours in {theirs, DYNAMIC} for ours, theirs in zip(flow.spec.shape, spec.shape, strict=True)
    )
    if not fits:
        raise LoadError(
            f"[pipeline] preprocessing makes '{spec.name}' {list(flow.spec.shape)}, "
            f"the model takes {list(spec.shape)} where -1 is any length"
        )
