"""Delayed labels: what a request was answered, until somebody says what would have been right.

A request that was sent with an id is remembered with its prediction, among a bounded number of the last ones. A label
joins it by the id, and the realised error is watched by the same detector as the rows. Lives on the I/O thread, all
but the watch.
"""

import enum
import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from serving.clock import Clock
from serving.config import DriftConfig
from serving.errors import InvalidRequest
from serving.statistics.drift.watch import DriftWatch
from serving.types import DYNAMIC, Array, Datatype, Signature, TensorSpec

ERROR = "realised error"
_ERRORS = Signature((TensorSpec(ERROR, Datatype.FP32, (DYNAMIC,)),), (), batchable=True)
_EARNED_NS = 1_000_000_000  # labels are few, so each of them is counted

Label = float | str


class Outcome(enum.Enum):
    """What became of a label."""

    MATCHED = "matched"
    UNMATCHED = "unmatched"
    """No request of the last ones had this id, or it had more than one row."""
    DOUBLED = "doubled"
    """The request has its label already."""


@dataclass(slots=True)
class _Prediction:
    value: Label
    is_labelled: bool = False


class Feedback:
    """The remembered requests of one servable. Bound: `feedback_requests_max`, the oldest are forgotten.

    Requests with an id and exactly one row are remembered; an id that comes again replaces the one before.
    """

    def __init__(self, name: str, version: int, signature: Signature, config: DriftConfig, *, clock: Clock) -> None:
        self._requests_max = config.feedback_requests_max
        self._reader = _reader(signature)
        self._requests: OrderedDict[str, _Prediction] = OrderedDict()
        own = replace(config, overhead_max=1.0, reference_rows=config.feedback_labels_reference)
        self.watch = DriftWatch(name, version, _ERRORS, own, clock=clock, subject="realised errors")
        self._counter = self.watch.counter()
        self.outcomes: Counter[Outcome] = Counter()
        self.errors_total = 0.0

    @property
    def mean_error(self) -> float:
        """The mean error of all labels that have joined, 0 before the first."""
        matched = self.outcomes[Outcome.MATCHED]
        return self.errors_total / matched if matched else 0.0

    @property
    def is_on(self) -> bool:
        """Whether requests are remembered: somebody asked for it, and the outputs hold something to compare."""
        return self._requests_max > 0 and self._reader is not None

    def begin(self, state: Path | None) -> None:
        """Begin to watch the error; `state` is a folder in which what is known survives a restart."""
        if self.is_on:
            self.watch.begin(None, state / "feedback" if state is not None else None)

    def note(self, request_id: str, outputs: Sequence[Array], row: int) -> None:
        """Remember what a request of one row was answered, which is a row of the outputs."""
        assert self._reader is not None, "bug: nothing is remembered for this model"
        self._requests.pop(request_id, None)
        self._requests[request_id] = _Prediction(self._reader(outputs, row))
        if len(self._requests) > self._requests_max:
            self._requests.popitem(last=False)

    def label(self, labels: Sequence[tuple[str, Label]]) -> Counter[Outcome]:
        """Join labels with their requests; return how many had which outcome.

        Raises InvalidRequest when nothing is remembered, or a label cannot be compared with the predictions.
        """
        if not self.is_on:
            raise InvalidRequest("no requests are remembered for this model; set feedback_requests_max in its [drift]")
        for request_id, value in labels:  # all of them before any counts
            if (prediction := self._requests.get(request_id)) is not None:
                _error(prediction.value, value)
        outcomes: Counter[Outcome] = Counter()
        errors: list[float] = []
        for request_id, value in labels:
            prediction = self._requests.get(request_id)
            if prediction is None:
                outcomes[Outcome.UNMATCHED] += 1
            elif prediction.is_labelled:
                outcomes[Outcome.DOUBLED] += 1
            else:
                errors.append(_error(prediction.value, value))
                prediction.is_labelled = True
                outcomes[Outcome.MATCHED] += 1
        if errors:
            found = np.array(errors, np.float32)
            self.errors_total += sum(error for error in errors if math.isfinite(error))  # a prediction may be NaN
            self._counter.observe([found], [], rows=len(found), infer_ns=_EARNED_NS)
        self.outcomes.update(outcomes)
        return outcomes


def _error(prediction: Label, label: Label) -> float:
    """Return the distance of numbers with a fraction, else 1 for a wrong class and 0 for the right one."""
    if isinstance(label, float) and not math.isfinite(label):
        raise InvalidRequest(f"label {label} is not a finite number")
    if isinstance(prediction, float) and isinstance(label, (int, float)):
        return abs(prediction - label)
    if isinstance(prediction, str) != isinstance(label, str):
        kind = "a text" if isinstance(prediction, str) else "a number"
        raise InvalidRequest(f"label {label!r} cannot be compared: this model predicts {kind}")
    return float(prediction != label)


def _reader(signature: Signature) -> Callable[[Sequence[Array], int], Label] | None:
    """Return how to read a prediction: the first output with one element per row, else the largest score's index."""
    if not signature.batchable:
        return None
    for index, spec in enumerate(signature.outputs):
        if all(dimension == 1 for dimension in spec.shape[1:]) and spec.datatype is not Datatype.BF16:
            return lambda outputs, row, index=index: _plain(outputs[index][row])  # type: ignore[misc]
    for index, spec in enumerate(signature.outputs):
        if len(spec.shape) == 2 and spec.datatype.dtype.kind == "f":
            return lambda outputs, row, index=index: int(np.argmax(outputs[index][row]))  # type: ignore[misc]
    return None


def _plain(element: Any) -> Label:
    """Return an element as a Python number or text."""
    value = element.reshape(-1)[0] if isinstance(element, np.ndarray) else element
    plain: Label = value.item() if isinstance(value, np.generic) else str(value)
    return plain
