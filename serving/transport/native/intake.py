"""Takes requests that the kernels understand from the read buffer into groups.

Per servable there is an arena for the tensors, and beside each row of it one row of columns for the request that begins
there. All that comes for a servable in one turn of the event loop becomes one group, which is submitted when the
sockets are read.
"""

import logging
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from serving.batching.arena import row_bytes
from serving.batching.entries import Progress
from serving.clock import Timers
from serving.dataplane import DataPlane
from serving.errors import InternalError, ServingError
from serving.repository.handle import Handle
from serving.repository.routing import Routing
from serving.transport.native.answers import Answers
from serving.transport.native.blocks import error_block
from serving.transport.native.connection import Connection
from serving.transport.native.core import Core
from serving.transport.native.group import Door, Origin, Place, RequestGroup, Segment
from serving.transport.native.routes import Routes
from serving.types import InferRequest, InputTensor, RequestedOutput
from serving.wire.answer_blocks import as_array
from serving.wire.arrivals import note_requests
from serving.wire.infer import SLOTS_DIFFER, scan_requests
from serving.wire.layout import E_KIND, EVENT_REQUEST, SOURCE_BUFFER, SOURCE_PARTS, SOURCE_POOL
from serving.wire.plan import Model, Plan, build, is_compiled
from serving.wire.reads import take_read
from serving.wire.records import (
    ACCEPTED,
    ORDINARY,
    R_AT,
    R_ID_AT,
    R_ID_LENGTH,
    R_INPUT,
    R_LENGTH,
    R_OUTPUT,
    R_OUTPUT_COUNT,
    R_ROWS,
    R_SLOT,
    R_SOURCE,
    R_TEXT,
    R_VERDICT,
    RECORD_COLUMNS,
    REQUEST_COLUMNS,
)
from serving.wire.rows import take_rows

ARENA_ROWS_MAX = 65_536
"""A longer queue takes the rest on the ordinary path."""

_log = logging.getLogger(__name__)

REFUSED = 2
"""The verdict of a request that was answered by an error."""


class Read(NamedTuple):
    """What one connection brought in one read: its records, and a buffer in which messages of them lie."""

    connection: Connection
    records: NDArray[np.int64]
    buffer: NDArray[np.uint8]
    source: int
    arrival_ns: int


