"""What the ledger must tell of the tour, in its order. Pure."""

from collections.abc import Iterable

from serving.errors import ConfigError
from serving.registry.record import Record

WANTED: tuple[tuple[str, dict[str, object]], ...] = (
    ("run", {"event": "begin", "trigger": "hand"}),
    ("step", {"step": "data", "outcome": "ran"}),
    ("step", {"step": "train", "outcome": "ran"}),
    ("step", {"step": "evaluate", "outcome": "ran"}),
    ("step", {"step": "convert", "outcome": "ran"}),
    ("data", {}),
    ("train", {}),
    ("evaluate", {}),
    ("push", {"sequence": 1}),
    ("check", {"sequence": 1}),
    ("promote", {"sequence": 1, "alias": "production"}),
    ("run", {"event": "end", "outcome": "promoted"}),
    ("drift", {"served": "1", "sequence": 1}),
    ("run", {"event": "begin", "trigger": "drift"}),
    ("step", {"step": "train", "outcome": "ran"}),
    ("push", {"sequence": 2}),
    ("check", {"sequence": 2}),
    ("rollout", {"event": "start", "sequence": 2}),
    ("run", {"event": "end", "outcome": "rolling out"}),
    ("promote", {"sequence": 2, "alias": "production"}),
    ("run", {"event": "begin", "trigger": "hand"}),
    ("step", {"step": "data", "outcome": "kept"}),
    ("step", {"step": "train", "outcome": "ran"}),
    ("push", {"sequence": 3}),
    ("run", {"event": "end", "outcome": "refused"}),
    ("waiver", {"sequence": 3}),
    ("step", {"step": "train", "outcome": "kept"}),
    ("step", {"step": "check", "outcome": "kept"}),
    ("rollout", {"event": "start", "sequence": 3}),
    ("rollout", {"event": "roll back", "sequence": 3}),
)
"""Kinds of records, each with facts that it holds among others; other records may lie between."""


def expect(is_so: bool, what: str) -> None:
    """Raise ConfigError, which says what is not so."""
    if not is_so:
        raise ConfigError(f"the tour went wrong, since this is not so: {what}")


def check_history(records: Iterable[Record]) -> None:
    """Hold the ledger to the tour. Raises ConfigError at the first record that is not in its place."""
    left = iter(records)
    for kind, facts in WANTED:
        found = any(record.kind == kind and facts.items() <= dict(record.facts).items() for record in left)
        told = " ".join(f"{name}={value}" for name, value in facts.items())
        expect(found, f"the ledger holds, in its place, the record: {kind} {told}")
