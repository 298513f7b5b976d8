"""The native transport: HTTP/2 and gRPC in compiled batches, on the I/O thread's event loop.

    read      connection   decode; requests into groups, other calls into a queue
    turn      ordinary     run other calls, for a while
              intake       submit the groups
              inline       run cheap batches; each settles into outboxes
              core         write to every connection that has something to write

It builds its parts, and opens and closes the port.
"""

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from concurrent.futures import Executor

import numpy as np

from serving.config import ServerConfig
from serving.dataplane import DataPlane
from serving.errors import ConfigError
from serving.repository.handle import Handle
from serving.repository.routing import Routing
from serving.transport.calls import Methods
from serving.transport.native.connection import Connection
from serving.transport.native.core import Core
from serving.transport.native.events import Events
from serving.transport.native.intake import Intake
from serving.transport.native.messages import Messages
from serving.transport.native.ordinary import OrdinaryWork
from serving.transport.native.turn import LoopParts, Phase
from serving.transport.native.watch import Watch
from serving.transport.tls import Certificates, ReloadingContext
from serving.wire.layout import FRAME_BYTES_MAX, H_COUNTS, REFUSALS, S_STATE, Limits

_log = logging.getLogger(__name__)

_DRAIN_PING_S = 1.0
_BACKLOG = 1024


class NativeTransport:
    """A gRPC server on one port. Lives on the event loop's thread.

    `run_cheap_batches` is the phase of a turn that runs what was submitted to cheap servables.
    """

    def __init__(
        self, methods: Methods, data_plane: DataPlane, config: ServerConfig, loop: LoopParts,
        certificates: Certificates | None, *,
        worker: Executor, calls_max: int, run_cheap_batches: Phase,
    ) -> None:  # fmt: skip
        self._loop = loop.loop
        self._config = config
        self._certificates = certificates
        self._listener: asyncio.Server | None = None
        self._is_draining = False
        self._has_ended_drain = False
        self._drain_ends_ns = 0
        self._turn = loop.turn
        core = self._core = Core(limits(config, calls_max), loop, held_bytes_max=config.assembly_bytes_max)
        messages = Messages(core, worker, loop.post, message_bytes_max=config.max_message_mib << 20)
        work = OrdinaryWork(core, loop.turn)
        self._intake = Intake(core, data_plane, loop.timers)
        core.take_events = Events(core, methods, self._intake, messages, work, loop.timers).take
        core.drop = self._intake.drop
        self._watch = Watch(core, messages, config)
        self._looking: asyncio.TimerHandle | None = None
        for phase in (work.run, self._intake.submit, run_cheap_batches, core.flush):
            loop.turn.add(phase)

    async def start(self, host: str, port: int) -> int:
        """Listen; return the port, which is a free one for 0. Raises ConfigError when it cannot be had.

        Certificates must have been loaded.
        """
        tls = None
        if self._certificates is not None:
            tls = ReloadingContext(self._certificates, self._core.begin_handshake)
        try:
            self._listener = await self._loop.create_server(
                lambda: Connection(self._core),
                host,
                port,
                backlog=_BACKLOG,
                ssl=tls,
                ssl_handshake_timeout=self._config.handshake_timeout_s if tls is not None else None,
            )
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {host}:{port} for gRPC: it is in use, or not an address of this machine"
            ) from error
        self._look()
        bound: int = self._listener.sockets[0].getsockname()[1]
        return bound

    def follow(self, handles: Sequence[Handle], routings: Sequence[Routing] = ()) -> None:
        """Decode requests for these servables from now on, spread as the routings say."""
        self._intake.follow(handles, routings)

    def begin_drain(self) -> None:
        """Tell every peer that the server goes; one that comes back until it has is told so by the answer."""
        self._is_draining = True
        self._drain_ends_ns = self._core.now_ns() + int(self._config.drain_timeout_s * 1e9)
        for connection in list(self._core.connections.values()):
            connection.begin_drain()
            self._core.mark(connection)
        self._loop.call_later(_DRAIN_PING_S, self._end_drain)

    async def stop(self, grace_s: float) -> None:
        """Let calls in flight end for `grace_s`, then cut the rest off.

        Before that, peers have _DRAIN_PING_S to see that the server goes: calls that were on their way are answered.
        A peer that is still taking answers may go on until `drain_timeout_s` after the drain began.
        """
        if self._listener is not None:
            self._listener.close()
        if not self._is_draining:
            self.begin_drain()
        if not self._has_ended_drain:
            await self._wait_until_empty(_DRAIN_PING_S)
        self._end_drain()
        await self._wait_until_empty(grace_s)
        for connection in list(self._core.connections.values()):
            connection.leave()
        await self._wait_until_empty((self._drain_ends_ns - self._core.now_ns()) / 1e9)
        for connection in list(self._core.connections.values()):
            connection.abort()
        if self._looking is not None:
            self._looking.cancel()

    def refusals(self) -> dict[str, int]:
        """Return how often a peer was cut off or refused, by reason."""
        counts = self._core.state.shared[H_COUNTS : H_COUNTS + len(REFUSALS)].tolist()
        return self._core.refusals | dict(zip(REFUSALS, counts, strict=True))

    @property
    def connections(self) -> int:
        """How many connections there are."""
        return self._core.connection_count

    @property
    def streams(self) -> int:
        """How many rows of streams are held."""
        return int(np.count_nonzero(self._core.state.streams[:, S_STATE]))

    async def _wait_until_empty(self, timeout_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._core.wait_until_empty(), timeout_s)

    def _end_drain(self) -> None:
        self._has_ended_drain = True
        for connection in list(self._core.connections.values()):
            connection.end_drain()

    def _look(self) -> None:
        try:
            self._watch.look()
        except Exception:  # noqa: BLE001 - a mistake of ours must not end all time limits
            _log.exception("looking for peers that are overdue failed; trying again")
        finally:
            self._looking = self._loop.call_later(self._watch.interval_s, self._look)


def limits(config: ServerConfig, calls_max: int) -> Limits:
    """Return the bounds of the wire.

    What is a little too long for one call is answered, so more than that is read before the connection is cut off.
    """
    usual, list_bytes = Limits(), config.header_list_bytes_max
    block_bytes = max(usual.header_block_bytes, 2 * list_bytes)
    return Limits(
        connections=config.connections_max,
        streams=calls_max,
        streams_per_connection=config.streams_per_connection_max,
        header_list_bytes=list_bytes,
        header_list_bytes_hard=max(usual.header_list_bytes_hard, 4 * list_bytes),
        header_block_bytes=block_bytes,
        continuations=max(usual.continuations, block_bytes // FRAME_BYTES_MAX + 1),
        message_bytes=config.max_message_mib << 20,
        unsent_bytes=config.unsent_bytes_max,
        unsent_bytes_in_all=config.assembly_bytes_max,
    )
