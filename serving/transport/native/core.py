"""What all connections of an I/O thread share: the state of the wire, the read buffer, the slots, the counters."""

import asyncio
import logging
import ssl
from collections import Counter
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray

from serving.errors import Overloaded
from serving.transport.native.turn import LoopParts
from serving.wire.layout import Limits, State

if TYPE_CHECKING:
    from serving.transport.native.calls import OpenCall
    from serving.transport.native.connection import Connection

_log = logging.getLogger(__name__)

BUFFER_BYTES = 256 << 10
"""What one read brings at most, with what was left from the last one; more where a header block may be so long."""
_RETRY_AFTER_MS = 1_000


TRANSPORT_REFUSALS = (
    "connections_max",
    "no_alpn_h2",
    "slow_preface",
    "slow_frame",
    "slow_message",
    "stalled",
    "assembly_bytes",
    "inflating",
    "inflated_length",
)
"""What the transport refuses beside the wire's own refusals."""


class Since:
    """Since when a connection waits for its peer, in monotonic ns: the rows of `Core.since`."""

    OPENED, PARTIAL, STALLED = range(3)
    NEVER = 2**62


class Core:
    """Lives on the I/O thread, as long as the transport."""

    def __init__(self, limits: Limits, loop: LoopParts, *, held_bytes_max: int) -> None:
        self.state = State(limits)
        self.now_ns = loop.clock.now_ns
        self.later = loop.loop.call_later
        self.wake = loop.turn.wake_for_later_phase
        self.wake_again = loop.turn.wake  # also out of a phase that comes before the caller's, or out of the last one
        self.buffer: NDArray[np.uint8] = np.zeros(max(BUFFER_BYTES, 2 * limits.header_block_bytes), np.uint8)
        self.view = self.buffer.data
        self.since = np.full((3, limits.connections), Since.NEVER, np.int64)
        self.refusals: Counter[str] = Counter(dict.fromkeys(TRANSPORT_REFUSALS, 0))
        self.take_events: Callable[[Connection, int, int], None]  # these two are set before the port is opened
        self.drop: Callable[[NDArray[np.int64]], None]
        self.connections: dict[int, Connection] = {}  # by slot
        self.handshakes: WeakSet[ssl.SSLObject] = WeakSet()  # of connections to be; the event loop drops failed ones
        self.held_bytes = 0  # of messages and answers that lie here and in no batch and no outbox
        self.held_bytes_max = held_bytes_max
        self.incomplete: dict[OpenCall, int] = {}  # calls whose one message has not come, oldest first, and since when
        self.deaths = 0  # streams and connections that went before their answers
        self._empty: asyncio.Event | None = None
        self._marked: dict[Connection, None] = {}
        self._free_slots = list(range(limits.connections))[::-1]

    @property
    def connection_count(self) -> int:
        """How many connections there are, with those whose TLS handshake is not done."""
        return len(self.connections) + len(self.handshakes)

    def begin_handshake(self, handshake: ssl.SSLObject) -> None:
        """Count a connection before its handshake, which can take a while. Raises OSError when there is no room."""
        if self.connection_count >= self.state.limits.connections:
            self.refusals["connections_max"] += 1
            raise ConnectionRefusedError("there are connections_max connections")
        self.handshakes.add(handshake)

    def take_slot(self, connection: "Connection") -> int | None:
        """Return the row for a new connection; None when there is none left."""
        if not self._free_slots:
            return None
        slot = self._free_slots.pop()
        self.connections[slot] = connection
        return slot

    def give_slot_back(self, slot: int) -> None:
        """Free the row of a connection that is over."""
        self.deaths += 1
        self.since[:, slot] = Since.NEVER
        del self.connections[slot]
        self._free_slots.append(slot)
        if not self.connections and self._empty is not None:
            self._empty.set()

    def no_room(self) -> Overloaded:
        """Count a call that is refused because it would hold too much; return what to tell it."""
        self.refusals["assembly_bytes"] += 1
        return Overloaded(
            f"the server holds assembly_bytes_max = {self.held_bytes_max} bytes of messages; try again later",
            retry_after_ms=_RETRY_AFTER_MS,
        )

    async def wait_until_empty(self) -> None:
        """Wait until there is no connection."""
        self._empty = asyncio.Event()
        if self.connections:
            await self._empty.wait()

    def mark(self, connection: "Connection") -> None:
        """Have a connection flushed at the end of this turn."""
        self._marked[connection] = None
        self.wake()

    def mark_all(self, connections: "Iterable[Connection]") -> None:
        """Have connections flushed at the end of this turn."""
        self._marked.update(dict.fromkeys(connections))
        self.wake()

    def flush(self) -> bool:
        """Write to every connection that has something to write; say whether more is left. The last phase of a turn."""
        marked, self._marked = self._marked, {}
        for connection in marked:
            try:
                connection.flush()
            except Exception:  # noqa: BLE001 - a mistake of ours costs this connection and no other
                _log.exception("a connection could not be written to")
                connection.abort()
        return bool(self._marked)
