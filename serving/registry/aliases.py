"""Who holds an alias, and who held it before: a fold over the records that moved it. Pure."""

from collections.abc import Iterable, Sequence

from serving.errors import RegistryError
from serving.registry.names import Alias
from serving.registry.record import Record

PROMOTE, ROLLBACK = "promote", "rollback"
MOVES = (PROMOTE, ROLLBACK)
"""The kinds of record that move an alias; their facts hold `alias`, `sequence` and `package`, a digest."""


def holders(moves: Iterable[Record]) -> list[int]:
    """Return the sequence numbers to which rollbacks lead, one after the other; the last one holds the alias now.

    `moves` are the records that moved one alias, in order. A promotion comes on top, and a rollback takes away what
    stands above its target.
    """
    stack: list[int] = []
    for record in moves:
        sequence = record.facts["sequence"]
        if record.kind == ROLLBACK and sequence in stack:
            while stack[-1] != sequence:
                stack.pop()
        elif not stack or stack[-1] != sequence:
            stack.append(sequence)
    return stack


def rollback_target(alias: Alias, moves: Sequence[Record], wanted: int | None) -> int:
    """Return the package that a rollback of an alias leads to: the one before, or the `wanted` one that once held it.

    Raises RegistryError when there is none.
    """
    stack = holders(moves)
    if not stack:
        raise RegistryError(f"{alias} names no package, so there is nothing to roll back")
    if wanted is None:
        if len(stack) == 1:
            raise RegistryError(f"{alias} has named nothing before {alias.model}/{stack[0]}; there is no way back")
        return stack[-2]
    if wanted == stack[-1]:
        raise RegistryError(f"{alias} names {alias.model}/{wanted} already")
    ever = {record.facts["sequence"] for record in moves}
    if wanted not in ever:
        raise RegistryError(f"{alias} never named {alias.model}/{wanted}; promote it instead, which needs a check")
    return wanted
