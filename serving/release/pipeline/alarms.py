"""Alarms of drift as reasons for a run, and whether one of them is due. Pure.

An alarm lasts until what is served fits the rows again, and a run takes a while, or changes nothing. So one alarm about
a served version starts one run, and another only after a time; what was begun is read from the ledger, so that a
watcher that is started again does not begin again.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from serving.errors import ConfigError
from serving.registry.record import Record
from serving.release.pipeline.journal import DRIFT

_TEXT_CHARACTERS_MAX = 200


@dataclass(frozen=True, slots=True)
class Alarm:
    """What a server says has drifted. `version` is the served one, `evidence` a power of ten, `feature` the strongest.

    `evidence` is None when there is none that is a number. `subject` is what is watched: rows, or the errors of labels.
    `source` is who told.
    """

    model: str
    version: str
    subject: str
    evidence: float | None
    rows: int
    feature: str
    source: str

    def facts(self) -> dict[str, Any]:
        """Return it as a record of kind `drift` holds it."""
        facts = {"served": self.version, "subject": self.subject, "rows": self.rows, "feature": self.feature,
                 "source": self.source}  # fmt: skip
        return facts if self.evidence is None else {**facts, "evidence": round(self.evidence, 2)}

    def __str__(self) -> str:
        strongest = f", strongest {self.feature}" if self.feature else ""
        evidence = "" if self.evidence is None else f", evidence 10^{self.evidence:.1f}"
        return f"{self.model}/{self.version}: {self.subject} have drifted{evidence}{strongest}"


def alarm_of(facts: Mapping[str, Any], source: str) -> Alarm:
    """Read the facts that a server tells of an alarm, as its webhook posts them. Raises ConfigError."""
    try:
        features = facts["features"]
        evidence = facts["evidence"]
        return Alarm(
            model=_text(facts["model"]),
            version=_text(facts["version"]),
            subject=_text(facts.get("subject", "rows")),
            evidence=None if evidence is None or not math.isfinite(evidence) else float(evidence),
            rows=int(facts["rows"]),
            feature=_text(features[0]["name"]) if features else "",
            source=source,
        )
    except (KeyError, IndexError, TypeError, ValueError, OverflowError) as error:
        raise ConfigError(f"no alarm of drift that this version reads: {type(error).__name__}: {error}") from None


def is_due(alarm: Alarm, records: Iterable[Record], *, now_s: float, again_s: float) -> bool:
    """Whether an alarm starts a run: none about this served version did, or none since `again_s`; 0 is never again."""
    begun = [
        datetime.fromisoformat(record.at).timestamp()
        for record in records
        if record.kind == DRIFT
        and (record.facts.get("served"), record.facts.get("subject")) == (alarm.version, alarm.subject)
    ]
    return not begun or (again_s > 0 and now_s - max(begun) >= again_s)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.80} is no text")
    return "".join(character if character.isprintable() else "?" for character in value[:_TEXT_CHARACTERS_MAX])
