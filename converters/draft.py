"""What an adapter hands over: a graph that nobody has trusted yet, and the framework's own answers to hold it to."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from converters.parity.categories import Categories
from converters.parity.thresholds import Thresholds
from converters.sample import Array, Tensors

Kind = Literal["numeric", "trees", "embedding"]
"""Which tolerance a model is held to."""
Role = Literal["label", "scores", "values"]
"""`label`: a class per row, compared for equality. `scores` belong to classes; `values` are any other numbers."""
Margin = Callable[[Tensors], NDArray[np.float64]]
"""From the framework's answers, how far each row's label is from being another one."""


@dataclass(frozen=True, slots=True)
class Output:
    """One output of the graph, in the graph's order; `atol_factor` widens the absolute tolerance of its numbers."""

    name: str
    role: Role
    atol_factor: float = 1.0


@dataclass(frozen=True, slots=True)
class Draft:
    """A converted model before it is checked.

    `exact` is the sample as tensors named like the graph's inputs, in the precision in which it came. `answer` gives
    the framework's answers to such tensors, of either precision, named like `outputs`; it raises what the framework
    raises. `labels` are the classes in the order of the scores. `facts` go into the graph's metadata, `notes` into the
    report.
    """

    model: Any
    framework: str
    versions: dict[str, str]
    exact: Tensors
    outputs: tuple[Output, ...]
    answer: Callable[[Tensors], Tensors]
    kind: Kind = "numeric"
    margin: Margin | None = None
    thresholds: tuple[Thresholds, ...] = ()
    categories: tuple[Categories, ...] = ()
    labels: tuple[str, ...] = ()
    feature_names: tuple[str, ...] = ()
    parameters: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def top_two(name: str) -> Margin:
    """Return the distance between the best and the second-best score; of one score, its distance from 0."""

    def margin(answers: Tensors) -> NDArray[np.float64]:
        scores = _flat(answers[name])
        if scores.shape[1] == 1:
            return np.abs(scores[:, 0])
        ordered = np.sort(scores, axis=1)
        return np.asarray(ordered[:, -1] - ordered[:, -2])

    return margin


def nearest_two(name: str) -> Margin:
    """Return by how much the nearest centre is nearer than the next, as a share of the distance."""

    def margin(answers: Tensors) -> NDArray[np.float64]:
        ordered = np.sort(_flat(answers[name]), axis=1)
        if ordered.shape[1] == 1:
            return np.full(len(ordered), np.inf)
        return np.asarray((ordered[:, 1] - ordered[:, 0]) / np.maximum(np.abs(ordered[:, 1]), 1e-30))

    return margin


def _flat(scores: Array) -> NDArray[np.float64]:
    return np.asarray(scores, np.float64).reshape(len(scores), -1)
