"""Holding a graph to its framework: sample, edge rows, thresholds, batch sizes, shuffles, and batch invariance.

The theory. A client rounds its numbers to the graph's datatypes before they are sent, so two errors are told apart:
*conversion* (the framework and the graph given the same rounded numbers) and *precision* (the framework given the
sample as it came). Trees compare, and rounding a number that lies at a threshold can send it the other way in either
of them; so a row counts as wrong only when the graph gives neither of the framework's two answers to it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.draft import Draft
from converters.parity import precision, thresholds
from converters.parity import rows as row_sets
from converters.parity.categories import categories
from converters.parity.errors import Comparison, Flags, compare
from converters.parity.report import Check, ParityReport
from converters.parity.rows import RowSet
from converters.parity.tolerance import DEFAULTS, Tolerance
from converters.runner import Runner, joined, one_line, quiet, rows_of
from converters.sample import Array, Tensors
from serving.errors import ConfigError

BATCH_ROWS = (1, 2, 17)
"""Batch sizes that are tried besides the largest: alone, the smallest batch, and one that no vector width divides."""
SAMPLE_ROWS_MAX = 2_000
"""Rows of the sample that answers are compared on, chosen by chance when there are more."""
COMPANY_ROWS = 64
OUTLIER_FACTOR = 1e3


@dataclass(frozen=True, slots=True)
class Settings:
    """How parity is judged. `waivers` are reasons by check; `batch_rows_max` is the largest batch served."""

    tolerance: Tolerance | None = None
    waivers: Mapping[str, str] = field(default_factory=dict)
    batch_rows_max: int = 256
    seed: int = 0


def judge(draft: Draft, graph: bytes, settings: Settings, *, tolerance: Tolerance | None = None) -> ParityReport:
    """Run every check on a graph. Raises ConfigError when onnxruntime cannot load it."""
    held_to = tolerance or settings.tolerance or DEFAULTS[draft.kind]
    return _Judge(draft, Runner(graph), settings, held_to).report()


@dataclass(frozen=True, slots=True)
class _Answers:
    """The framework's answers to rows: as they came, and rounded as the graph takes them."""

    exact: Tensors
    cast: Tensors


