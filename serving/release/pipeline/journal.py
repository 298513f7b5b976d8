"""What a run leaves in the ledger: where it begins and ends, each step, and the alarm that started it.

Kinds of record: `run` with the event `begin` or `end`, `step`, `drift`. A run is known by the position of its begin.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from serving.registry.names import Version
from serving.registry.record import Record

if TYPE_CHECKING:
    from serving.registry.client import Registry  # which needs an extra that reading a definition does without

RUN, STEP, DRIFT = "run", "step", "drift"
BEGIN, END = "begin", "end"
RAN, KEPT, FAILED = "ran", "kept", "failed"
"""Outcomes of a step; kept means that nothing it depends on has changed."""


@dataclass(frozen=True, slots=True)
class Trigger:
    """Why a run begins: by `hand`, or by an alarm of `drift`, whose record is named."""

    kind: str = "hand"
    reason: str = ""
    drift: int | None = None

    def facts(self) -> dict[str, Any]:
        """Return it as a record holds it."""
        facts = {"trigger": self.kind, "reason": self.reason, "drift": self.drift}
        return {name: value for name, value in facts.items() if value not in {"", None}}


@dataclass(slots=True)
class Journal:
    """The records of one run. `run` is the position of the one that began it."""

    registry: "Registry"
    model: str
    run: int
    records: list[Record] = field(default_factory=list)

    @classmethod
    def begin(cls, registry: "Registry", model: str, facts: Mapping[str, Any]) -> Self:
        """Record that a run begins."""
        record = registry.append(RUN, model, {"event": BEGIN, **facts})
        return cls(registry, model, record.position, [record])

    def step(self, name: str, outcome: str, facts: Mapping[str, Any], *, version: Version | None = None) -> Record:
        """Record what became of a step."""
        return self._append(STEP, {"run": self.run, "step": name, "outcome": outcome, **facts}, version)

    def end(self, outcome: str, explanation: str) -> Record:
        """Record how the run ended."""
        facts = {"run": self.run, "event": END, "outcome": outcome}
        return self._append(RUN, {**facts, **({"explanation": explanation} if explanation else {})}, None)

    def found(self, name: str, key: str) -> Record | None:
        """Return the last record of a step that ended well with this key, in any run; one that failed has none."""
        for record in reversed(self.registry.history(self.model, kind=STEP)):
            if (record.facts.get("step"), record.facts.get("key")) == (name, key):
                return record
        return None

    def _append(self, kind: str, facts: Mapping[str, Any], version: Version | None) -> Record:
        record = self.registry.append(kind, self.model, facts, version=version)
        self.records.append(record)
        return record
