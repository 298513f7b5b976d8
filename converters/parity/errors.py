"""Comparing two sets of answers, number by number."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.draft import Output
from converters.parity.tolerance import Tolerance
from converters.sample import Array, Tensors

Flags = NDArray[np.bool_]
"""One per row."""


@dataclass(frozen=True, slots=True)
class Error:
    """How far one output is off: of absolute differences the largest, and the 99.9th percentile over rows.

    For labels these are 0 and `beyond` counts the rows with another label.
    """

    output: str
    largest: float
    p999: float
    beyond: int

    def to_json(self) -> dict[str, Any]:
        """Return the error as JSON holds it; three digits, since further ones differ between processors."""
        return {
            "output": self.output,
            "max": rounded(self.largest),
            "p99_9": rounded(self.p999),
            "rows_beyond": self.beyond,
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """Errors by output, which rows are beyond tolerance and which have another label."""

    errors: tuple[Error, ...]
    beyond: Flags
    flipped: Flags


def compare(
    expected: Tensors, got: Tensors, *, outputs: Sequence[Output], tolerance: Tolerance, scales: Mapping[str, float]
) -> Comparison:
    """Compare answers to the same rows. `scales`: what `atol` counts in, by output; 1 where none is given."""
    rows = len(next(iter(got.values())))
    beyond, flipped = np.zeros(rows, np.bool_), np.zeros(rows, np.bool_)
    errors = []
    for output in outputs:
        right, answer = expected[output.name], got[output.name]
        if output.role == "label":
            differs = np.asarray(right).reshape(-1) != np.asarray(answer).reshape(-1)
            flipped |= differs
            errors.append(Error(output.name, 0.0, 0.0, int(differs.sum())))
        else:
            error, rows_beyond = _numbers(
                output.name, right, answer, tolerance, output.atol_factor * scales.get(output.name, 1.0)
            )
            errors.append(error)
            beyond |= rows_beyond
    return Comparison(tuple(errors), beyond, flipped)


def rounded(value: float) -> float | str:
    """Return three digits of a number; JSON has no infinities, so these are words."""
    return float(f"{value:.3g}") if np.isfinite(value) else str(value)


def _numbers(name: str, expected: Array, got: Array, tolerance: Tolerance, scale: float) -> tuple[Error, Flags]:
    right = np.asarray(expected, np.float64).reshape(len(got), -1)
    answer = np.asarray(got, np.float64).reshape(len(got), -1)
    if right.shape != answer.shape:
        raise ValueError(f"output '{name}': {answer.shape[1]} numbers per row, the framework gives {right.shape[1]}")
    if not right.size:
        return Error(name, 0.0, 0.0, 0), np.zeros(len(got), np.bool_)
    same = (right == answer) | (np.isnan(right) & np.isnan(answer))
    with np.errstate(all="ignore"):
        difference = np.where(same, 0.0, np.abs(answer - right))
        difference = np.where(np.isnan(difference), np.inf, difference)
        if tolerance.cosine_min is None:
            allowed = tolerance.atol * scale + tolerance.rtol * np.abs(right)
            beyond = (~same & ~(difference <= allowed)).any(axis=1)
        else:
            beyond = ~(_cosine(right, answer) >= tolerance.cosine_min) & ~same.all(axis=1)
    per_row = difference.max(axis=1)
    p999 = float(np.quantile(per_row, 0.999, method="higher"))
    return Error(name, float(per_row.max()), p999, int(beyond.sum())), beyond


def _cosine(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.asarray((a * b).sum(axis=1) / lengths)
