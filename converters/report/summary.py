"""The words and tables of a conversion's report, the same in the terminal and on the page. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from converters.parity.errors import Error
from converters.parity.report import Check, ParityReport

if TYPE_CHECKING:
    from converters.passes.trials import Trial

WORDS = {"passed": "passed", "waived": "waived", "FAILED": "FAILED", "refused": "not comparable"}


@dataclass(frozen=True, slots=True)
class Table:
    """A table; `words` are the columns that hold text, `marked` the rows that stand out."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: frozenset[int] = frozenset()
    marked: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Facts:
    """What the report is about: a line each, and where the package is; `trials` are passes that were tried."""

    subject: str
    lines: tuple[tuple[str, str], ...]
    report: ParityReport
    trials: tuple["Trial", ...] = ()

    @property
    def headline(self) -> str:
        """Say the outcome in a sentence."""
        failed, waived = len(self.report.failures), len(self.report.waivers)
        if failed:
            checks = f"{failed} of {len(self.report.checks)} checks failed"
            return f"{self.subject} does not answer as its framework does: {checks}"
        suffix = f", {waived} of them waived" if waived else ""
        return f"{self.subject} answers as its framework does ({len(self.report.checks)} checks{suffix})"

    def sentences(self) -> list[str]:
        """Return what to know: failures, waivers, what could not be compared, notes."""
        said = [f"failed: {check.sentence()}" for check in self.report.failures]
        said += [f"waived: {check.sentence()}; reason: {check.waiver}" for check in self.report.checks
                 if check.verdict == "waived"]  # fmt: skip
        said += [f"{check.name}: the framework refuses {check.refused_rows} of {check.rows} rows ({check.refusal})"
                 for check in self.report.checks if check.refused_rows]  # fmt: skip
        said += [f"note: {note}" for note in self.report.notes]
        return said

    def tables(self) -> list[Table]:
        """Return the tables, the one that answers the question first."""
        return [checks_table(self.report), *([trials_table(self.trials)] if self.trials else [])]

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON holds it."""
        return {
            "subject": self.subject,
            "headline": self.headline,
            "facts": dict(self.lines),
            "parity": self.report.to_json(),
            "passes_tried": [trial.to_json() for trial in self.trials],
        }


def checks_table(report: ParityReport) -> Table:
    """Return the checks with both kinds of error."""
    columns = (
        "check",
        "rows",
        "conversion max",
        "p99.9",
        "precision max",
        "rows beyond",
        "flips",
        "margin",
        "verdict",
        "what was tried",
    )
    rows = tuple(_check_row(check) for check in report.checks)
    marked = frozenset(index for index, check in enumerate(report.checks) if check.verdict in {"FAILED", "waived"})
    return Table(f"Parity: {report.tolerance.sentence()}", columns, rows, frozenset({0, 8, 9}), marked)


def trials_table(trials: Sequence["Trial"]) -> Table:
    """Return the passes that were tried and whether they are worth it."""
    rows = tuple(
        (" ".join(trial.passes), f"{trial.bytes_after / 1024:,.1f}", "yes" if trial.recommended else "no", trial.why)
        for trial in trials
    )
    marked = frozenset(index for index, trial in enumerate(trials) if trial.recommended)
    return Table("Passes", ("passes", "KiB", "recommended", "why"), rows, frozenset({0, 2, 3}), marked)


def _check_row(check: Check) -> tuple[str, ...]:
    compared = bool(check.conversion) and not check.failure
    worst, precise = _worst(check.conversion), _worst(check.precision)
    return (
        check.name,
        f"{check.rows:,}",
        _number(worst.largest) if compared and worst else "-",
        _number(worst.p999) if compared and worst else "-",
        _number(precise.largest) if precise else "-",
        f"{check.beyond:,}" if compared else "-",
        f"{check.flips:,}" if compared else "-",
        _number(check.flip_margin_max) if check.flips else "-",
        WORDS[check.verdict],
        check.about,
    )


def _worst(errors: Sequence[Error]) -> Error | None:
    return max(errors, key=lambda error: error.largest, default=None)


def _number(value: float) -> str:
    return f"{value:.2g}" if value else "0"
