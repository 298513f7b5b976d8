"""One connection: where its bytes come in and go out.

Bytes are decoded where the kernel put them, in one buffer that all connections share; what is left is the beginning of
a frame, kept until the next read. What is to be written is collected in the outbox and written once per turn. What the
bytes mean is not known here.
"""

import asyncio
import contextlib
import fcntl
import socket
import ssl
import sys
import termios
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import numpy as np

from serving.transport.native.core import Core, Since
from serving.transport.tls import peer_names, speaks_http2
from serving.wire.answer_blocks import not_http2
from serving.wire.connection import close_connection, open_connection
from serving.wire.http2 import decode
from serving.wire.layout import C_STREAM_COUNT, S_CONNECTION, S_STATE, STATUS_CLOSED, STATUS_FULL
from serving.wire.outbox import Outbox

if TYPE_CHECKING:
    from serving.transport.native.calls import OpenCall, StreamCall, UnaryCall
    from serving.transport.native.messages import Assembly

READ_BYTES_PER_TURN = 1 << 20
"""A connection that has brought so much in one turn waits for the next one."""
WRITE_BYTES_PER_TURN = 1 << 20
"""DATA that one connection writes in one turn, at most."""
WRITE_BUFFER_BYTES = 256 << 10
"""What the event loop may hold of a connection's output before nothing more is made ready."""

_TLS_HANDSHAKE = 22
"""The first byte of what a client of TLS says."""
KEEPALIVE_IDLE_S, KEEPALIVE_PROBE_S, KEEPALIVE_PROBES = 60, 10, 3
"""A peer that has been silent for so long is probed, so many times, and given up when its machine answers none."""
CLOSE_TIMEOUT_S = 5.0
"""How long the last words on a connection wait for the peer to take them."""


