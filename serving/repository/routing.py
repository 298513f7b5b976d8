"""Which requests of a model belong to which arm of a rollout. Pure but for who counts those without a key.

The rule is `serving.wire.routes`, for requests that come one by one.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

from serving.repository.handle import Handle

POINTS = 1 << 32
ROUTE_HEADER = "penstock-route"
"""The metadata of a call that says by what it is routed; without it, that is the request's id."""

_HASH_START, _HASH_PRIME = 0xCBF29CE484222325, 0x100000001B3
_GAMMA, _MIX_A, _MIX_B = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_WORD = (1 << 64) - 1


def key_of(text: bytes) -> int:
    """Return the key by which a request is routed that says `text`; never 0, which stands for no key (FNV-1a)."""
    state = _HASH_START
    for byte in text:
        state = (state ^ byte) * _HASH_PRIME & _WORD
    return state >> 1 | 1


def point_of(key: int, salt: int) -> int:
    """Return where a key lies among POINTS: the mixing step of splitmix64 (Steele, Lea, Flood, OOPSLA 2014)."""
    mixed = ((key ^ salt) + _GAMMA) & _WORD
    mixed = (mixed ^ mixed >> 30) * _MIX_A & _WORD
    mixed = (mixed ^ mixed >> 27) * _MIX_B & _WORD
    return (mixed ^ mixed >> 31) >> 32


@dataclass(frozen=True, slots=True)
class Routing:
    """A canary and its control, which get `below` of POINTS each of a model's requests that name no version."""

    model: str
    salt: int
    below: int
    canary: Handle
    control: Handle
    drawn: Iterator[int] = field(default_factory=lambda: itertools.count(1), compare=False)

    def arm(self, key: int) -> Handle | None:
        """Return the arm of a request with this key, 0 for none; None for those that stay. Not acquired."""
        point = point_of(key or next(self.drawn), self.salt)
        if point < self.below:
            return self.canary
        return self.control if point >= POINTS - self.below else None