class Intake:
    """Compiled requests, from the read buffer to the queues of servables. Lives on the I/O thread."""

    def __init__(self, core: Core, data_plane: DataPlane, timers: Timers) -> None:
        self._core = core
        self._answers = Answers(core, data_plane)
        self._data_plane = data_plane
        self._admission = data_plane.admission
        self._timers = timers
        self._plan = build([])
        self._doors: list[Door | None] = []
        self._likely: Door | None = None  # for whose servable the last request was, unless its requests are spread
        self._routes: Routes | None = None
        self._open: list[Door] = []
        self._dying: dict[RequestGroup, None] = {}  # groups of which some request is not waited for any more
        self._numbers: NDArray[np.int64] = np.full(core.state.limits.streams, -1, np.int64)  # of the group, by stream
        self._record: NDArray[np.int64] = np.zeros((1, RECORD_COLUMNS), np.int64)

    # ---- what serves -----------------------------------------------------------------------------------------------

    def follow(self, handles: Sequence[Handle], routings: Sequence[Routing] = ()) -> None:
        """Decode requests for these servables from now on; what came for others takes the ordinary path.

        So does what is for a model of which some arm cannot be decoded for.
        """
        self.submit()
        named = len(handles)
        handles = [*handles, *(arm for routing in routings for arm in (routing.canary, routing.control))]
        known = {door.handle: door.place for door in self._doors if door is not None}
        places = {handle: known.get(handle) or self._place(handle) for handle in handles}
        ordinary = {routing.model for routing in routings if not (places[routing.canary] and places[routing.control])}
        places = {each: place if each.servable.name not in ordinary else None for each, place in places.items()}
        plan = build([_model(each, places[each], is_named=slot < named) for slot, each in enumerate(handles)])
        self._doors = [
            Door(each, plan, slot, place) if (place := places[each]) is not None and plan.is_compiled(slot) else None
            for slot, each in enumerate(handles)
        ]
        self._plan, self._likely = plan, None
        self._routes = self._routes_of(plan, [each for each in routings if each.model not in ordinary], handles)

    def _routes_of(self, plan: Plan, routings: Sequence[Routing], handles: Sequence[Handle]) -> Routes | None:
        """Return how requests are spread; None when none are, so that nothing is done for it."""
        if not routings:
            return None
        routes = Routes(plan, self._core.state.streams)
        for routing in routings:
            routes.add(routing, handles)
        return routes

    def _place(self, handle: Handle) -> Place | None:
        """Make a place for a servable's requests; None when its rows are too long for one.

        No message holds a row that is longer than itself, and then only the ordinary path can say so.
        """
        servable = handle.servable
        batching, signature = servable.config.batching, servable.signature
        bytes_per_row = sum(row_bytes(signature))
        if not is_compiled(signature) or bytes_per_row > self._core.state.limits.message_bytes:
            return None
        # What waits, what every instance runs, what is run here, and what is lost at the end of the ring.
        rows = batching.queue_rows_max + (servable.config.instances.count + 2) * servable.batch_rows_max
        rows = min(rows, ARENA_ROWS_MAX, 1 + 2 * batching.queue_bytes_max // bytes_per_row)
        try:
            place = Place(signature, rows)
        except MemoryError:
            _log.warning("%s/%d: no memory for its arena, so its requests are decoded one by one",
                         servable.name, servable.version)  # fmt: skip
            return None
        self._answers.reach(place.arena.capacity)
        return place

    # ---- in --------------------------------------------------------------------------------------------------------

    def take(self, connection: Connection, records: NDArray[np.int64], count: int, now_ns: int) -> tuple[int, int]:
        """Take what the kernels understand of the first `count` events; `records` has a row for each.

        Returns how many of them are requests, and how many of these need nothing more. The verdict of the others, in
        their records, is ORDINARY.
        """
        plan, events, buffer = self._plan, self._core.state.events, self._core.buffer
        door = self._likely if events[0, E_KIND] == EVENT_REQUEST else None
        group = (door.group or self._open_group(door, 1)) if door is not None else None
        if door is None or group is None:
            requests = note_requests(events, count, connection.slot, records, 0)
            accepted, slot = scan_requests(buffer, SOURCE_BUFFER, records, 0, requests, plan.numbers, plan.text)
            return requests, self._take_scanned(slot, connection, records[:requests], accepted, now_ns)
        batcher = door.handle.servable.batcher
        if batcher.has_target or batcher.submissions != group.seen_submissions:
            self._find_bound(door, group)
        place, origin, first = door.place, group.origin, group.last
        requests, accepted, slot, taken, row_end, last, deadline_ns = take_read(
            events, count, connection.slot, records, buffer, plan.numbers, plan.text, door.slot, place.arena.octets,
            group.row_end, group.row_bound, place.columns, first, place.ids, self._numbers, origin.number,
            self._admission.room,
        )  # fmt: skip
        if last > first:
            self._admission.admit_many(last - first)
            group.grow(Segment(connection, first, last, now_ns), row_end, deadline_ns)
        if taken < requests:
            left = records[taken:requests]
            taken += self._take_scanned(slot, connection, left, accepted - taken, now_ns)
        return requests, taken

    def _take_scanned(
        self, slot: int, connection: Connection, records: NDArray[np.int64], accepted: int, now_ns: int
    ) -> int:
        """Take what is accepted of records, of which those in the pool are still to be scanned; return how many.

        So many as are `accepted` lie in the read buffer, and are all for `slot` if that is one.
        """
        plan, count, pool = self._plan, len(records), self._core.state.pool
        in_pool, pool_slot = 0, SLOTS_DIFFER
        if accepted < count:
            in_pool, pool_slot = scan_requests(pool, SOURCE_POOL, records, 0, count, plan.numbers, plan.text)
        if not accepted + in_pool:
            return 0
        if self._routes is not None:
            slot = self._routes.spread(self._core.buffer, SOURCE_BUFFER, records)
            pool_slot = self._routes.spread(pool, SOURCE_POOL, records)
        admitted, error = self._admission.admit_many(accepted + in_pool)
        if error is not None:
            chosen = np.flatnonzero(records[:, R_VERDICT] == ACCEPTED)[admitted:]
            self._refuse_records(connection, records, chosen, error)
        if not admitted:
            return accepted + in_pool
        read = Read(connection, records, self._core.buffer, SOURCE_BUFFER, now_ns)
        left = self._take_read(slot, read) if accepted else 0
        if in_pool:
            left += self._take_read(pool_slot, read._replace(buffer=pool, source=SOURCE_POOL))
        return accepted + in_pool - left

    def read(self, octets: NDArray[np.uint8]) -> InferRequest | None:
        """Read a large message whose tensors stay where they are; None when the kernels do not understand it."""
        plan, record = self._plan, self._record
        record[0, R_SOURCE], record[0, R_AT], record[0, R_LENGTH] = SOURCE_PARTS, 0, octets.size
        accepted, slot = scan_requests(octets, SOURCE_PARTS, record, 0, 1, plan.numbers, plan.text)
        return request_of(plan.models[slot], octets, record[0].tolist()) if accepted else None

    def _take_read(self, slot: int, read: Read) -> int:
        """Take the accepted requests of a read, which are all for `slot` if that is one; return how many are left."""
        if slot != SLOTS_DIFFER:
            return self._take_slot(slot, read)
        verdicts, slots = read.records[:, R_VERDICT].tolist(), read.records[:, R_SLOT].tolist()
        wanted = {slot for slot, verdict in zip(slots, verdicts, strict=True) if verdict == ACCEPTED}
        return sum(self._take_slot(each, read) for each in sorted(wanted))

    def _take_slot(self, slot: int, read: Read) -> int:
        """Take the accepted requests of one servable; return how many are left to the ordinary path.

        Those are what finds no place in the arena, where a batch that takes long can keep the rows of many others, and
        what comes when the servable has retired.
        """
        door = self._doors[slot]
        assert door is not None, "bug: the kernels accepted what they cannot decode"
        self._likely = door if self._routes is None or slot not in self._routes.slots else None
        record, wanted_rows = 0, 1
        while record < len(read.records):
            group = door.group or self._open_group(door, wanted_rows)
            if group is None:
                return self._leave(slot, read.records[record:], read.source)
            record, wanted_rows = self._grow(door, group, read, record)
        return 0

    def _grow(self, door: Door, group: RequestGroup, read: Read, record: int) -> tuple[int, int]:
        """Take requests into a group until one finds no room; return the first that is still to be seen, and its rows.

        A request for which the queue has no room is refused.
        """
        place, first = door.place, group.last
        arena, batcher = place.arena, door.handle.servable.batcher
        row_bound = self._find_bound(door, group)
        record, row_end, last, deadline_ns = take_rows(
            read.buffer, read.source, read.records, record, len(read.records), door.plan.numbers, door.slot,
            arena.octets, group.row_end, group.row_bound, place.columns, first, place.ids, self._numbers,
            group.origin.number,
        )  # fmt: skip
        if last > first:
            group.grow(Segment(read.connection, first, last, read.arrival_ns), row_end, deadline_ns)
        if record == len(read.records):
            return record, 1
        rows = int(read.records[record, R_ROWS])
        if row_end + rows > row_bound:
            input_bytes = max(int(read.records[record, R_LENGTH]), rows * arena.row_bytes)
            error = batcher.refusal(rows, input_bytes)
            chosen, record = _alike(read, record)
            self._refuse_records(read.connection, read.records, chosen, error, door)
            return record, 1
        self._submit(door)  # the ring goes round, and the next group begins elsewhere
        return record, rows

    def _find_bound(self, door: Door, group: RequestGroup) -> int:
        """Note how far a group may reach until something else is queued; return how far the queue alone would let it.

        Room that others make meanwhile is found when it is needed. Where rows are let in as far as they can be answered
        in time, those of the group itself count too, and this is asked before each read.
        """
        arena, batcher = door.place.arena, door.handle.servable.batcher
        row_bound = group.row_end + batcher.room_rows(arena.row_bytes)
        group.row_bound = min(arena.room(group.origin.lease), row_bound)
        group.seen_submissions = batcher.submissions
        return row_bound

    def _open_group(self, door: Door, rows: int) -> RequestGroup | None:
        """Begin a group that has a place for so many rows, at least; None without a place or a servable."""
        if not door.handle.acquire():
            return None
        arena, batcher = door.place.arena, door.handle.servable.batcher
        lease = arena.lease(rows)
        if lease is None:
            door.handle.release()
            return None
        origin = Origin(self._answers, self._answers.next_number(), door, lease)
        group = door.group = RequestGroup(origin, arena, door.place.lane, [(lease.begin, lease.begin)])
        self._find_bound(door, group)
        batcher.reserve(group)
        self._answers.groups[origin.number] = group
        self._open.append(door)
        self._core.wake()
        return group

    def _leave(self, slot: int, records: NDArray[np.int64], source: int) -> int:
        """Leave accepted requests to the ordinary path; return how many."""
        accepted = records[:, R_VERDICT] == ACCEPTED
        mine = accepted & (records[:, R_SLOT] == slot) & (records[:, R_SOURCE] == source)
        records[mine, R_VERDICT] = ORDINARY
        count = int(mine.sum())
        self._data_plane.leave_undone(count)
        return count

    def _refuse_records(
        self, connection: Connection, records: NDArray[np.int64], chosen: NDArray[np.int64], error: ServingError,
        door: Door | None = None,
    ) -> None:  # fmt: skip
        """Answer requests that are in no group by an error; the verdict of each becomes REFUSED."""
        records[chosen, R_VERDICT] = REFUSED
        requests = np.ascontiguousarray(records[chosen, :REQUEST_COLUMNS])
        connection.outbox.refuse_all(requests, np.arange(chosen.size), as_array(error_block(error)), 0, chosen.size)
        self._core.mark(connection)
        self._data_plane.refuse_many(error, chosen.size, door.handle.servable if door is not None else None)

    # ---- on ---------------------------------------------------------------------------------------------------------

    def drop(self, streams: NDArray[np.int64]) -> None:
        """Note that nobody waits for what these streams have asked; it leaves the queue in this turn."""
        for number in np.unique(self._numbers[streams]).tolist():
            if (group := self._answers.groups.get(number)) is not None:
                self._dying[group] = None
                self._core.wake_again()

    def submit(self) -> bool:
        """Hand the groups of this turn to their servables. A phase of the turn, after everything was read."""
        doors, self._open = self._open, []
        for door in doors:
            if door.group is not None:
                try:
                    self._submit(door)
                except Exception:  # noqa: BLE001 - a mistake with one servable must not strand the others' requests
                    _log.exception("the requests of one turn for a servable could not be submitted")
        dying, self._dying = self._dying, {}
        for group in dying:
            if group.requests and group.progress is Progress.WAITING:
                group.origin.servable.expire(group)
        return False

    def _submit(self, door: Door) -> None:
        group, door.group = door.group, None
        assert group is not None, "bug: there is no group to submit"
        servable = door.handle.servable
        servable.batcher.reserve(None)
        door.place.arena.end(group.origin.lease, group.row_end)
        if not group.requests:  # its only requests were refused
            self._answers.close(group.origin)
            return
        group.origin.open_requests = group.requests
        self._watch(group)
        try:
            servable.submit(group)
        except ServingError as error:
            group.settle(error)
        except Exception:  # noqa: BLE001 - a mistake of ours must not keep permits, rows and the servable for ever
            _log.exception("a group could not be submitted")
            group.settle(InternalError())

    def _watch(self, group: RequestGroup) -> None:
        """See that what expires in the queue is answered then, and not when its turn comes.

        What expires while it runs is answered when its batch has run: it holds its rows until then.
        """
        if group.deadline_ns is not None:
            group.origin.timer = self._timers.call_at_ns(group.deadline_ns, lambda: self._expire(group))

    def _expire(self, group: RequestGroup) -> None:
        group.origin.timer = None
        if group.requests and group.progress is Progress.WAITING:
            group.origin.servable.expire(group)
            if group.requests:
                self._watch(group)


def _alike(read: Read, record: int) -> tuple[NDArray[np.int64], int]:
    """Return the records that are refused as `record` is, and the first behind it that may be not.

    Those are the accepted ones of its servable that follow, up to one of other lengths.
    """
    records = read.records[record:]
    first = records[0]
    mine = (records[:, R_VERDICT] == ACCEPTED) & (records[:, R_SOURCE] == read.source)
    mine &= records[:, R_SLOT] == first[R_SLOT]
    differs = mine & ((records[:, R_ROWS] != first[R_ROWS]) | (records[:, R_LENGTH] != first[R_LENGTH]))
    end = int(np.argmax(differs)) if differs.any() else len(records)
    return np.flatnonzero(mine[:end]) + record, record + end


def _model(handle: Handle, place: Place | None, *, is_named: bool) -> Model:
    servable = handle.servable
    return Model(
        name=servable.name,
        version=servable.version,
        signature=servable.signature,
        rows_max=servable.batch_rows_max,
        has_place=place is not None,
        is_named=is_named,
    )


def request_of(model: Model, octets: NDArray[np.uint8], record: list[int]) -> InferRequest:
    """Return the request that a record of a message describes; its tensors are views of the message."""
    signature, rows = model.signature, record[R_ROWS]
    inputs = []
    for index, (spec, count) in enumerate(zip(signature.inputs, row_bytes(signature), strict=True)):
        begin = record[R_INPUT + index]
        shape = (rows, *spec.shape[1:]) if signature.batchable else spec.shape
        raw = octets[begin : begin + rows * count].data
        inputs.append(InputTensor(spec.name, spec.datatype.wire_name, shape, raw))
    outputs = record[R_OUTPUT : R_OUTPUT + record[R_OUTPUT_COUNT]]
    version_at, version_end = record[R_TEXT + 2], record[R_TEXT + 3]
    id_at = record[R_ID_AT]
    return InferRequest(
        model_name=model.name,
        model_version=str(model.version) if version_end > version_at else "",
        id=octets[id_at : id_at + record[R_ID_LENGTH]].tobytes().decode(),
        inputs=tuple(inputs),
        outputs=tuple(RequestedOutput(signature.outputs[index].name) for index in outputs),
        raw_count=len(inputs),
        wire_bytes=octets.size,
    )
