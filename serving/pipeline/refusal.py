"""Why a row was refused, found again by plain Python once compiled code has marked it. Pure."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from serving.pipeline.passes import Pass
from serving.pipeline.step import Argument, Element, Kernel, Spread, Step
from serving.types import Array

NUMBERS_MAX = 512
"""So many numbers of a batch are looked at, which takes some ms at most; further rows are refused without a number."""


def explanation(each: Pass, row: Array, numbers_max: int) -> str:
    """Say what of one row, of what a pass reads, was not taken, and what was expected; look at so many numbers."""
    work = each.steps[0].work
    if isinstance(work, Kernel):
        came = work.explain(row) if work.explain is not None else "a value that it cannot take came"
        return _sentence(each.steps[0], came)
    columns = row.shape[-1] if row.ndim else 1
    numbers = row.reshape(-1)
    if len(numbers) <= numbers_max:
        for place, number in enumerate(numbers):
            refusing = _refusing(each.steps, number, place % columns)
            if refusing is not None:
                came = f"{number} came"
                return _sentence(refusing, f"{came} in column {place % columns}" if row.ndim else came)
    refusing = next(step for step in each.steps if isinstance(step.work, Element) and step.work.refuses is not None)
    return _sentence(refusing, "a number that it cannot take came")


def _refusing(steps: Sequence[Step], number: Any, column: int) -> Step | None:
    """Return the step that refuses a number."""
    with np.errstate(all="ignore"):
        for step in steps:
            work = step.work
            assert isinstance(work, Element), "bug: only element-wise steps go together"
            arguments = [_at(argument, column) for argument in work.arguments]
            value = np.asarray(number).astype(work.computes.dtype)[()]
            result = np.asarray(work.function(value, *arguments)).astype(step.writes[0].spec.datatype.dtype)[()]
            if work.refuses is not None and work.refuses(value, result, *arguments):
                return step
            number = result
    return None


def _at(argument: Argument, column: int) -> Any:
    if argument.spread is Spread.WHOLE:
        return argument.array
    return argument.array[column if argument.spread is Spread.COLUMN else 0]


def _sentence(step: Step, came: str) -> str:
    return f"{step.name} of '{step.reads[0].spec.name}': {came}, {step.complaint}"
