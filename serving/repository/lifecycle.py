"""The life of one version as a table of legal moves. Pure.

    (new) ──> LOADING ──> READY ──> UNLOADING ──> UNLOADED ──> LOADING
                 └──────> FAILED ──> LOADING

A reload of a ready version builds the new servable beside the old one, so the version stays READY throughout.
"""

import enum
from collections.abc import Mapping


class State(enum.Enum):
    """Where a version is in its life."""

    LOADING = enum.auto()
    READY = enum.auto()
    FAILED = enum.auto()
    UNLOADING = enum.auto()
    UNLOADED = enum.auto()


MOVES: Mapping[State, frozenset[State]] = {
    State.LOADING: frozenset({State.READY, State.FAILED}),
    State.READY: frozenset({State.UNLOADING}),
    State.FAILED: frozenset({State.LOADING}),
    State.UNLOADING: frozenset({State.UNLOADED}),
    State.UNLOADED: frozenset({State.LOADING}),
}

INDEX_NAMES: Mapping[State, str] = {
    State.LOADING: "LOADING",
    State.READY: "READY",
    State.FAILED: "UNAVAILABLE",
    State.UNLOADING: "UNLOADING",
    State.UNLOADED: "UNAVAILABLE",
}
"""How RepositoryIndex spells each state."""


def check_move(before: State, after: State) -> None:
    """Assert that the move is in the table."""
    assert after in MOVES[before], f"bug: a version cannot go from {before.name} to {after.name}"
