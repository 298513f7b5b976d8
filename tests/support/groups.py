"""Groups of compiled requests without sockets: as `Intake` makes them, settled into lists in place of outboxes.

Every request has a number; it is the row of its stream, and what all elements of its rows hold.
"""

from collections import defaultdict
from typing import NamedTuple

import numpy as np

from serving.errors import ServingError
from serving.repository.handle import Handle
from serving.transport.native.group import Door, Origin, Place, RequestGroup, Segment
from serving.wire.layout import NO_DEADLINE, S_STATE, STREAM_COLUMNS, STREAM_OPEN, STREAM_RESET
from serving.wire.records import R_DEADLINE_NS, R_ROW, R_ROWS, R_STREAM, R_STREAM_GENERATION
from tests.support.sessions import AFFINE

WIDTH = 4  # of AFFINE
ROW_BYTES = 4 * WIDTH


class Asked(NamedTuple):
    """A compiled request: its rows, and when nobody waits for it any more."""

    rows: int = 1
    deadline_ns: int = NO_DEADLINE


class Ledger:
    """`group.Settling`: `answers` are what each request got, by its number.

    `leave` is told of every part that is settled, as the data plane is.
    """

    def __init__(self, now_ns, leave=lambda servable, error, arrivals: None, streams=4096):
        self.now_ns = now_ns
        self.deaths = 0
        self.streams = np.zeros((streams, STREAM_COLUMNS), np.int64)
        self.streams[:, S_STATE] = STREAM_OPEN
        self.answers = defaultdict(list)
        self._leave = leave

    def kill(self, number):
        """Reset a request's stream."""
        self.streams[number, S_STATE] |= STREAM_RESET
        self.deaths += 1

    def settle(self, group, result):
        """See `Settling`."""
        if isinstance(result, ServingError):
            self._refuse(group, result)
        else:
            self._answer(group, result)

    def _answer(self, group, outputs):
        at = 0
        for number, rows in requests_of(group):
            self.answers[number].append([output[at : at + rows] for output in outputs])
            at += rows
        assert all(len(output) == at == group.rows for output in outputs)
        self._settled(group, None)

    def _refuse(self, group, error):
        for number, _ in requests_of(group):
            self.answers[number].append(error)
        self._settled(group, error)

    def _settled(self, group, error):
        origin = group.origin
        self._leave(origin.servable, error, group.arrivals)
        group.arena.give_back(origin.lease, group.rows)
        origin.open_requests -= group.requests
        assert origin.open_requests >= 0
        if not origin.open_requests:
            origin.handle.release()


class Intake:
    """Puts requests into one servable's arena, and makes groups of them."""

    def __init__(self, ledger, handle=None, rows_max=1024):
        self._place = Place(AFFINE, rows_max)
        self.arena = self._place.arena
        self._ledger = ledger
        self._door = Door(handle or Handle(None), None, 0, self._place)
        self.asked = []

    def group(self, segments, arrival_ns=0):
        """Make a group of (connection, requests) that come one after the other, 1 ns apart; None without room."""
        if not self._door.handle.acquire():
            return None
        lease = self.arena.lease(sum(asked.rows for _, requests in segments for asked in requests))
        if lease is None:
            self._door.handle.release()
            return None
        group = RequestGroup(
            Origin(self._ledger, 1, self._door, lease), self.arena, self._place.lane, [(lease.begin,) * 2]
        )
        for number, (connection, requests) in enumerate(segments):
            self._grow(group, connection, requests, arrival_ns + number)
        self.arena.end(lease, group.row_end)
        group.origin.open_requests = group.requests
        return group

    def _grow(self, group, connection, requests, arrival_ns):
        first, row = group.last, group.row_end
        for place, asked in enumerate(requests, first):
            number = len(self.asked)
            self.asked.append(asked)
            columns = self._place.columns[place]
            columns[[R_STREAM, R_STREAM_GENERATION, R_ROW, R_ROWS]] = number, 0, row, asked.rows
            columns[R_DEADLINE_NS] = asked.deadline_ns
            self.arena.inputs(row, row + asked.rows)[0][:] = number
            row += asked.rows
        segment = Segment(connection, first, first + len(requests), arrival_ns)
        group.grow(segment, row, min(asked.deadline_ns for asked in requests))


def requests_of(group):
    """Return (number, rows) of each request of a group, in order."""
    return [
        (columns[R_STREAM], columns[R_ROWS])
        for segment in group.segments()
        for columns in group.origin.requests[segment.first : segment.last].tolist()
    ]


def numbers(group):
    """Return the numbers of a group's requests, in order."""
    return [number for number, _ in requests_of(group)]