class _Judge:
    def __init__(self, draft: Draft, runner: Runner, settings: Settings, tolerance: Tolerance) -> None:
        self._draft, self._runner, self._settings, self._tolerance = draft, runner, settings, tolerance
        self._sample = _chosen(draft.exact, settings.seed)
        self._cast = runner.cast(self._sample)
        self._answers = self._ask_sample()
        self._scales = _scales(self._answers.exact, draft, tolerance)

    def report(self) -> ParityReport:
        """Make all checks, in the order in which a reader wants them."""
        with quiet():
            checks = [self._judge_rows(RowSet("sample", "the sample as it came", self._sample))]
            checks += self._judge_precision()
            checks += [self._judge_rows(rows) for rows in self._edges()]
            checks += [self._judge_batches(count) for count in (*BATCH_ROWS, self._settings.batch_rows_max)]
            checks += [self._judge_shuffled(), self._judge_company()]
        seed, kind = self._settings.seed, self._draft.kind
        return ParityReport(kind, self._tolerance, seed, tuple(checks), self._draft.notes + tuple(self._notes()))

    def _ask_sample(self) -> _Answers:
        with quiet():
            try:
                answers = self._ask(self._sample, self._cast)
            except Exception as error:
                raise ConfigError(
                    f"{self._draft.framework} refuses the sample: {one_line(error)}; give rows that it answers"
                ) from None
        for name, item in answers.exact.items():
            if np.shape(item)[:1] != (self._rows,):
                raise ConfigError(
                    f"'{name}' has shape {list(np.shape(item))} for {self._rows} rows, expected a row for each; a "
                    "server that batches could not tell whose answer is whose, so give the output a first dimension "
                    "of rows"
                )
        return answers

    def _edges(self) -> list[RowSet]:
        sets = list(row_sets.edges(self._sample, thresholds.only_trees(self._draft.model), self._settings.seed))
        found = self._draft.thresholds or thresholds.of_graph(self._draft.model)
        splits = row_sets.thresholds(self._sample, found, self._settings.seed)
        return [*sets, *(rows for rows in (splits, self._categories()) if rows)]

    def _categories(self) -> RowSet | None:
        return categories(self._sample, self._draft.categories, self._settings.seed)

    def _notes(self) -> list[str]:
        if thresholds.has_trees(self._draft.model) and not (
            self._draft.thresholds or thresholds.of_graph(self._draft.model)
        ):
            return ["the trees split behind a transformation, so rows at their thresholds were not tried"]
        return []

    def _judge_rows(self, rows: RowSet) -> Check:
        """Compare on rows of one kind, leaving out those that the framework refuses."""
        kept, refusal = self._accepted(rows.tensors)
        refused = rows.rows - int(kept.sum())
        if not kept.any():
            return self._check(rows.name, rows.about, rows.rows, refused_rows=refused, refusal=refusal)
        exact = rows_of(rows.tensors, kept)
        cast = self._runner.cast(exact)
        try:
            answers = self._ask(exact, cast)
        except Exception as error:  # it takes the rows, and not what rounding made of them, such as infinities
            return self._check(rows.name, rows.about, rows.rows, refused_rows=rows.rows, refusal=one_line(error, 160))
        return self._compared(rows.name, rows.about, answers, cast, refused_rows=refused, refusal=refusal)

    def _judge_precision(self) -> list[Check]:
        """Hold the graph to the framework's answers to the sample as it came; nothing when rounding changes nothing."""
        known = self._categories()
        exact = joined(self._sample, known.tensors) if known else self._sample
        cast = self._runner.cast(exact)
        held_to = self._tolerance
        if self._is_same(exact, cast):
            return []
        try:
            expected = self._draft.answer(exact)
            found = self._compare(expected, self._runner.run(cast))
        except Exception as error:
            told = f"the graph gives no answer: {one_line(error)}; {precision.whole_column(exact, cast)}"
            return [self._check("precision", precision.CHANGE, len(next(iter(exact.values()))), failure=told)]
        flipped = found.flipped & (self._margins(expected) > held_to.margin_max)
        wrong = found.beyond | flipped
        whole = int((wrong & precision.whole_changed(exact, cast)).sum())
        share_max = precision.SHARE_MAX[self._draft.kind]
        passed = wrong.sum() <= share_max * len(wrong) and whole <= held_to.rows_share_max * len(wrong)
        margin_max = float(np.max(self._margins(expected)[flipped], initial=0.0))
        check = self._check(
            "precision", precision.CHANGE, len(wrong), passed=bool(passed), precision=found.errors,
            beyond=int(found.beyond.sum()), flips=int(flipped.sum()), flip_margin_max=margin_max,
        )  # fmt: skip
        return [check if passed else replace(check, cause=self._cause(exact, wrong))]

    def _cause(self, exact: Tensors, wrong: Flags) -> str:
        few = precision.affected(exact, wrong)
        before = self._draft.answer(few)

        def differs(tensors: Tensors) -> Flags:
            found = self._compare(before, self._draft.answer(tensors))
            return found.beyond | found.flipped

        return precision.cause(few, self._runner.cast(few), names=self._draft.feature_names, differs=differs)

    def _accepted(self, tensors: Tensors) -> tuple[Flags, str]:
        """Return which rows the framework takes, and why it does not take the others."""
        count = len(next(iter(tensors.values())))
        try:
            self._draft.answer(tensors)
        except Exception as error:
            refusal = one_line(error, 160)
        else:
            return np.ones(count, np.bool_), ""
        kept = np.zeros(count, np.bool_)
        for index in range(count):
            row = rows_of(tensors, slice(index, index + 1))
            try:
                self._draft.answer(row)
            except Exception as error:
                refusal = one_line(error, 160)
            else:
                kept[index] = True
        return kept, refusal

    def _judge_batches(self, batch_rows: int) -> Check:
        """Run the sample in batches of one size; for the largest one, repeat rows until they fill it."""
        about = "in batches of one row" if batch_rows == 1 else f"in batches of {batch_rows} rows"
        count = max(batch_rows, min(self._rows, 4 * batch_rows, 512))
        which = np.arange(count) % self._rows
        answers = _Answers(rows_of(self._answers.exact, which), rows_of(self._answers.cast, which))
        cast = rows_of(self._cast, which)
        return self._compared(f"batch-{batch_rows}", about, answers, cast, batch_rows=batch_rows)

    def _judge_shuffled(self) -> Check:
        order = np.random.default_rng(self._settings.seed).permutation(self._rows)
        answers = _Answers(rows_of(self._answers.exact, order), rows_of(self._answers.cast, order))
        return self._compared("shuffled", "in another order", answers, rows_of(self._cast, order))

    def _judge_company(self) -> Check:
        """Compare each row's answer alone with its answer beside outliers: one client must not change another's."""
        about = "each row alone, and in a batch with outliers: who shares a batch must not change an answer"
        rows = rows_of(self._cast, slice(0, COMPANY_ROWS))
        count = len(next(iter(rows.values())))
        company = joined(rows, _outliers(rows))
        try:
            alone = self._runner.run_in_batches(rows, 1)
            together = rows_of(self._runner.run(company), slice(0, count))
            comparison = self._compare(alone, together)
        except Exception as error:
            return self._check("invariance", about, count, failure=f"the graph gives no answer: {one_line(error)}")
        return self._verdict("invariance", about, count, [comparison], margin_of=alone)

    def _compared(
        self, name: str, about: str, answers: _Answers, cast: Tensors, *, batch_rows: int = 0, refused_rows: int = 0,
        refusal: str = "",
    ) -> Check:  # fmt: skip
        rows = len(next(iter(cast.values())))
        told = rows + refused_rows
        try:
            got = self._runner.run_in_batches(cast, batch_rows) if batch_rows else self._runner.run(cast)
            comparisons = [self._compare(expected, got) for expected in (answers.cast, answers.exact)]
        except Exception as error:
            failure = f"the graph gives no answer where the framework does: {one_line(error)}"
            return self._check(name, about, told, failure=failure, refused_rows=refused_rows, refusal=refusal)
        check = self._verdict(name, about, rows, comparisons, margin_of=answers.cast)
        return replace(check, rows=told, refused_rows=refused_rows, refusal=refusal)

    def _verdict(self, name: str, about: str, rows: int, comparisons: list[Comparison], *, margin_of: Tensors) -> Check:
        """Count the rows that agree with none of the framework's answers."""
        beyond = np.logical_and.reduce([comparison.beyond for comparison in comparisons])
        flipped = np.logical_and.reduce([comparison.flipped for comparison in comparisons])
        margin_max = 0.0
        if flipped.any():
            margin_max = float(np.max(self._margins(margin_of)[flipped]))
        conversion, *others = comparisons
        held_to = self._tolerance
        passed = int(beyond.sum()) <= held_to.rows_share_max * rows and margin_max <= held_to.margin_max
        if not name.startswith("edge-") and name != "thresholds":
            passed = passed and int(flipped.sum()) <= max(held_to.flips_share_max * rows, rows / self._rows, 1)
        return self._check(
            name, about, rows, passed=passed, conversion=conversion.errors,
            precision=others[0].errors if others else (), beyond=int(beyond.sum()), flips=int(flipped.sum()),
            flip_margin_max=margin_max,
        )  # fmt: skip

    def _margins(self, answers: Tensors) -> NDArray[np.float64]:
        """Return how far each row's label is from another one; a label that was read from NaN could be any."""
        numbers = [np.asarray(answers[output.name], np.float64) for output in self._draft.outputs
                   if output.role != "label"]  # fmt: skip
        rows = len(next(iter(answers.values())))
        margins = self._draft.margin(answers) if self._draft.margin else np.full(rows, np.inf)
        undefined = np.isnan(margins)
        for item in numbers:
            undefined |= np.isnan(item.reshape(rows, -1)).any(axis=1)
        return np.where(undefined, 0.0, margins)

    def _check(self, name: str, about: str, rows: int, **found: Any) -> Check:
        found.setdefault("passed", not found.get("failure"))
        return Check(name, about, rows, waiver=self._settings.waivers.get(name, ""), **found)

    def _ask(self, exact: Tensors, cast: Tensors) -> _Answers:
        answers = self._draft.answer(exact)
        return _Answers(answers, answers if self._is_same(exact, cast) else self._draft.answer(cast))

    @staticmethod
    def _is_same(exact: Tensors, cast: Tensors) -> bool:
        return all(np.array_equal(item, cast[name], equal_nan=item.dtype.kind == "f") for name, item in exact.items())

    def _compare(self, expected: Tensors, got: Mapping[str, Array]) -> Comparison:
        return compare(expected, got, outputs=self._draft.outputs, tolerance=self._tolerance, scales=self._scales)

    @property
    def _rows(self) -> int:
        return len(next(iter(self._sample.values())))