class Connection(asyncio.BufferedProtocol):
    """A peer. Lives on the I/O thread from accept to close; its row in the state lives as long."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self._tail = b""
        self._read_bytes = 0
        self._is_reading_paused = False
        self.slot = -1
        self.is_closed = True
        self._is_drained = False
        self._is_leaving = False
        self._is_stalling = False
        self._moved_bytes = 0
        self._written_bytes = 0  # handed to the event loop, in all
        self._awaited_bytes = 0  # of these, until a stall began
        self._taken_bytes = 0  # of these, by the peer, when that was last looked at
        self.peer_host: str | None = None
        self.peer_names: Sequence[str] = ()
        self.calls: dict[int, OpenCall] = {}  # by stream
        self.parts: dict[int, Assembly] = {}  # by stream
        self.stalled: set[StreamCall] = set()  # those whose answers wait until the outbox is less full
        self.waiting_work: deque[UnaryCall | StreamCall] = deque()

    # ---- what the event loop calls ---------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Have our settings ready, if there is room for one more.

        They are written with what answers the peer's own, which are its first words: a client of HTTP/1 could not read
        behind them what it is told.
        """
        self._transport = transport = cast("asyncio.Transport", transport)
        core = self.core
        tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        if tls is not None:
            core.handshakes.discard(tls)
            self.peer_names = peer_names(tls)
        slot = core.take_slot(self) if tls is None or speaks_http2(tls) else None
        if slot is None:
            core.refusals["connections_max" if tls is None or speaks_http2(tls) else "no_alpn_h2"] += 1
            transport.abort()
            return
        self.slot = slot
        self.is_closed = False
        self.peer_host = _host(transport.get_extra_info("peername"))
        self._socket: socket.socket | None = transport.get_extra_info("socket")
        if self._socket is not None:
            _keep_alive(self._socket)
        state = core.state
        self.outbox = Outbox(state, slot)
        transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        core.since[Since.OPENED, slot] = core.now_ns()
        opening = open_connection(state.connections, state.shared, state.control, slot, core.now_ns())
        self.outbox.write(state.control[:opening].tobytes())  # goes out when the peer has begun to speak HTTP/2

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - the buffer is always the same
        """Return the shared buffer, behind what is left from the last read."""
        tail = self._tail
        if not tail:
            return self.core.view
        self.core.view[: len(tail)] = tail
        return self.core.view[len(tail) :]

    def buffer_updated(self, nbytes: int) -> None:
        """Decode what came."""
        if self.is_closed:
            return
        core = self.core
        state, slot, source = core.state, self.slot, core.buffer
        end, now_ns = len(self._tail) + nbytes, core.now_ns()
        at, status = 0, STATUS_FULL
        while status == STATUS_FULL:
            before = at
            status, at, events, control_bytes, _ = decode(
                source, state.connections, state.streams, state.pool, state.events, state.control, state.headers,
                state.shared, slot, at, end, now_ns,
            )  # fmt: skip
            if control_bytes:
                self.outbox.write(state.control[:control_bytes].tobytes())
                core.mark(self)
            if events:
                core.take_events(self, events, now_ns)
            assert status != STATUS_FULL or events or control_bytes or at > before, "bug: the decoder is stuck"
            if self.is_closed:
                return
        if status == STATUS_CLOSED:
            self.close()
            return
        if at < end or self._tail:
            self._keep(at, end, now_ns)
        if self._is_drained:  # the peer may have reset the last stream, of which no event need tell
            core.mark(self)
        self._read_bytes += nbytes
        if self._read_bytes > READ_BYTES_PER_TURN:
            self.pause_reading()
            core.mark(self)

    def eof_received(self) -> None:
        """Let the event loop close the connection."""

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - there is nobody to tell
        """Release the row and everything that hangs on it."""
        self._end()

    def pause_writing(self) -> None:
        """Make nothing more ready, and read nothing, until the peer has taken what is written."""
        if self.is_closed:
            return
        self.outbox.is_paused = True
        self._begin_stall()
        self.core.since[Since.PARTIAL, self.slot] = Since.NEVER  # what is not read cannot become complete
        self.pause_reading()

    def resume_writing(self) -> None:
        """Go on."""
        if self.is_closed:
            return
        self.outbox.is_paused = False
        self._is_stalling = False
        self.core.since[Since.STALLED, self.slot] = Since.NEVER
        if self._tail:
            self.core.since[Since.PARTIAL, self.slot] = self.core.now_ns()
        self.core.mark(self)

    # ---- what the transport calls ----------------------------------------------------------------------------------

    def flush(self) -> None:
        """Write what is ready; once per turn."""
        if self.is_closed:
            return
        outbox = self.outbox
        self._read_bytes = 0
        if not outbox.is_paused:
            chunk, is_waiting, is_cut_off = outbox.flush(WRITE_BYTES_PER_TURN)
            if chunk:
                self._written_bytes += len(chunk)
                self._transport.write(chunk)
            if is_cut_off:
                self.core.mark(self)
            if (is_waiting or self._is_stalling) and not outbox.is_paused:
                self._note_progress()
            if self.stalled and not outbox.is_full:
                for call in list(self.stalled):
                    call.push()
        if self._is_reading_paused and not outbox.is_paused:
            self._is_reading_paused = False
            self._transport.resume_reading()
        if self._is_drained and (self._is_leaving or not self._streams) and not self._has_output:
            self.close()

    def _note_progress(self) -> None:
        """Note since when the peer takes nothing of what waits for its windows."""
        moved_bytes = self.outbox.moved_bytes
        if not self.outbox.is_waiting:
            self._is_stalling = False
            self.core.since[Since.STALLED, self.slot] = Since.NEVER
        elif not self._is_stalling or moved_bytes > self._moved_bytes:
            self._is_stalling = True
            self._begin_stall()
        self._moved_bytes = moved_bytes

    def note_taking(self) -> None:
        """Give a peer that is waited for its whole time again if it has taken anything since the last call.

        The watch calls it. A slow reader can need minutes until its socket or a window is open again, and is no
        stalled one for that.
        """
        before, self._taken_bytes = self._taken_bytes, self._measure_taken_bytes()
        if self._taken_bytes > before:
            self.core.since[Since.STALLED, self.slot] = self.core.now_ns()

    def _begin_stall(self) -> None:
        """Wait from now on for the peer to take what is written."""
        self.core.since[Since.STALLED, self.slot] = self.core.now_ns()
        self._awaited_bytes = self._written_bytes
        self._taken_bytes = self._measure_taken_bytes()

    def _measure_taken_bytes(self) -> int:
        """Return how much neither the event loop nor the system holds any more of what was written until the stall.

        What was written later are answers to pings and the like, by which a peer could keep its answers waiting.
        """
        held_bytes = self._transport.get_write_buffer_size()
        if self._socket is not None:
            held_bytes += _unsent_bytes(self._socket)
        return min(self._written_bytes - held_bytes, self._awaited_bytes)

    def begin_drain(self) -> None:
        """Ask the peer to open no new streams."""
        self.outbox.begin_drain()

    def end_drain(self) -> None:
        """Name the last stream that is answered, and close when that is done."""
        if not self._is_drained and not self.is_closed:
            self._is_drained = True
            self._transport.set_write_buffer_limits(high=0)  # so that we hear when all is written
            self.outbox.end_drain()
            self.core.mark(self)

    def leave(self) -> None:
        """Wait for no more answers, and close when those that are there are written."""
        if not self.is_closed:
            self._is_leaving = True
            self.core.mark(self)

    def pause_reading(self) -> None:
        """Read nothing until the next flush of a connection that may be written to."""
        if not self._is_reading_paused:
            self._is_reading_paused = True
            self._transport.pause_reading()

    def close(self, begun: bytes = b"") -> None:
        """Write what is ready and close; a peer that has `begun` to speak another protocol is only told so."""
        if self.is_closed:
            return
        chunk, *_ = self.outbox.flush(0)
        # A client of TLS understands our HTTP/2 as little as silence, but says so: it is no TLS.
        self._transport.write(chunk if not begun or begun[0] == _TLS_HANDSHAKE else not_http2(begun))
        self._transport.close()
        if self._transport.get_write_buffer_size():  # for a peer that takes it, not for ever
            self.core.later(CLOSE_TIMEOUT_S, self._transport.abort)
        self._end()

    def abort(self) -> None:
        """Close at once."""
        if not self.is_closed:
            self._transport.abort()
            self._end()

    def _keep(self, at: int, end: int, now_ns: int) -> None:
        """Keep the beginning of a frame for the next read."""
        if at < end:
            if at or not self._tail:
                self.core.since[Since.PARTIAL, self.slot] = now_ns
            self._tail = self.core.buffer[at:end].tobytes()
        elif self._tail:
            self.core.since[Since.PARTIAL, self.slot] = Since.NEVER
            self._tail = b""

    @property
    def _has_output(self) -> bool:
        """Whether something is not with the system yet, and so would be lost if the process ended."""
        return self.outbox.is_waiting or self.outbox.is_ready or self._transport.get_write_buffer_size() > 0

    @property
    def _streams(self) -> int:
        """How many streams are not over."""
        return int(self.core.state.connections[self.slot, C_STREAM_COUNT])

    def _end(self) -> None:
        """Give everything back, once."""
        if self.is_closed:
            return
        self.is_closed = True
        self._tail = b""
        calls, self.calls = list(self.calls.values()), {}
        for call in calls:
            call.gone()
        self.core.held_bytes -= sum(assembly.filled for assembly in self.parts.values())
        self.parts.clear()
        self.stalled.clear()
        state = self.core.state
        streams = np.flatnonzero((state.streams[:, S_CONNECTION] == self.slot) & (state.streams[:, S_STATE] != 0))
        close_connection(state.connections, state.streams, state.shared, self.slot)
        self.core.give_slot_back(self.slot)
        self.core.drop(streams)


def _keep_alive(socket_: socket.socket) -> None:
    """Have the system find out when a peer has died without a word."""
    socket_.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        ("TCP_KEEPIDLE", KEEPALIVE_IDLE_S), ("TCP_KEEPINTVL", KEEPALIVE_PROBE_S), ("TCP_KEEPCNT", KEEPALIVE_PROBES)
    ):  # fmt: skip
        if hasattr(socket, option):
            socket_.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def _unsent_bytes(socket_: socket.socket) -> int:
    """Return how much a socket holds that the peer's machine has not confirmed; 0 on a system that does not say."""
    with contextlib.suppress(OSError):
        return int.from_bytes(fcntl.ioctl(socket_.fileno(), termios.TIOCOUTQ, bytes(4)), sys.byteorder)
    return 0


def _host(address: object) -> str | None:
    """Return the IP address of a peer, without an interface."""
    if isinstance(address, tuple) and address and isinstance(address[0], str):
        return address[0].partition("%")[0]
    return None
