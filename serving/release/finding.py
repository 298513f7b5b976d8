"""What a check answers: pass, fail, inconclusive or not applicable, with its number, interval and threshold. Pure."""

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


class Verdict(enum.StrEnum):
    """The four answers. Only `PASS` and `NOT_APPLICABLE` let a package move on."""

    PASS = "pass"  # noqa: S105 - a verdict, not a secret
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"
    NOT_APPLICABLE = "not applicable"

    @property
    def lets_through(self) -> bool:
        """Whether a package may move on with this answer."""
        return self in {Verdict.PASS, Verdict.NOT_APPLICABLE}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of a report.

    `number` is what was measured, `low` and `high` its interval (None for an open end), `threshold` what `number` was
    held to, and `explanation` one sentence that says what this means or what is missing.
    """

    check: str
    verdict: Verdict
    number: float | None = None
    low: float | None = None
    high: float | None = None
    threshold: float | None = None
    explanation: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the finding as a record holds it: no NaN and no infinity."""
        numbers = {name: _finite(getattr(self, name)) for name in ("number", "low", "high", "threshold")}
        return {"check": self.check, "verdict": self.verdict.value, **numbers, "explanation": self.explanation}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Finding":
        """Read a finding back from a record."""
        return cls(**{**value, "verdict": Verdict(value["verdict"])})


def at_most(check: str, number: float, threshold: float, explanation: str, *, low: float, high: float) -> Finding:
    """Judge a number that should not be above a threshold by its interval.

    Pass when the whole interval is at or below it, fail when the whole interval is above, otherwise inconclusive.
    """
    verdict = Verdict.INCONCLUSIVE
    if high <= threshold:
        verdict = Verdict.PASS
    elif low > threshold:
        verdict = Verdict.FAIL
    return Finding(check=check, verdict=verdict, number=number, low=low, high=high, threshold=threshold,
                   explanation=explanation)  # fmt: skip


def passed(check: str, ok: bool, explanation: str, number: float | None = None, *,
           threshold: float | None = None) -> Finding:  # fmt: skip
    """Judge what needs no interval."""
    verdict = Verdict.PASS if ok else Verdict.FAIL
    return Finding(check=check, verdict=verdict, number=number, threshold=threshold, explanation=explanation)


def inconclusive(check: str, explanation: str) -> Finding:
    """Say that nothing can be said."""
    return Finding(check=check, verdict=Verdict.INCONCLUSIVE, explanation=explanation)


def not_applicable(check: str, explanation: str) -> Finding:
    """Say that the question does not arise."""
    return Finding(check=check, verdict=Verdict.NOT_APPLICABLE, explanation=explanation)


def _finite(number: float | None) -> float | None:
    return None if number is None or not math.isfinite(number) else float(number)
