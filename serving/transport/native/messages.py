"""Messages that do not lie whole and plain in the read buffer: those that come in parts, and compressed ones.

Parts are copied once, to where the message will be whole. Compressed messages are inflated beside the I/O thread, never
to more than a message may be long. All bytes that are held count against one bound.
"""

import zlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial

import numpy as np
from numpy.typing import NDArray

from serving.errors import InvalidRequest, Overloaded, ServingError
from serving.model import Post
from serving.transport.large import attempt
from serving.transport.native.blocks import error_block
from serving.transport.native.calls import MESSAGE_COST_BYTES, OpenCall
from serving.transport.native.connection import Connection
from serving.transport.native.core import Core
from serving.wire.layout import ENCODING_GZIP, ENCODING_IDENTITY

INFLATING_MAX = 256
"""Compressed messages that are inflated or wait for it; further ones are refused."""
_RETRY_AFTER_MS = 1_000
_GZIP_WINDOW = 16 + zlib.MAX_WBITS

Octets = NDArray[np.uint8]
_Item = tuple[bytes, int] | None
"""A message and its encoding, or the end of what the client sends."""


class Assembly:
    """A message that comes in parts. Memory is used as far as parts have come."""

    __slots__ = ("filled", "octets")

    def __init__(self, length: int) -> None:
        self.octets: Octets = np.empty(length, np.uint8)
        self.filled = 0

    def add(self, part: Octets) -> None:
        """Copy the next part."""
        self.octets[self.filled : self.filled + part.size] = part
        self.filled += part.size


class Messages:
    """Puts messages together and hands them to their calls, in order. Lives on the I/O thread.

    Bounds: `Core.held_bytes_max`, against which parts, what waits to be inflated and what calls hold count together, a
    message until it is not needed any more even if its call is over before; INFLATING_MAX.
    """

    def __init__(self, core: Core, worker: Executor, post: Post, *, message_bytes_max: int) -> None:
        self._core = core
        self._worker = worker
        self._post = post
        self._message_bytes_max = message_bytes_max
        self._inflating = 0
        self._backlogs: dict[OpenCall, deque[_Item]] = {}

    # ---- parts -----------------------------------------------------------------------------------------------------

    def add_part(self, connection: Connection, stream: int, part: Octets, length: int) -> ServingError | None:
        """Keep a part of a message of `length` bytes; return why that cannot be."""
        if self._core.held_bytes + part.size > self._core.held_bytes_max:
            self.drop_parts(connection, stream)
            return self._core.no_room()
        if stream not in connection.parts:
            connection.parts[stream] = Assembly(length)
        connection.parts[stream].add(part)
        self._core.held_bytes += part.size
        return None

    def take_parts(self, connection: Connection, stream: int) -> Octets:
        """Return a message that is complete, and hold it no longer."""
        assembly = connection.parts.pop(stream)
        self._core.held_bytes -= assembly.filled
        assert assembly.filled == assembly.octets.size, "bug: a message in parts is not complete"
        return assembly.octets

    def drop_parts(self, connection: Connection, stream: int) -> None:
        """Forget the parts of a message that will not be complete."""
        if (assembly := connection.parts.pop(stream, None)) is not None:
            self._core.held_bytes -= assembly.filled

    # ---- compression -----------------------------------------------------------------------------------------------

    def deliver(self, call: OpenCall, data: bytes, encoding: int) -> None:
        """Hand a message to its call, behind those of that call that are still being inflated."""
        backlog = self._backlogs.get(call)
        if self._core.held_bytes + len(data) > self._core.held_bytes_max:
            call.failed(error_block(self._core.no_room()))
        elif backlog is not None:
            self._core.held_bytes += len(data) + MESSAGE_COST_BYTES
            backlog.append((data, encoding))
            call.note_backlog(len(backlog))
        elif encoding == ENCODING_IDENTITY:
            call.message(data)
        else:
            self._inflate(call, data, encoding)

    def deliver_end(self, call: OpenCall) -> None:
        """Tell a call, behind its messages, that no more come."""
        backlog = self._backlogs.get(call)
        if backlog is not None:
            backlog.append(None)
        else:
            call.ended()

    def _inflate(self, call: OpenCall, data: bytes, encoding: int) -> None:
        if self._inflating >= INFLATING_MAX:
            self._core.refusals["inflating"] += 1
            text = f"{INFLATING_MAX} compressed messages wait to be inflated; try again later"
            call.failed(error_block(Overloaded(text, retry_after_ms=_RETRY_AFTER_MS)))
            return
        self._inflating += 1
        self._core.held_bytes += len(data)
        self._backlogs[call] = deque()
        work = partial(inflate, data, encoding, self._message_bytes_max)
        self._worker.submit(self._beside, work, partial(self._inflated, call, len(data)))

    def _beside(self, work: Callable[[], bytes | ServingError], done: Callable[[bytes | ServingError], None]) -> None:
        """Work on a thread of the pool, and hand the result to the I/O thread."""
        result = attempt(work)
        self._post(lambda: done(result))

    def _inflated(self, call: OpenCall, wire_bytes: int, result: bytes | ServingError) -> None:
        self._inflating -= 1
        self._core.held_bytes -= wire_bytes
        backlog = self._backlogs.pop(call)
        if not call.is_over:
            self._hand_over(call, result)
        while backlog and call not in self._backlogs:
            item = backlog.popleft()
            if item is not None:
                self._core.held_bytes -= len(item[0]) + MESSAGE_COST_BYTES
            if call.is_over:  # nobody wants the rest, which was held until now
                continue
            if item is None:
                call.ended()
            else:
                call.note_backlog(len(backlog))
                self.deliver(call, *item)
        if backlog:
            self._backlogs[call].extend(backlog)

    def _hand_over(self, call: OpenCall, result: bytes | ServingError) -> None:
        """Tell a call what its message has become."""
        if isinstance(result, ServingError):
            if isinstance(result, InflatedTooLong):
                self._core.refusals["inflated_length"] += 1
            call.failed(error_block(result))
        elif self._core.held_bytes + len(result) > self._core.held_bytes_max:
            call.failed(error_block(self._core.no_room()))
        else:
            call.message(result)


class InflatedTooLong(Overloaded):
    """A compressed message is longer than a message may be; it was inflated no further than that."""


def inflate(data: bytes, encoding: int, bytes_max: int) -> bytes | ServingError:
    """Return a message of gzip or deflate (zlib, RFC 1950), or why it is none. Inflates `bytes_max` bytes at most."""
    machine = zlib.decompressobj(_GZIP_WINDOW if encoding == ENCODING_GZIP else zlib.MAX_WBITS)
    try:
        message = machine.decompress(data, bytes_max + 1)
    except zlib.error:
        return InvalidRequest("the message is flagged as compressed and cannot be inflated")
    if len(message) > bytes_max:
        text = f"the message inflates to more than max_message_mib = {bytes_max >> 20} MiB"
        return InflatedTooLong(text, retry_after_ms=_RETRY_AFTER_MS)
    if not machine.eof:
        return InvalidRequest("the compressed message is cut off")
    if machine.unused_data:
        return InvalidRequest("bytes follow the end of the compressed message")
    return message
