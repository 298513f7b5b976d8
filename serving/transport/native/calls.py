"""Calls of the ordinary path: what services see of a stream of HTTP/2.

Each holds the row of its stream from the first event that names it until it is settled, or until the connection is
gone, and settles through the connection's outbox. All live on the I/O thread.
"""

import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from serving.clock import TimerHandle
from serving.errors import BrokenCall, Cancelled, DeadlineExceeded, InternalError, ServingError
from serving.transport.calls import STREAM_MESSAGES_MAX, Call, Message, StreamMethod, StreamReceiver, UnaryMethod
from serving.transport.native.blocks import error_block, trailers_of
from serving.transport.native.connection import Connection
from serving.types import InferRequest
from serving.wire.answer_blocks import OK, trailers
from serving.wire.layout import S_ROUTE

MESSAGE_COST_BYTES = 256
"""What a message of a stream counts for beside its bytes while it waits."""
JOINED_BYTES_MAX = 65_536
"""A longer message is handed on in its pieces, and joined only in what is written at a time."""

_OK_TRAILERS = trailers(OK)
_log = logging.getLogger(__name__)

Flush = Callable[[Connection], None]
"""Has a connection flushed at the end of the turn."""


class OpenCall(Protocol):
    """A call whose stream an event has named."""

    connection: Connection
    stream: int
    generation: int

    @property
    def is_over(self) -> bool:
        """Whether nothing that still comes of the call matters."""

    def note_backlog(self, messages: int) -> None:
        """Be told how many messages wait behind one that is being inflated."""

    def message(self, data: bytes) -> None:
        """Take a message."""

    def ended(self) -> None:
        """Take the end of what the client sends."""

    def failed(self, block: bytes) -> None:
        """Answer with an error that the wire has found."""

    def gone(self) -> None:
        """The client has reset the stream or closed the connection."""


class _Base:
    """Whose call it is, and how it is let go."""

    def __init__(self, connection: Connection, stream: int, generation: int, deadline_ns: int | None) -> None:
        self.connection = connection
        self.stream = stream
        self.generation = generation
        self.deadline_ns = deadline_ns
        self._held_bytes = 0
        self._backlog = 0  # messages that wait behind one that is being inflated
        self._is_forgotten = False
        connection.calls[stream] = self  # type: ignore[assignment]

    @property
    def peer_host(self) -> str | None:
        """See `calls.Call`."""
        return self.connection.peer_host

    @property
    def peer_names(self) -> Sequence[str]:
        """See `calls.Call`."""
        return self.connection.peer_names

    @property
    def traceparent(self) -> str:
        """See `calls.Call`; of the headers of ModelInfer the kernels keep what they look at themselves."""
        return ""

    @property
    def route(self) -> int:
        """See `calls.Call`; the stream's row is held until the call is over."""
        return int(self.connection.core.state.streams[self.stream, S_ROUTE])

    @property
    def is_over(self) -> bool:
        """See `OpenCall`."""
        return self._is_forgotten

    def hold(self, octets: int) -> None:
        """Count bytes of messages that this call holds; a negative number lets go of them.

        A call that is over holds nothing any more.
        """
        if not self._is_forgotten:
            self._held_bytes += octets
            self.connection.core.held_bytes += octets

    def note_backlog(self, messages: int) -> None:
        """See `OpenCall`."""
        self._backlog = messages
        if messages >= STREAM_MESSAGES_MAX:
            self.connection.outbox.pause(self.stream, self.generation)

    def _forget(self) -> bool:
        """Let the connection forget this call; say whether it can still be written to."""
        self.hold(-self._held_bytes)
        self._is_forgotten = True
        self.connection.core.incomplete.pop(self, None)  # type: ignore[call-overload]
        call = self.connection.calls.get(self.stream)
        if call is not None and call.generation == self.generation:
            del self.connection.calls[self.stream]
        return not self.connection.is_closed


