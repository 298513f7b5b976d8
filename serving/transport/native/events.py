"""What the decoder tells of: requests for the kernels, and calls of the ordinary path.

It runs directly behind a decode call, while what the events point at is still true, and copies whatever lives longer.
"""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from serving.clock import Timers
from serving.transport.calls import SERVICE, Methods
from serving.transport.native.blocks import error_block
from serving.transport.native.calls import OpenCall, StreamCall, UnaryCall
from serving.transport.native.connection import Connection
from serving.transport.native.core import Core
from serving.transport.native.intake import Intake
from serving.transport.native.messages import Messages
from serving.transport.native.ordinary import OrdinaryWork
from serving.wire.answer_blocks import FAILURES, UNIMPLEMENTED, error
from serving.wire.layout import (
    ENCODING_IDENTITY,
    EVENT_CLOSED,
    EVENT_ENDED,
    EVENT_FAILED,
    EVENT_GOAWAY,
    EVENT_MESSAGE,
    EVENT_NOT_HTTP2,
    EVENT_OPENED,
    EVENT_PART,
    EVENT_PONG,
    EVENT_REQUEST,
    EVENT_RESET,
    EVENT_WRITABLE,
    NO_DEADLINE,
    S_GENERATION,
    S_STATE,
    SOURCE_BUFFER,
    SOURCE_PARTS,
    STREAM_FAILED,
)
from serving.wire.outbox import DRAIN_PING
from serving.wire.records import ORDINARY, R_VERDICT, RECORD_COLUMNS

MODEL_INFER = f"/{SERVICE}/ModelInfer"


class Event:
    """One row of the events."""

    __slots__ = ("at", "deadline_ns", "detail", "encoding", "generation", "kind", "length", "source", "stream")

    def __init__(self, row: list[int]) -> None:
        kind, stream, generation, _, source, at, length, detail, deadline_ns, encoding = row
        self.kind = kind
        self.stream = stream
        self.generation = generation
        self.source = source
        self.at = at
        self.length = length
        self.detail = detail
        self.deadline_ns = deadline_ns if deadline_ns < NO_DEADLINE else None
        self.encoding = encoding


