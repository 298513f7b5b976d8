"""Checks of what real servers do with a package: load it, answer, answer the same in any batch, cost what it costs.

How a server is started and how load is offered is not known here: both come in as callables.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from serving.errors import ConfigError, PackageError
from serving.package import Golden, Package
from serving.release.finding import Finding, at_most, inconclusive, not_applicable, passed
from serving.release.inference import Estimate, student
from serving.release.policy import CostConfig
from serving.types import Array, Signature

REQUEST_ROWS_MAX = 64
INVARIANCE_ROWS_MAX = 64
NOTHING_YET = "nothing is in production yet"

Answers = dict[str, Array]


class Running(Protocol):
    """A server of one package."""

    def infer(self, inputs: Mapping[str, Array]) -> Answers:
        """Answer one request. Raises RemoteError."""

    def memory_bytes(self) -> int:
        """The memory that its process holds."""


Serve = Callable[[Package], AbstractContextManager[Running]]
"""Starts a real server of a package, and stops it. Raises ConfigError when it does not come up with the model."""


@dataclass(frozen=True, slots=True)
class Ratios:
    """Latency of a package in times of production's, from interleaved slices: mean and 99th percentile."""

    mean: Estimate
    p99: Estimate


CompareLatency = Callable[[Running, Running, Mapping[str, Array], CostConfig], Ratios]
"""Compares a package, first, with production, both asked this one row. Raises ConfigError when it cannot."""