class UnaryCall(_Base):
    """A unary call: `run` hands its one message to the method when the turn has time for it."""

    takes_pieces = True

    def __init__(
        self, connection: Connection, stream: int, generation: int, deadline_ns: int | None, *,
        method: UnaryMethod, flush: Flush, queue: Callable[["UnaryCall"], None],
    ) -> None:  # fmt: skip
        super().__init__(connection, stream, generation, deadline_ns)
        self.on_cancel: Callable[[], None] | None = None
        self._method = method
        self._flush = flush
        self._queue = queue
        self._messages: list[bytes] = []
        self._is_queued = False
        self._is_gone = False
        self._is_settled = False

    def message(self, data: bytes) -> None:
        """See `OpenCall`."""
        if self._is_settled:
            return
        self.hold(len(data))
        self._messages = [*self._messages[:1], data]  # two are as wrong as more

    def ended(self) -> None:
        """See `OpenCall`."""
        if not self._is_settled:
            self._is_queued = True
            self.connection.core.incomplete.pop(self, None)
            self._queue(self)

    def failed(self, block: bytes) -> None:
        """See `OpenCall`."""
        self._refuse(block)

    def gone(self) -> None:
        """See `OpenCall`. The row is released when the work is settled, so that it counts until then."""
        self._is_gone = True
        if self.on_cancel is not None:
            self.on_cancel()
        elif self.connection.is_closed or not self._is_queued:
            self.settle(Cancelled("the client cancelled the request"))

    def decoded(self, request: InferRequest, infer: Callable[[InferRequest, Call], None]) -> None:
        """Take the whole request, read already; `infer` stands for the method."""
        self.hold(request.wire_bytes)
        self._method = lambda _, call: infer(request, call)
        self._messages = [b""]
        self.ended()

    def run(self) -> None:
        """Let the method answer."""
        if self._is_settled:
            return
        if self._is_gone:
            self.settle(Cancelled("the client cancelled the request"))
            return
        if len(self._messages) != 1:
            self.settle(BrokenCall("a unary call carries exactly one message"))
            return
        data = self._messages.pop()
        try:
            self._method(data, self)
        except Exception:  # noqa: BLE001 - logged, and answered
            _log.exception("a method failed")
            self.settle(InternalError())

    def settle(self, answer: Message | ServingError) -> None:
        """See `calls.Call`."""
        if isinstance(answer, ServingError):
            self._refuse(error_block(answer))
        elif not self._is_settled:
            self._is_settled = True
            if self._forget():
                self.connection.outbox.answer(self.stream, self.generation, prefixed(answer))
                self._flush(self.connection)

    def _refuse(self, block: bytes) -> None:
        if self._is_settled:
            return
        self._is_settled = True
        if self._forget():
            self.connection.outbox.refuse(self.stream, self.generation, block)
            self._flush(self.connection)


