"""A ready .onnx: checked, ZipMap taken off, its first dimension opened; held to its own answers before that."""

from typing import Any

import numpy as np
import onnx

from converters import graph
from converters.draft import Draft, Output
from converters.parity.thresholds import has_trees
from converters.runner import Runner, one_line, quiet, rows_of
from converters.sample import MATRIX, Array, Sample, Tensors
from converters.target import Target, pin
from serving.errors import ConfigError
from serving.tables.cells import as_datatype
from serving.types import Datatype

_TRIED_ROWS = 5
_DATATYPES = {datatype.dtype: datatype for datatype in Datatype if datatype is not Datatype.BF16}


def draft(model: Any, sample: Sample, target: Target) -> Draft:
    """Take over a graph. Raises ConfigError for one that breaks a rule, is too new, or whose rows cannot be opened."""
    _check(model)
    original = onnx.ModelProto()
    original.CopyFrom(model)
    pin(original, target)
    labels = graph.strip_zipmap(original)
    exact = _inputs(original, sample)
    opened = onnx.ModelProto()
    opened.CopyFrom(original)
    notes = []
    if graph.open_rows(opened):
        _check_opened(original, opened, exact)
        notes.append("the number of rows was fixed in the graph; it was opened, and answers stay the same")
    if labels:
        notes.append("ZipMap was taken off; the classes are in the metadata")
    runner = Runner(original.SerializeToString())
    rows = _fixed_rows(original)

    def answer(tensors: Tensors) -> Tensors:
        cast = runner.cast(tensors)
        return runner.run_in_batches(cast, rows) if rows else runner.run(cast)

    return Draft(
        model=opened,
        framework="ONNX",
        versions={model.producer_name: model.producer_version} if model.producer_name else {},
        exact=exact,
        outputs=tuple(output_of(value, has_labels=bool(labels)) for value in opened.graph.output),
        answer=answer,
        kind="trees" if has_trees(opened) else "numeric",
        labels=labels,
        feature_names=tuple(sample.arrays) if sample.is_table and len(exact) == 1 else (),
        notes=tuple(notes),
    )


def output_of(value: Any, *, has_labels: bool = False) -> Output:
    """Return what an output of a graph is: whole numbers and strings of one dimension are taken for labels."""
    kind = value.type.tensor_type
    whole = kind.elem_type in {onnx.TensorProto.INT64, onnx.TensorProto.INT32, onnx.TensorProto.STRING}
    if whole and len(kind.shape.dim) <= 1:
        return Output(value.name, "label")
    return Output(value.name, "scores" if has_labels else "values")


def _check(model: Any) -> None:
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise ConfigError(f"the file breaks a rule of ONNX: {one_line(error)}") from None


def _inputs(model: Any, sample: Sample) -> Tensors:
    """Match the sample with the inputs of the graph: by name, or the one matrix with the one input."""
    dtypes = graph.input_dtypes(model)
    names = list(dtypes)
    if not names:
        raise ConfigError("the graph has no inputs, so there is nothing to serve")
    if all(name in sample.arrays for name in names):
        return {name: _fitted(name, _column(model, name, sample), dtypes[name]) for name in names}
    if len(names) == 1:
        return {names[0]: _fitted(names[0], sample.matrix(), dtypes[names[0]])}
    given = ", ".join(sample.arrays) if list(sample.arrays) != [MATRIX] else "one matrix"
    raise ConfigError(f"the graph takes {', '.join(names)}, and the sample has {given}; name its arrays or columns so")


def _column(model: Any, name: str, sample: Sample) -> Any:
    """Return a column with the dimensions that its input has."""
    item = sample.arrays[name]
    (value,) = (value for value in graph.graph_inputs(model) if value.name == name)
    dims = len(value.type.tensor_type.shape.dim)
    return item[:, None] if item.ndim == 1 and dims == 2 else item


def _fitted(name: str, item: Array, dtype: "np.dtype[Any]") -> Array:
    """Give an input the whole numbers, flags or words that it takes; floats keep their precision.

    The graph is held to its own answers, so numbers that a cast bends would be bent on both sides and pass.
    """
    if dtype.kind == "f" and item.dtype != np.object_:
        return item
    return as_datatype(item, _DATATYPES[dtype], column=name, start=0)


def _fixed_rows(model: Any) -> int:
    """Return the number of rows that a graph insists on, 0 when it takes any."""
    for value in graph.graph_inputs(model):
        dims = value.type.tensor_type.shape.dim
        if dims and dims[0].HasField("dim_value"):
            return int(dims[0].dim_value)
    return 0


def _check_opened(original: Any, opened: Any, exact: Tensors) -> None:
    """Refuse to open the rows of a graph that then answers otherwise than row by row."""
    fixed = _fixed_rows(original)
    if fixed > 1:
        raise ConfigError(f"the graph takes exactly {fixed} rows at a time; export it with an open first dimension")
    rows = rows_of(exact, slice(0, _TRIED_ROWS))
    with quiet():
        before = Runner(original.SerializeToString())
        one_by_one = before.run_in_batches(before.cast(rows), 1)
        try:
            after = Runner(opened.SerializeToString())
            together = after.run(after.cast(rows))
            same = all(_same(item, together[name]) for name, item in one_by_one.items())
        except Exception:
            same = False
    if not same:
        raise ConfigError(
            "the graph was exported for one row at a time, and opening its first dimension changes what it computes; "
            "export it again with an open batch dimension (dynamic_shapes of torch.onnx.export)"
        )


def _same(one: Array, other: Array) -> bool:
    if one.shape != other.shape or one.dtype.kind != "f":
        return np.array_equal(one, other)
    return bool(np.allclose(one, other, rtol=1e-3, atol=1e-4, equal_nan=True))