def _chosen(exact: Tensors, seed: int) -> Tensors:
    rows = len(next(iter(exact.values())))
    if rows <= SAMPLE_ROWS_MAX:
        return exact
    return rows_of(exact, np.sort(np.random.default_rng(seed).choice(rows, SAMPLE_ROWS_MAX, replace=False)))


def _outliers(rows: Tensors) -> Tensors:
    """Return the first rows with their floats far away."""
    few = rows_of(rows, slice(0, 4))
    return {name: item * OUTLIER_FACTOR if item.dtype.kind == "f" else item for name, item in few.items()}


def _scales(answers: Tensors, draft: Draft, tolerance: Tolerance) -> dict[str, float]:
    """Return what `atol` counts in, for each output of values: spreads, or 1 where these are not too small for that."""
    spreads = {output.name: _spread(answers[output.name]) for output in draft.outputs if output.role == "values"}
    if tolerance.in_spreads or not tolerance.atol:
        return spreads
    return {name: min(1.0, tolerance.spread_share_max * spread / tolerance.atol) for name, spread in spreads.items()}


def _spread(answers: Array) -> float:
    """Return the standard deviation of all numbers of an output; what they are when all are the same."""
    numbers = np.asarray(answers, np.float64)
    spread = float(np.nanstd(numbers)) or float(np.nanmax(np.abs(numbers), initial=0.0))
    return spread if np.isfinite(spread) and spread else 1.0
