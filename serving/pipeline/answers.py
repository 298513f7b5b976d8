"""The steps that turn a model's outputs into answers. Builders of drafts; nothing here runs anything."""

from collections.abc import Sequence

import numpy as np

from serving.pipeline import elements, exponentials, kernels
from serving.pipeline.parameters import Parameters
from serving.pipeline.step import Draft, Element, Flow, Follow, Host, Kernel, per_vector, places, rows_of, same, vectors
from serving.pipeline.tabular import FLOATS, NUMBERS, columns
from serving.types import Array, Datatype


def softmax(parameters: Parameters, reads: Sequence[Flow]) -> Draft:
    """Turn scores into probabilities, over the last dimension."""
    datatype = _float(parameters, reads[0])
    return Draft(Kernel(kernels.softmax, (vectors, vectors)), (datatype,), same)


def sigmoid(parameters: Parameters, reads: Sequence[Flow]) -> Draft:
    """Turn each score into a probability: 1 / (1 + exp(-x))."""
    datatype = _float(parameters, reads[0])
    smooth = exponentials.sigmoid_32 if datatype is Datatype.FP32 else exponentials.sigmoid_64
    return Draft(Element(elements.sigmoid, datatype, smooth=smooth), (datatype,), same)


def threshold(parameters: Parameters, reads: Sequence[Flow]) -> Draft:
    """Say, as BOOL, whether each number is at least `minimum`: one for all columns, or one for each."""
    datatype = _float(parameters, reads[0])
    minimum = parameters.numbers("minimum", None, columns(reads[0]), datatype)
    return Draft(Element(elements.threshold, datatype, (minimum,)), (Datatype.BOOL,), same)


def l2_normalise(parameters: Parameters, reads: Sequence[Flow]) -> Draft:
    """Bring each vector, along the last dimension, to length 1; one of zeros stays."""
    datatype = _float(parameters, reads[0])
    return Draft(Kernel(kernels.l2_normalise, (vectors, vectors)), (datatype,), same)


def argmax(parameters: Parameters, reads: Sequence[Flow]) -> Draft:
    """Say where the highest number of each vector stands, as INT64, or which of `labels` that is, as BYTES."""
    _numbers(parameters, reads[0])
    width = _width(parameters, reads[0])
    work = Kernel(kernels.argmax, (vectors, per_vector))
    labels = parameters.labels(width)
    draft = Draft(work, (Datatype.INT64,), lambda dims: (dims[0][:-1],))
    return draft if labels is None else _with(draft, _labelled(labels))


def top_k(parameters: Parameters, reads: Sequence[Flow]) -> Draft:
    """Give the `k` highest numbers of each vector, and where they stand, as INT64, or their `labels`, as BYTES."""
    datatype = _numbers(parameters, reads[0])
    width = _width(parameters, reads[0])
    count = parameters.whole("k", maximum=width)
    labels = parameters.labels(width)
    work = Kernel(kernels.top_k, (vectors, vectors, vectors))
    draft = Draft(work, (datatype, Datatype.INT64), _top(count))
    return draft if labels is None else _with(draft, _labelled(labels))


def pool(parameters: Parameters, reads: Sequence[Flow]) -> Draft:
    """Take the mean, or with `how` = "max" the highest number, over the first dimension behind the rows."""
    datatype = _float(parameters, reads[0])
    if not reads[0].dims:
        raise parameters.error(f"'{reads[0].spec.name}' has one number per row, expected a dimension behind the rows")
    function = kernels.pool_max if parameters.text("how", "mean", ("mean", "max")) == "max" else kernels.pool_mean
    return Draft(Kernel(function, (places, rows_of)), (datatype,), lambda dims: (dims[0][1:],))


def _top(count: int) -> Follow:
    return lambda dims: ((*dims[0][:-1], count),) * 2


def _with(draft: Draft, then: Draft) -> Draft:
    return Draft(draft.work, draft.datatypes, draft.follow, then=then)


def _labelled(labels: Array) -> Draft:
    """Turn the last tensor that was written, places, into labels."""

    def look_up(arrays: Sequence[Array], _reasons: dict[int, str]) -> Sequence[Array]:
        return [labels[np.asarray(arrays[-1], np.int64)]]

    return Draft(Host(look_up), (Datatype.BYTES,), lambda dims: (dims[-1],))


def _numbers(parameters: Parameters, flow: Flow) -> Datatype:
    datatype = flow.spec.datatype
    if datatype not in NUMBERS or datatype is Datatype.BOOL:
        raise parameters.error(f"'{flow.spec.name}' is {datatype.wire_name}, expected numbers")
    return datatype


def _float(parameters: Parameters, flow: Flow) -> Datatype:
    if flow.spec.datatype not in FLOATS:
        raise parameters.error(f"'{flow.spec.name}' is {flow.spec.datatype.wire_name}, expected FP32 or FP64")
    return flow.spec.datatype


def _width(parameters: Parameters, flow: Flow) -> int:
    """Return the length of the vectors."""
    if not flow.dims or flow.dims[-1] < 1:
        raise parameters.error(
            f"'{flow.spec.name}' has shape {list(flow.spec.shape)}, expected vectors of a fixed length"
        )
    return flow.dims[-1]
