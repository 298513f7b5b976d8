"""The step for models that find things in images: boxes. A builder of drafts; nothing here runs anything."""

from collections.abc import Sequence

import numpy as np

from serving.pipeline import kernels
from serving.pipeline.parameters import Parameters
from serving.pipeline.step import Argument, Dims, Draft, Flow, Kernel, as_it_is
from serving.pipeline.tabular import FLOATS
from serving.types import Array, Datatype

COUNT_MAX = 10_000


def boxes(parameters: Parameters, reads: Sequence[Flow]) -> Draft:
    """Keep at most `count` boxes of a row: by score, from `score_min` on, unless one of its class covers it more.

    Reads boxes [boxes, 4] and scores [boxes] or [boxes, classes], writes corners [count, 4], scores [count] and, as
    INT64, classes [count], -1 where there are no more. `overlap_max` is intersection over union.
    """
    if len(reads) != 2:
        raise parameters.error('expected two inputs, as in inputs = ["boxes", "scores"]')
    given, scores = reads
    datatype = given.spec.datatype
    if datatype not in FLOATS or scores.spec.datatype is not datatype:
        raise parameters.error("expected boxes and scores both in FP32, or both in FP64")
    if len(given.dims) != 2 or given.dims[1] != 4 or len(scores.dims) not in {1, 2} or scores.dims[0] != given.dims[0]:
        shapes = f"{list(given.spec.shape)} and {list(scores.spec.shape)}"
        raise parameters.error(f"shapes are {shapes}, expected [-1, n, 4] and [-1, n] or [-1, n, classes]")
    score_min, overlap_max = parameters.number("score_min", 0.25), parameters.number("overlap_max", 0.45)
    if not 0 <= overlap_max <= 1:
        raise parameters.error(f"overlap_max = {overlap_max}, expected a number from 0 to 1")
    count = parameters.whole("count", 100, maximum=COUNT_MAX)
    is_centre = parameters.text("format", "corners", ("corners", "centre")) == "centre"
    settings = np.array([score_min, overlap_max, is_centre], np.float64)

    def follow(dims: Sequence[Dims]) -> tuple[Dims, ...]:
        return (count, 4), (count,), (count,), (dims[0][0],), (dims[0][0],)

    views = (as_it_is, _by_class, *(as_it_is,) * 5)
    work = Kernel(kernels.boxes, views, (Argument(settings),), scratch=2)
    return Draft(work, (datatype, datatype, Datatype.INT64, datatype, Datatype.INT64), follow)


def _by_class(scores: Array) -> Array:
    """Lay scores out as [rows, boxes, classes]."""
    return scores if scores.ndim == 3 else scores.reshape(*scores.shape, 1)
