"""What waits for a servable's instances, in the order in which it should run.

Order is priority, then the moment at which an entry is due, then arrival. Requests whose open dimensions differ cannot
share tensors and wait in lanes of their own. Entries that are late for a target are set aside: they are answered, but
nobody becomes late because of them. Not thread-safe; knows no clock and decides nothing.
"""

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from serving.batching.entries import Entry, Lane
from serving.batching.policy import NEVER, rank

Place = tuple[tuple[int, float, int], int, Entry]
"""Where an entry stands: its rank, a number that no other has, itself. Places compare by rank, then by number."""


@dataclass(slots=True)
class LaneQueue:
    """The entries of one lane, in order, and those that were set aside, in order of arrival."""

    places: list[Place] = field(default_factory=list)
    rows: int = 0
    aside: deque[Entry] = field(default_factory=deque)
    aside_rows: int = 0

    @property
    def head(self) -> Entry:
        """The entry to run first, of those that are not set aside."""
        return self.places[0][-1]

    def due_ns(self, sizes: Sequence[int], target_ns: float) -> tuple[list[float], float]:
        """Return when row number `sizes[k]` is due, NEVER beyond the last row, and when the last row is."""
        moments: list[float] = []
        rows, level = 0, 0
        for _, _, entry in self.places:
            rows += entry.rows
            while level < len(sizes) and sizes[level] <= rows:
                moments.append(due_ns(entry, target_ns))
                level += 1
            if level == len(sizes):
                break
        moments += [NEVER] * (len(sizes) - level)
        return moments, due_ns(self.places[-1][-1], target_ns)


class Queue:
    """The entries of one servable. `target_ns` is the servable's objective, NEVER without one.

    `rows`, `requests` and `input_bytes` count all that waits, `aside_rows` what of it was set aside.
    """

    def __init__(self, target_ns: float) -> None:
        self.target_ns = target_ns
        self.rows = 0
        self.input_bytes = 0
        self.lanes: dict[Lane, LaneQueue] = {}
        self._places: list[Place] = []
        self._place_of: dict[Entry, Place] = {}
        self._aside: dict[Entry, None] = {}
        self._spare: LaneQueue | None = None  # an empty one; mostly one lane comes and goes
        self._next_number = 0

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits."""
        return not self._place_of and not self._aside

    def __len__(self) -> int:
        return len(self._place_of) + len(self._aside)

    def __contains__(self, entry: Entry) -> bool:
        return entry in self._place_of or entry in self._aside

    def __iter__(self) -> Iterator[Entry]:
        yield from (place[-1] for place in self._places)
        yield from self._aside

    @property
    def head(self) -> Entry | None:
        """The entry to run first, of those that are not set aside."""
        return self._places[0][2] if self._places else None

    @property
    def lone(self) -> Entry | None:
        """The only entry that waits, if it is one that is not set aside."""
        return self._places[0][2] if len(self._places) == 1 and not self._aside else None

    @property
    def oldest_aside(self) -> Entry | None:
        """The entry that was set aside first."""
        return next(iter(self._aside), None) if self._aside else None

    @property
    def aside_rows(self) -> int:
        """How many rows were set aside."""
        return sum(lane.aside_rows for lane in self.lanes.values()) if self._aside else 0

    def add(self, entry: Entry) -> None:
        """Let an entry wait."""
        lane = self.lanes.get(entry.lane)
        if lane is None:
            lane, self._spare = self._spare or LaneQueue(), None
            self.lanes[entry.lane] = lane
        lane.rows += entry.rows
        self.rows += entry.rows
        self.input_bytes += entry.input_bytes
        self._next_number += 1
        self._put(entry, lane, self._next_number)

    def take_lone(self) -> None:
        """Let the only entry that waits leave, all of it."""
        ((_, _, entry),) = self._places
        lane = self.lanes.pop(entry.lane)
        self._places.clear()
        lane.places.clear()
        self._place_of.clear()
        self.rows = self.input_bytes = lane.rows = 0
        self._spare = lane

    def set_aside(self, entry: Entry) -> None:
        """Let a waiting entry run when nobody becomes late because of it."""
        lane = self.lanes[entry.lane]
        self._lift(entry, lane)
        lane.rows -= entry.rows
        lane.aside.append(entry)
        lane.aside_rows += entry.rows
        self._aside[entry] = None

    def shrink(self, entry: Entry, parts: Sequence[Entry]) -> None:
        """Note that parts of a waiting entry, or the entry itself, have left; what is left finds its place anew."""
        lane, is_aside = self.lanes[entry.lane], entry in self._aside
        for part in parts:
            self.rows -= part.rows
            self.input_bytes -= part.input_bytes
            if is_aside:
                lane.aside_rows -= part.rows
            else:
                lane.rows -= part.rows
        is_gone = not entry.requests or entry in parts
        if is_aside and is_gone:
            del self._aside[entry]
            lane.aside.remove(entry)
        elif not is_aside:
            self._move(entry, lane, is_gone=is_gone)
        if not lane.places and not lane.aside:
            self._spare = self.lanes.pop(entry.lane)

    def _move(self, entry: Entry, lane: LaneQueue, *, is_gone: bool) -> None:
        """Take an entry out, or put it where it belongs now that some of its requests have left."""
        rank_before, number, _ = self._place_of[entry]
        if is_gone:
            self._lift(entry, lane)
        elif (entry.deadline_ns is not None or rank_before[1] < NEVER) and self._rank(entry) != rank_before:
            self._lift(entry, lane)
            self._put(entry, lane, number)

    def _rank(self, entry: Entry) -> tuple[int, float, int]:
        return rank(entry.priority, due_ns(entry, self.target_ns), entry.arrival_ns)

    def _put(self, entry: Entry, lane: LaneQueue, number: int) -> None:
        place = (self._rank(entry), number, entry)
        for places in (self._places, lane.places):
            if not places or places[-1] < place:
                places.append(place)  # mostly what comes last is due last
            else:
                insort(places, place)
        self._place_of[entry] = place

    def _lift(self, entry: Entry, lane: LaneQueue) -> None:
        place = self._place_of.pop(entry)
        for places in (self._places, lane.places):
            index = 0 if places[0] is place else bisect_left(places, place)
            del places[index]


def due_ns(entry: Entry, target_ns: float) -> float:
    """Return when an entry is due: at its deadline or at its target, whichever comes first."""
    by_target_ns = entry.arrival_ns + target_ns
    return by_target_ns if entry.deadline_ns is None else min(by_target_ns, entry.deadline_ns)