class Events:
    """Sorts the events of a connection. Lives on the I/O thread."""

    def __init__(
        self, core: Core, methods: Methods, intake: Intake, messages: Messages, work: OrdinaryWork, timers: Timers
    ) -> None:
        self._core = core
        self._methods = methods
        self._intake = intake
        self._messages = messages
        self._work = work
        self._timers = timers
        self._records: NDArray[np.int64] = np.zeros((core.state.limits.events, RECORD_COLUMNS), np.int64)
        self._handlers: dict[int, Callable[[Connection, Event], None]] = {
            EVENT_REQUEST: self._request,
            EVENT_OPENED: self._opened,
            EVENT_MESSAGE: self._message,
            EVENT_PART: self._part,
            EVENT_ENDED: self._ended,
            EVENT_FAILED: self._failed,
            EVENT_RESET: self._reset,
            EVENT_WRITABLE: self._writable,
            EVENT_PONG: self._pong,
            EVENT_GOAWAY: _nothing,
            EVENT_CLOSED: _nothing,  # the decoder's status says so too
            EVENT_NOT_HTTP2: self._not_http2,
        }

    def take(self, connection: Connection, count: int, now_ns: int) -> None:
        """Take the first `count` events, which the connection's last decode call has put out."""
        core, records = self._core, self._records
        requests, taken = self._intake.take(connection, records, count, now_ns)
        if taken == count:
            return
        verdicts: Iterator[int] = iter(records[:requests, R_VERDICT].tolist())
        for row in core.state.events[:count].tolist():
            event = Event(row)
            if event.kind == EVENT_REQUEST and next(verdicts) != ORDINARY:
                continue
            if event.stream < 0 or event.generation == core.state.streams[event.stream, S_GENERATION]:
                self._handlers[event.kind](connection, event)
            if connection.is_closed:
                return

    # ---- calls of the ordinary path --------------------------------------------------------------------------------

    def _request(self, connection: Connection, event: Event) -> None:
        """Take a complete ModelInfer that the kernels declined."""
        call = self._unary(connection, event, MODEL_INFER)
        if event.source == SOURCE_PARTS and event.encoding == ENCODING_IDENTITY:
            octets = self._messages.take_parts(connection, event.stream)
            request = self._intake.read(octets)
            if request is not None:
                call.decoded(request, self._methods.infer)
                return
            data = octets.tobytes()
        else:
            data = self._bytes(connection, event)
        self._messages.deliver(call, data, event.encoding)
        self._messages.deliver_end(call)

    def _opened(self, connection: Connection, event: Event) -> None:
        path = _path(self._core.state.headers, event.at, event.at + event.length)
        if path in self._methods.unary:
            self._core.incomplete[self._unary(connection, event, path)] = self._core.now_ns()
        elif (method := self._methods.streaming.get(path)) is not None:
            call = StreamCall(
                connection, event.stream, event.generation, event.deadline_ns,
                flush=self._core.mark, queue=self._work.add,
            )  # fmt: skip
            if event.deadline_ns is not None:
                call.timer = self._timers.call_at_ns(event.deadline_ns, call.expire)
            call.begin(method)
        else:
            self._refuse(connection, event, error(UNIMPLEMENTED, "Method not found!"))

    def _unary(self, connection: Connection, event: Event, path: str) -> UnaryCall:
        return UnaryCall(
            connection, event.stream, event.generation, event.deadline_ns,
            method=self._methods.unary[path], flush=self._core.mark, queue=self._work.add,
        )  # fmt: skip

    def _message(self, connection: Connection, event: Event) -> None:
        if (call := _call(connection, event)) is not None:
            self._messages.deliver(call, self._bytes(connection, event), event.encoding)

    def _part(self, connection: Connection, event: Event) -> None:
        part = self._core.buffer[event.at : event.at + event.length]
        problem = self._messages.add_part(connection, event.stream, part, event.detail)
        if problem is None:
            return
        self._core.state.streams[event.stream, S_STATE] |= STREAM_FAILED  # what still comes of it is dropped
        if (call := _call(connection, event)) is not None:
            call.failed(error_block(problem))
        else:
            self._refuse(connection, event, error_block(problem))

    def _ended(self, connection: Connection, event: Event) -> None:
        if (call := _call(connection, event)) is not None:
            self._messages.deliver_end(call)

    def _failed(self, connection: Connection, event: Event) -> None:
        self._messages.drop_parts(connection, event.stream)
        if (call := _call(connection, event)) is not None:
            call.failed(FAILURES[event.detail])
        else:
            self._refuse(connection, event, FAILURES[event.detail])

    def _reset(self, connection: Connection, event: Event) -> None:
        """Note the death of a stream; a compiled request of it leaves its group, which releases the row."""
        self._core.deaths += 1
        self._core.mark(connection)
        had_parts = event.stream in connection.parts
        self._messages.drop_parts(connection, event.stream)
        if (call := _call(connection, event)) is not None:
            call.gone()
        elif had_parts:
            connection.outbox.refuse(event.stream, event.generation, b"")  # nothing is written, the row is released
        else:
            self._intake.drop(np.array([event.stream]))

    def _refuse(self, connection: Connection, event: Event, block: bytes) -> None:
        connection.outbox.refuse(event.stream, event.generation, block)
        self._core.mark(connection)

    def _bytes(self, connection: Connection, event: Event) -> bytes:
        """Return a message, as bytes that last."""
        if event.source == SOURCE_PARTS:
            return self._messages.take_parts(connection, event.stream).tobytes()
        source = self._core.buffer if event.source == SOURCE_BUFFER else self._core.state.pool
        return source[event.at : event.at + event.length].tobytes()

    # ---- about the connection --------------------------------------------------------------------------------------

    def _writable(self, connection: Connection, event: Event) -> None:  # noqa: ARG002 - a handler's signature
        self._core.mark(connection)

    def _pong(self, connection: Connection, event: Event) -> None:
        if event.detail == DRAIN_PING:
            connection.end_drain()

    def _not_http2(self, connection: Connection, event: Event) -> None:  # noqa: ARG002 - a handler's signature
        connection.close(self._core.buffer[:1].tobytes())


def _nothing(connection: Connection, event: Event) -> None:
    """There is nothing to do."""


def _call(connection: Connection, event: Event) -> OpenCall | None:
    """Return the call of the stream that an event names, if there still is one."""
    call = connection.calls.get(event.stream)
    return call if call is not None and call.generation == event.generation else None


def _path(records: NDArray[np.uint8], at: int, end: int) -> str:
    """Return the :path of header records: two little-endian lengths, a name and a value each."""
    block = records[at:end].tobytes()
    at = 0
    while at < len(block):
        name_bytes, value_bytes = (int.from_bytes(block[at + k : at + k + 4], "little") for k in (0, 4))
        name_end = at + 8 + name_bytes
        if block[at + 8 : name_end] == b":path":
            return block[name_end : name_end + value_bytes].decode("ascii", errors="replace")
        at = name_end + value_bytes
    return ""
