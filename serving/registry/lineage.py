"""Where a package comes from and what happened to it, picked from the ledger. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from serving.registry.catalogue import PUSH, Pushed
from serving.registry.record import Record


@dataclass(frozen=True, slots=True)
class Lineage:
    """`package` is what the package says of itself, `before` the evidence that led to it, `after` what it went through.

    `before` are the records of its model, about no package, since the push before this one: that is how pipelines write
    them. Runs that overlap are told apart by the digests that their records hold.
    """

    pushed: Pushed
    package: Mapping[str, Any]
    before: tuple[Record, ...]
    after: tuple[Record, ...]

    def describe(self) -> dict[str, Any]:
        """Return the lineage for machines."""
        return {
            "model": self.pushed.model,
            "sequence": self.pushed.sequence,
            "package": dict(self.package),
            "before": [record.describe() for record in self.before],
            "after": [record.describe() for record in self.after],
        }


def lineage_of(pushed: Pushed, records: Sequence[Record], package: Mapping[str, Any]) -> Lineage:
    """Pick a package's records from all those of its model, in order."""
    pushes = [record.position for record in records if record.kind == PUSH and record.position < pushed.position]
    begin = pushes[-1] if pushes else 0
    before = (each for each in records if begin < each.position < pushed.position and "package" not in each.facts)
    after = (each for each in records if each.facts.get("package") == pushed.digest)
    return Lineage(pushed, package, tuple(before), tuple(after))
