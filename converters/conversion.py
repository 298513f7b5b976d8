"""From a trained model to a graph that is proved to answer as the model does.

`convert` is the one way in: find the framework, draft a graph, open its batch dimension, pin it to the target, hold it
to parity, apply the passes that were asked for and hold what they made to parity again. Knows neither files nor
packages.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import onnx
import onnxruntime as ort

from converters import graph
from converters.draft import Draft, Kind
from converters.frameworks import framework_of
from converters.parity.gate import Settings, judge
from converters.parity.report import ParityError, ParityReport
from converters.passes import apply, tolerance_after
from converters.passes.trials import Trial, recommendation
from converters.runner import Runner, one_line
from converters.sample import Sample, Tensors
from converters.target import OLDEST, Target, pin
from serving import __version__
from serving.errors import ConfigError
from serving.types import DYNAMIC, Datatype, Signature, TensorSpec

Progress = Callable[[str], None]
"""Told what begins, in a few words."""
FACT_CHARACTERS_MAX = 16_384
_BATCH_ROWS = 256


def silent(_: str) -> None:
    """Show no progress."""


@dataclass(frozen=True, slots=True)
class Conversion:
    """A graph that passed, and what is known about it. `trials` holds timings and so never enters a package."""

    draft: Draft
    graph: bytes
    report: ParityReport
    target: Target
    sample_digest: str
    passes: tuple[str, ...] = ()
    trials: tuple[Trial, ...] = field(default=())

    @property
    def framework(self) -> str:
        """The framework and its version."""
        versions = ", ".join(f"{name} {version}" for name, version in self.draft.versions.items())
        return versions or self.draft.framework

    @property
    def signature(self) -> Signature:
        """What the graph takes and gives."""
        return signature_of(graph.load(self.graph))

    def cast_sample(self, rows_max: int) -> tuple[Tensors, Tensors]:
        """Return the first rows of the sample as the graph takes them, and the graph's answers."""
        runner = Runner(self.graph)
        inputs = runner.cast({name: item[:rows_max] for name, item in self.draft.exact.items()})
        return inputs, runner.run_in_batches(inputs, _BATCH_ROWS)


def convert(
    model: Any,
    sample: Any,
    *,
    target: Target = OLDEST,
    passes: Sequence[str] = (),
    recommend: bool = False,
    kind: Kind | None = None,
    settings: Settings = Settings(),  # noqa: B008 - frozen
    progress: Progress = silent,
) -> Conversion:
    """Convert a model and prove it on a sample of its rows.

    `sample` is what `Sample.of` takes. `passes` are applied in their order; with `recommend` each known pass is tried
    besides, and the result says which are worth it. `kind` overrules which tolerance the model is held to.
    Raises ConfigError for a model that cannot be converted, and ParityError, which carries the report, for a graph
    that answers otherwise than its framework.
    """
    rows = Sample.of(sample)
    framework = framework_of(model)
    progress(f"convert a model of {framework.name} on {rows.rows} rows")
    draft = framework.load()(model, rows, target)
    draft = replace(draft, kind=kind or draft.kind)
    plain = _finished(draft, target, ())
    progress("compare its answers")
    report = judge(draft, plain, settings)
    if not report.passed:
        raise ParityError(report)
    result = Conversion(draft, plain, report, target, rows.digest())
    result = _with_passes(result, passes, settings, progress)
    if recommend:
        result = replace(result, trials=result.trials + recommendation(result, settings, progress))
    return result


def _with_passes(plain: Conversion, passes: Sequence[str], settings: Settings, progress: Progress) -> Conversion:
    """Apply passes in their order, and hold what they made to parity."""
    if not passes:
        return plain
    made = plain.graph
    for name in passes:
        progress(f"apply {name}")
        made = apply(name, made, plain.draft.exact, target=plain.target, seed=settings.seed)
    made = _finished(replace(plain.draft, model=graph.load(made)), plain.target, tuple(passes))
    report = judge(plain.draft, made, settings, tolerance=tolerance_after(passes, settings, plain.draft.kind))
    if not report.passed:
        raise ParityError(report)
    progress("measure it beside the graph without passes")
    trial = Trial.of(tuple(passes), plain, made, report)
    return replace(plain, graph=made, report=report, passes=tuple(passes), trials=(trial,))


def _finished(draft: Draft, target: Target, passes: tuple[str, ...]) -> bytes:
    """Return the file of a graph: rows open, versions pinned, small facts written, checked."""
    model = draft.model
    graph.open_rows(model)
    pin(model, target)
    graph.set_metadata(model, facts_of(draft, passes))
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise ConfigError(f"the converted graph breaks a rule of ONNX: {one_line(error)}") from None
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def facts_of(draft: Draft, passes: tuple[str, ...]) -> Mapping[str, str]:
    """Return what a bare file should say about itself; lists that would be long are left to the package."""
    facts = {
        "penstock.version": __version__,
        "penstock.framework": draft.framework,
        "penstock.versions": json.dumps(draft.versions, sort_keys=True),
        "penstock.passes": ",".join(passes),
        "penstock.labels": json.dumps(draft.labels) if draft.labels else "",
        "penstock.features": json.dumps(draft.feature_names) if draft.feature_names else "",
    }
    return {name: value for name, value in facts.items() if value and len(value) <= FACT_CHARACTERS_MAX}


def signature_of(model: Any) -> Signature:
    """Return the signature of a graph in the protocol's words."""
    inputs, outputs = (tuple(map(_spec, values)) for values in (graph.graph_inputs(model), model.graph.output))
    batchable = bool(inputs) and all(spec.shape and spec.shape[0] == DYNAMIC for spec in inputs + outputs)
    return Signature(inputs, outputs, batchable)


def runtime_versions() -> dict[str, str]:
    """Return the versions that have a say in every conversion."""
    return {"penstock": __version__, "onnx": onnx.__version__, "onnxruntime": ort.__version__}


_DATATYPES = {
    onnx.TensorProto.BOOL: Datatype.BOOL,
    onnx.TensorProto.UINT8: Datatype.UINT8,
    onnx.TensorProto.UINT16: Datatype.UINT16,
    onnx.TensorProto.UINT32: Datatype.UINT32,
    onnx.TensorProto.UINT64: Datatype.UINT64,
    onnx.TensorProto.INT8: Datatype.INT8,
    onnx.TensorProto.INT16: Datatype.INT16,
    onnx.TensorProto.INT32: Datatype.INT32,
    onnx.TensorProto.INT64: Datatype.INT64,
    onnx.TensorProto.FLOAT16: Datatype.FP16,
    onnx.TensorProto.FLOAT: Datatype.FP32,
    onnx.TensorProto.DOUBLE: Datatype.FP64,
    onnx.TensorProto.STRING: Datatype.BYTES,
    onnx.TensorProto.BFLOAT16: Datatype.BF16,
}


def _spec(value: Any) -> TensorSpec:
    datatype = _DATATYPES.get(value.type.tensor_type.elem_type)
    if datatype is None:
        raise ConfigError(f"'{value.name}' is no tensor that the protocol can carry")
    dims = value.type.tensor_type.shape.dim
    return TensorSpec(value.name, datatype, tuple(d.dim_value if d.HasField("dim_value") else DYNAMIC for d in dims))
