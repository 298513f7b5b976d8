"""What parity found: checks, their errors, and whether the model may be served."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from converters.parity.errors import Error, rounded
from converters.parity.tolerance import Tolerance
from serving.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Check:
    """One set of rows, or one way to batch them.

    `conversion` are errors against the framework fed the very numbers that the graph was fed, `precision` against the
    framework fed the sample in its own precision. `beyond` and `flips` count the rows that count: a row is beyond
    tolerance, or has another label, when it differs from both. `refusal` says what the framework does not take, so
    that nothing can be compared; `failure` why the graph gave no answer; `cause` where a difference comes from.
    """

    name: str
    about: str
    rows: int
    passed: bool
    conversion: tuple[Error, ...] = ()
    precision: tuple[Error, ...] = ()
    beyond: int = 0
    flips: int = 0
    flip_margin_max: float = 0.0
    refused_rows: int = 0
    refusal: str = ""
    failure: str = ""
    cause: str = ""
    waiver: str = ""

    @property
    def verdict(self) -> str:
        """One word: passed, waived, failed, or refused when the framework takes none of the rows."""
        if not self.passed:
            return "waived" if self.waiver else "FAILED"
        return "refused" if self.rows and self.refused_rows == self.rows else "passed"

    def to_json(self) -> dict[str, Any]:
        """Return the check as JSON holds it."""
        return {
            "name": self.name,
            "about": self.about,
            "rows": self.rows,
            "verdict": self.verdict.lower(),
            "conversion_error": [error.to_json() for error in self.conversion],
            "precision_error": [error.to_json() for error in self.precision],
            "rows_beyond": self.beyond,
            "label_flips": self.flips,
            "label_flip_margin_max": rounded(self.flip_margin_max),
            "refused_rows": self.refused_rows,
            "refusal": self.refusal,
            "failure": self.failure,
            "cause": self.cause,
            "waiver": self.waiver,
        }

    def sentence(self) -> str:
        """Say why it failed."""
        if self.failure:
            return f"{self.name}: {self.failure}"
        told = []
        if self.beyond:
            worst = max(self.conversion or self.precision, key=lambda error: error.largest)
            told.append(
                f"{self.beyond} of {self.rows} rows beyond tolerance (up to {worst.largest:.3g} in {worst.output})"
            )
        if self.flips:
            told.append(f"{self.flips} labels differ (margin up to {self.flip_margin_max:.3g})")
        return f"{self.name}: {', '.join(told)}{f'; {self.cause}' if self.cause else ''}"


@dataclass(frozen=True, slots=True)
class ParityReport:
    """All checks of one graph. Deterministic: no time, no date, nothing of the machine."""

    kind: str
    tolerance: Tolerance
    seed: int
    checks: tuple[Check, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def passed(self) -> bool:
        """Whether every check passed or was waived."""
        return all(check.passed or check.waiver for check in self.checks)

    @property
    def failures(self) -> tuple[Check, ...]:
        """The checks that stand in the way."""
        return tuple(check for check in self.checks if not check.passed and not check.waiver)

    @property
    def waivers(self) -> Mapping[str, str]:
        """Reasons by the name of the check that failed and was waived."""
        return {check.name: check.waiver for check in self.checks if check.waiver and not check.passed}

    def largest(self, name: str = "sample") -> tuple[float, float]:
        """Return the largest conversion and precision error of a check, over all outputs."""
        check = next(check for check in self.checks if check.name == name)
        worst = [
            max((error.largest for error in errors), default=0.0) for errors in (check.conversion, check.precision)
        ]
        return worst[0], worst[1]

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON holds it."""
        return {
            "kind": self.kind,
            "tolerance": self.tolerance.to_json(),
            "seed": self.seed,
            "passed": self.passed,
            "checks": [check.to_json() for check in self.checks],
            "notes": list(self.notes),
        }


class ParityError(ConfigError):
    """The graph does not answer as the framework does. `report` holds every check."""

    def __init__(self, report: ParityReport) -> None:
        failures = report.failures
        told = "; ".join(check.sentence() for check in failures[:3])
        more = f"; and {len(failures) - 3} more checks" if len(failures) > 3 else ""
        super().__init__(
            f"the converted graph does not answer as the framework does: {told}{more}. When that is acceptable, waive "
            f"it with a reason: --waive {failures[0].name}:REASON"
        )
        self.report = report
