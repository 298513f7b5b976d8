"""What differs between two JSON values, as paths with the value on each side. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


class _Absent:
    """Stands on the side that lacks a path."""

    def __repr__(self) -> str:
        return "-"


ABSENT = _Absent()


@dataclass(frozen=True, slots=True)
class Difference:
    """A path such as `signature.inputs[0].shape[1]`, and what stands there: JSON, or ABSENT."""

    path: str
    before: Any
    after: Any

    def describe(self) -> dict[str, Any]:
        """Return the difference for machines; a side that lacks the path is left out."""
        sides = {"before": self.before, "after": self.after}
        return {"path": self.path, **{side: value for side, value in sides.items() if value is not ABSENT}}


def differences(before: Any, after: Any, path: str = "") -> Iterator[Difference]:
    """Yield what differs, in the order of paths; lists are compared place by place."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in sorted(before.keys() | after.keys()):
            inner = f"{path}.{key}" if path else str(key)
            yield from differences(before.get(key, ABSENT), after.get(key, ABSENT), inner)
    elif isinstance(before, list) and isinstance(after, list):
        for place in range(max(len(before), len(after))):
            first, second = (side[place] if place < len(side) else ABSENT for side in (before, after))
            yield from differences(first, second, f"{path}[{place}]")
    elif type(before) is not type(after) or before != after:
        yield Difference(path, before, after)