def answer_all(running: Running, inputs: Mapping[str, Array]) -> Answers:
    """Return the answers to all rows, in requests of up to `REQUEST_ROWS_MAX` rows."""
    rows = len(next(iter(inputs.values())))
    parts = [
        running.infer({name: array[begin : begin + REQUEST_ROWS_MAX] for name, array in inputs.items()})
        for begin in range(0, rows, REQUEST_ROWS_MAX)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def replay(running: Running, package: Package, tolerance: float) -> Finding:
    """Ask the golden requests, and count rows that are answered in another way."""
    name = "loads and answers"
    data = package.golden
    if data is None:
        return inconclusive(name, "it loads; the package has no golden requests")
    try:
        golden = Golden.from_bytes(data)
    except PackageError as error:
        return passed(name, False, str(error))
    answers = answer_all(running, as_sent(golden.inputs, package.signature))
    beyond, compared = 0, 0
    for output, expected in golden.outputs.items():
        if output not in answers or answers[output].shape != expected.shape:
            return passed(name, False, f"golden output '{output}' is missing or of another shape")
        tied = tied_rows(golden.outputs, expected, tolerance)
        beyond += int(differing_rows(answers[output], expected, tolerance, tied).sum())
        compared += len(expected)
    return passed(name, beyond == 0, f"{beyond} of {compared} golden rows are answered in another way", beyond,
                  threshold=0)  # fmt: skip


def batch_invariance(running: Running, signature: Signature, inputs: Mapping[str, Array], tolerance: float) -> Finding:
    """Ask rows alone, together and in reverse, and count rows whose answer depends on their company."""
    name = "batch invariance"
    if not signature.batchable:
        return not_applicable(name, "a request of this model is one row")
    rows = {key: array[:INVARIANCE_ROWS_MAX] for key, array in inputs.items()}
    count = len(next(iter(rows.values())))
    together = running.infer(rows)
    turned = running.infer({key: array[::-1] for key, array in rows.items()})
    alone = [running.infer({key: array[row : row + 1] for key, array in rows.items()}) for row in range(count)]
    beyond = np.zeros(count, np.bool_)
    for output, expected in together.items():
        tied = tied_rows(together, expected, tolerance)
        single = np.concatenate([answer[output] for answer in alone])
        beyond |= differing_rows(single, expected, tolerance, tied)
        beyond |= differing_rows(turned[output][::-1], expected, tolerance, tied)
    number = int(beyond.sum())
    return passed(name, number == 0, f"{number} of {count} rows depend on their batch", number, threshold=0)


def latency(ratios: Ratios | None, cost: CostConfig, why_not: str) -> list[Finding]:
    """Judge latency against production."""
    if ratios is None:
        say = not_applicable if why_not == NOTHING_YET else inconclusive
        return [say(f"latency {figure}", why_not) for figure in ("mean", "p99")]
    told = "times production's, in interleaved slices"
    return [
        at_most(f"latency {figure}", ratio.number, 1 + cost.latency_margin, told, low=ratio.low, high=ratio.high)
        for figure, ratio in (("mean", ratios.mean), ("p99", ratios.p99))
    ]


def memory(serve: Serve, package: Package, production: Package | None, cost: CostConfig) -> Finding:
    """Start servers of both in turn, and judge the memory that they hold after the golden requests."""
    if production is None:
        return not_applicable("memory", NOTHING_YET)
    if package.digest == production.digest:
        return not_applicable("memory", "this package is in production")
    logs = []
    for start in range(cost.memory_starts):
        sides = [package, production] if start % 2 == 0 else [production, package]
        held = {side.digest: _memory_of(serve, side) for side in sides}
        logs.append(np.log(held[package.digest] / held[production.digest]))
    estimate = student(np.array(logs), 0.025)
    number, low, high = (float(np.exp(value)) for value in (estimate.number, estimate.low, estimate.high))
    told = f"times production's, over {cost.memory_starts} starts of each"
    return at_most("memory", number, 1 + cost.memory_margin, told, low=low, high=high)


def sample_rows(package: Package) -> dict[str, Array] | None:
    """Return rows that the model can be asked, from the golden requests; None without any."""
    data = package.golden
    return None if data is None else as_sent(Golden.from_bytes(data).inputs, package.signature)


def as_sent(inputs: Mapping[str, Array], signature: Signature) -> dict[str, Array]:
    """Return inputs in the datatypes of a signature; texts as Python strings. Raises ConfigError for missing ones."""
    sent: dict[str, Array] = {}
    for spec in signature.inputs:
        if spec.name not in inputs:
            raise ConfigError(f"rows without input '{spec.name}'")
        sent[spec.name] = inputs[spec.name].astype(spec.datatype.dtype)
    return sent


def tied_rows(answers: Mapping[str, Array], labels: Array, tolerance: float) -> NDArray[np.bool_]:
    """Return in which rows of `labels`, one of `answers`, the two highest of the scores that decide it tie.

    How sums are rounded decides the label of such a row, and onnxruntime adds the trees of a forest up in an order that
    depends on how many rows a batch has. They tie when they are the same within `tolerance`.
    """
    tied = np.zeros(len(labels), np.bool_)
    for scores in answers.values():
        if scores.dtype.kind == "f" and scores.ndim == 2 and len(scores) == labels.size and scores.shape[1] > 1:
            second, first = np.sort(scores.astype(np.float64), axis=1)[:, -2:].T
            even = np.isclose(second, first, rtol=tolerance, atol=tolerance / 10)
            if _decide(scores[~even], labels.reshape(-1)[~even]):
                tied |= even
    return tied


def _decide(scores: Array, labels: Array) -> bool:
    """Return whether each label has its own column of highest scores; other tensors that go with it say nothing."""
    pairs = set(zip(scores.argmax(axis=1).tolist(), labels.tolist(), strict=True))
    return 0 < len(pairs) == len({column for column, _ in pairs}) == len({label for _, label in pairs})


def differing_rows(found: Array, expected: Array, tolerance: float, tied: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which rows differ: numbers by more than `tolerance` times their size and a tenth of it, labels at all.

    Labels of `tied` rows do not count.
    """
    if found.shape != expected.shape:
        return np.ones(len(expected), np.bool_)
    one, other = found.reshape(len(found), -1), expected.reshape(len(expected), -1)
    if "f" not in (one.dtype.kind, other.dtype.kind):
        different = one.astype(np.str_) != other.astype(np.str_) if _has_text(one, other) else one != other
        return np.asarray(np.asarray(different).any(axis=1) & ~tied)
    first, second = one.astype(np.float64), other.astype(np.float64)
    close = np.isclose(first, second, rtol=tolerance, atol=tolerance / 10, equal_nan=True)
    return np.asarray(~close.all(axis=1))


def _has_text(*arrays: Array) -> bool:
    return any(array.dtype.kind in "OUS" for array in arrays)


def _memory_of(serve: Serve, package: Package) -> float:
    with serve(package) as running:
        rows = sample_rows(package)
        if rows is not None:
            answer_all(running, rows)
        return float(running.memory_bytes())
