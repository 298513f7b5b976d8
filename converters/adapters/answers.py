"""Answers of a framework, fitted to the outputs of a graph: names, roles, shapes. Knows no framework."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from converters import graph
from converters.draft import Margin, Output, Role
from converters.parity import precision
from converters.runner import Runner, one_line, quiet, rows_of
from converters.sample import Array, Tensors
from serving.errors import ConfigError

_SHAPE_ROWS = 3
"""Rows that a graph is run on to learn the shapes of its outputs."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One output: its name, what it is, and the function of the model that gives it for native rows.

    `atol_factor` widens the absolute tolerance where the numbers come of a subtraction of larger ones.
    """

    name: str
    role: Role
    ask: Callable[[Any], Array]
    margin: Margin | None = None
    atol_factor: float = 1.0


def fitted(converted: Any, answers: Sequence[Answer], exact: Tensors, native: Callable[[Tensors], Any]) -> list[Answer]:
    """Name the outputs of a graph, make labels one-dimensional, and give the answers the shapes of the outputs.

    Where a graph declares another shape than it gives, as exporters do for trees of several targets, it is corrected.
    Outputs beyond the answers are left out, and so are those that hold something else than the framework's answer.
    Raises ConfigError when none is left or the model cannot be run on the sample.
    """
    values = [value.name for value in converted.graph.output][: len(answers)]
    graph.keep_outputs(converted, values)
    graph.rename(converted, {old: answer.name for old, answer in zip(values, answers, strict=False)})
    rows = rows_of(exact, slice(0, _SHAPE_ROWS))
    got, right = _both(converted, answers, rows, native)
    kept = [shaped for answer in answers if answer.name in got
            if (shaped := _fit(converted, answer, right[answer.name], got[answer.name])) is not None]  # fmt: skip
    if not kept:
        shapes = ", ".join(f"{name} {item.shape}, expected {np.shape(right[name])}" for name, item in got.items())
        raise ConfigError(f"the converted graph gives outputs of other shapes than the framework: {shapes}")
    graph.keep_outputs(converted, [answer.name for answer in kept])
    graph.correct_shapes(converted, {answer.name: got[answer.name].shape for answer in kept if answer.role != "label"})
    return kept


def outputs_of(answers: Sequence[Answer]) -> tuple[Output, ...]:
    """Return the outputs that the answers belong to."""
    return tuple(Output(answer.name, answer.role, answer.atol_factor) for answer in answers)


def margin_of(answers: Sequence[Answer]) -> Margin | None:
    """Return the margin of the label, when the scores that it is read from are there."""
    return answers[0].margin if len(answers) > 1 else None


def asking(answers: Sequence[Answer], native: Callable[[Tensors], Any]) -> Callable[[Tensors], Tensors]:
    """Return a function that gives all answers to tensors."""

    def answer(tensors: Tensors) -> Tensors:
        rows = native(tensors)
        with quiet():
            return {item.name: item.ask(rows) for item in answers}

    return answer


def _both(
    converted: Any, answers: Sequence[Answer], rows: Tensors, native: Callable[[Tensors], Any]
) -> tuple[Tensors, Tensors]:
    """Return the graph's answers and the framework's to a few rows."""
    with quiet():
        runner = Runner(converted.SerializeToString())
        cast = runner.cast(rows)
        try:
            return runner.run(cast), asking(answers, native)(rows)
        except ConfigError:
            raise
        except Exception as error:
            rounded = precision.whole_column(rows, cast)
            raise ConfigError(
                f"the model cannot be run on the sample: {one_line(error)}{f'; rounding: {rounded}' if rounded else ''}"
            ) from None


def _fit(converted: Any, answer: Answer, right: Array, got: Array) -> Answer | None:
    if answer.role == "label":
        if got.ndim != 1 and got.size == len(right):
            graph.squeeze_label(converted, answer.name)
        return answer
    if right.shape == got.shape:
        return answer
    if right.size == got.size:
        return replace(answer, ask=lambda rows: answer.ask(rows).reshape(-1, *got.shape[1:]))
    if right.ndim == 1 and got.ndim == 2 and got.shape[1] == 2:
        return replace(answer, ask=_two_sides(answer))
    return None


def _two_sides(answer: Answer) -> Callable[[Any], Array]:
    """One score for two classes where the graph gives one for each: probabilities add up to 1, others to 0."""

    def ask(rows: Any) -> Array:
        scores = np.asarray(answer.ask(rows))
        other = 1 - scores if answer.name == "probabilities" else -scores
        return np.stack([other, scores], axis=1)

    return ask
