"""Whether a pass is worth it: parity must hold, and the graph must be shown faster beside the one without it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from converters.parity.gate import Settings, judge
from converters.parity.report import ParityReport
from converters.passes import PASSES, apply, tolerance_after
from converters.race import Race, race
from converters.runner import Runner, rows_of
from serving.errors import ConfigError

if TYPE_CHECKING:
    from converters.conversion import Conversion

RACE_ROWS = 32
"""Rows of the batch that is timed."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One list of passes, tried. `race` is absent when parity did not hold or the pass could not be applied."""

    passes: tuple[str, ...]
    bytes_before: int
    bytes_after: int
    report: ParityReport | None = None
    race: Race | None = None
    failure: str = ""

    @classmethod
    def of(cls, passes: tuple[str, ...], plain: "Conversion", made: bytes, report: ParityReport) -> "Trial":
        """Time a graph beside the one that it was made of, when its answers are right."""
        timed = _race(plain, made) if report.passed else None
        return cls(passes, len(plain.graph), len(made), report, timed)

    @property
    def recommended(self) -> bool:
        """Whether parity holds and an interleaved comparison shows it faster."""
        return bool(self.report and self.report.passed and self.race and self.race.b_is_faster)

    @property
    def why(self) -> str:
        """Say what speaks for it or against it."""
        if self.failure:
            return self.failure
        if self.report and not self.report.passed:
            return "parity does not hold: " + "; ".join(check.sentence() for check in self.report.failures[:2])
        return f"parity holds; {self.race.sentence()}" if self.race else "parity holds; not timed"

    def to_json(self) -> dict[str, Any]:
        """Return the trial as JSON holds it."""
        timed = self.race
        return {
            "passes": list(self.passes),
            "bytes_before": self.bytes_before,
            "bytes_after": self.bytes_after,
            "recommended": self.recommended,
            "why": self.why,
            "time_ratio": [timed.ratio, timed.low, timed.high] if timed else None,
        }


def recommendation(plain: "Conversion", settings: Settings, progress: Callable[[str], None]) -> tuple[Trial, ...]:
    """Try each pass on top of those that were worth it so far, beginning with the passes of `plain`."""
    trials: list[Trial] = []
    kept, graph = plain.passes, plain.graph
    for name in PASSES:
        if name in kept:
            continue
        progress(f"try {name}")
        try:
            made = apply(name, graph, plain.draft.exact, target=plain.target, seed=settings.seed)
            tolerance = tolerance_after([*kept, name], settings, plain.draft.kind)
            report = judge(plain.draft, made, settings, tolerance=tolerance)
        except ConfigError as error:
            trials.append(Trial((*kept, name), len(graph), len(graph), failure=str(error)))
            continue
        trials.append(Trial.of((*kept, name), replace(plain, graph=graph), made, report))
        if trials[-1].recommended:
            kept, graph = (*kept, name), made
    return tuple(trials)


def _race(plain: "Conversion", made: bytes) -> Race:
    before, after = Runner(plain.graph), Runner(made)
    inputs = before.cast(rows_of(plain.draft.exact, slice(0, RACE_ROWS)))
    return race(lambda: before.run(inputs), lambda: after.run(inputs))