class StreamCall(_Base):
    """A streaming call: `run` hands one message after the other to the receiver.

    At most `STREAM_MESSAGES_MAX` answers wait beside a full outbox; then the receiver gets no further message. What the
    client sends in the meantime is bounded by the stream's receive window. Messages and answers count, an empty one
    too, against the bytes that are held for all calls; a stream whose answer finds no room there is ended.
    """

    def __init__(
        self, connection: Connection, stream: int, generation: int, deadline_ns: int | None, *,
        flush: Flush, queue: Callable[["StreamCall"], None],
    ) -> None:  # fmt: skip
        super().__init__(connection, stream, generation, deadline_ns)
        self.timer: TimerHandle | None = None
        self._flush = flush
        self._queue = queue
        self._receiver: StreamReceiver | None = None
        self._inbox: deque[bytes | None] = deque()
        self._queued = 0  # how often it will be run
        self._unsent: deque[bytes] = deque()
        self._is_paused = False
        self._is_begun = False
        self._is_over = False
        self._last_block: bytes | None = None

    def begin(self, method: StreamMethod) -> None:
        """Connect the call with its method."""
        try:
            self._receiver = method(self)
        except Exception:  # noqa: BLE001 - logged, and answered
            _log.exception("a streaming method failed")
            self.finish(InternalError())

    # ---- from the client -------------------------------------------------------------------------------------------

    def message(self, data: bytes) -> None:
        """See `OpenCall`."""
        self._take(data)

    def ended(self) -> None:
        """See `OpenCall`."""
        self._take(None)

    def failed(self, block: bytes) -> None:
        """See `OpenCall`."""
        self._finish(trailers_of(block) if self._is_begun else block)

    def gone(self) -> None:
        """See `OpenCall`."""
        self._finish(b"")

    def expire(self) -> None:
        """The client's deadline has passed: what waits to be sent is of no use any more."""
        self.failed(error_block(DeadlineExceeded("the deadline passed before the call had ended")))

    def run(self) -> None:
        """Hand over one message, unless the receiver wants none."""
        self._queued -= 1
        if self._is_over or self._receiver is None or not self._inbox or not self._takes_messages:
            return
        data = self._inbox.popleft()
        try:
            if data is None:
                self._receiver.half_closed()
            else:
                self._receiver.message(data)
        except Exception:  # noqa: BLE001 - logged, and answered
            _log.exception("a streaming method failed")
            self.finish(InternalError())
        finally:
            self.hold(-_cost(data))

    def _take(self, data: bytes | None) -> None:
        if self._is_over:
            return
        self._inbox.append(data)
        self.hold(_cost(data))
        if self._is_crowded:
            self.connection.outbox.pause(self.stream, self.generation)
        self._go_on()

    @property
    def _is_crowded(self) -> bool:
        """Whether so many messages wait that the client must send no more."""
        return len(self._inbox) + self._backlog >= STREAM_MESSAGES_MAX

    @property
    def _takes_messages(self) -> bool:
        return not self._is_paused and len(self._unsent) < STREAM_MESSAGES_MAX

    # ---- to the client: calls.Stream -------------------------------------------------------------------------------

    def send(self, message: bytes) -> None:
        """See `calls.Stream`."""
        if self._is_over or self.connection.is_closed:
            return
        self._unsent.append(message)
        self.hold(_cost(message))
        self.push()
        core = self.connection.core
        if self._unsent and core.held_bytes > core.held_bytes_max:
            self.failed(error_block(core.no_room()))

    def keep(self, octets: int) -> Callable[[], None]:
        """See `calls.Stream`. They are no longer this call's, because they outlive it."""
        core = self.connection.core
        core.held_bytes += octets

        def let_go() -> None:
            core.held_bytes -= octets

        return let_go

    def push(self) -> None:
        """Hand what waits to the outbox, as far as that is not full. Also called when it has become less full."""
        outbox = self.connection.outbox
        while self._unsent and not outbox.is_full:
            self._begin()
            message = self._unsent.popleft()
            self.hold(-_cost(message))
            outbox.send(self.stream, self.generation, prefixed(message))
        if self._unsent:
            self.connection.stalled.add(self)
        else:
            self.connection.stalled.discard(self)
            if self._last_block is not None:
                self._finish(self._last_block)
        self._go_on()
        if self.connection.outbox.is_ready or self.connection.outbox.is_waiting:
            self._flush(self.connection)

    def finish(self, error: ServingError | None = None) -> None:
        """See `calls.Stream`."""
        if self._is_over or self.connection.is_closed:
            return
        if error is None:
            self._begin()
            block = _OK_TRAILERS
        else:
            block = error_block(error)
            if self._is_begun or self._unsent:
                block = trailers_of(block)
        if self._unsent:
            self._last_block = block
        else:
            self._finish(block)

    def pause(self) -> None:
        """See `calls.Stream`."""
        self._is_paused = True

    def resume(self) -> None:
        """See `calls.Stream`."""
        self._is_paused = False
        self._go_on()

    def _begin(self) -> None:
        if not self._is_begun:
            self._is_begun = True
            self.connection.outbox.open(self.stream, self.generation)

    def _go_on(self) -> None:
        """Have the messages that wait handed over, each in a turn of the queue."""
        if self._takes_messages:
            while self._queued < len(self._inbox):
                self._queued += 1
                self._queue(self)
            if not self._is_crowded:
                self.connection.outbox.resume(self.stream, self.generation)

    def _finish(self, block: bytes) -> None:
        """Write the end; the row is released by that."""
        if self._is_over:
            return
        self._is_over = True
        if self.timer is not None:
            self.timer.cancel()
        self._inbox.clear()
        self._unsent.clear()
        self.connection.stalled.discard(self)
        if self._forget():
            if self._is_begun:
                self.connection.outbox.finish(self.stream, self.generation, block)
            else:
                self.connection.outbox.refuse(self.stream, self.generation, block)
            self._flush(self.connection)
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            receiver.cancelled()


def _cost(message: bytes | None) -> int:
    """Return what a message of a stream counts for; the end of what the client sends counts nothing."""
    return len(message) + MESSAGE_COST_BYTES if message is not None else 0


def prefixed(message: Message) -> bytes | list[bytes | memoryview]:
    """Return a message behind gRPC's prefix, not compressed; a small one as a whole."""
    pieces = [message] if isinstance(message, bytes) else message
    length = sum(len(piece) for piece in pieces)
    prefix = b"\0" + length.to_bytes(4, "big")
    return b"".join((prefix, *pieces)) if length <= JOINED_BYTES_MAX else [prefix, *pieces]
