"""Looks for peers that make the server wait: a handshake, a frame, a message or the taking of answers that never ends.

Each has a time limit of its own and costs the peer its connection, or for a message its stream. Looking is done once
per interval, for all connections together.
"""

import numpy as np

from serving.config import ServerConfig
from serving.errors import DeadlineExceeded
from serving.transport.native.blocks import error_block
from serving.transport.native.core import Core, Since
from serving.transport.native.messages import Messages
from serving.wire.layout import (
    C_STATE,
    CONNECTION_OPEN,
    S_CONNECTION,
    S_GENERATION,
    S_SINCE_NS,
    S_STATE,
    STREAM_ENDED,
    STREAM_FAILED,
    STREAM_OPEN,
    STREAM_PAUSED,
    STREAM_RESET,
    STREAM_TOLD,
)

INTERVAL_S = 1.0
"""How often to look, at most; time limits below it are looked at as often as they are long."""


class Watch:
    """Enforces the time limits of a peer. Lives on the I/O thread."""

    def __init__(self, core: Core, messages: Messages, config: ServerConfig) -> None:
        self._core = core
        self._messages = messages
        self._config = config
        limits_s = (config.handshake_timeout_s, config.message_timeout_s, config.stall_timeout_s)
        self.interval_s = min(INTERVAL_S, *limits_s)

    def look(self) -> None:
        """End what has lasted too long."""
        now_ns = self._core.now_ns()
        config = self._config
        self._end_handshakes(now_ns)
        self._close(Since.PARTIAL, now_ns, config.handshake_timeout_s, "slow_frame")
        for slot in np.flatnonzero(self._core.since[Since.STALLED] < Since.NEVER).tolist():
            self._core.connections[slot].note_taking()
        self._close(Since.STALLED, now_ns, config.stall_timeout_s, "stalled")
        self._excuse_messages(now_ns)
        self._fail_messages(now_ns)

    def _end_handshakes(self, now_ns: int) -> None:
        """Close connections without a preface and settings, and watch those that have sent them no longer."""
        core = self._core
        since = core.since[Since.OPENED]
        since[core.state.connections[:, C_STATE] >= CONNECTION_OPEN] = Since.NEVER
        self._close(Since.OPENED, now_ns, self._config.handshake_timeout_s, "slow_preface")

    def _close(self, what: int, now_ns: int, limit_s: float, reason: str) -> None:
        core = self._core
        for slot in np.flatnonzero(core.since[what] <= now_ns - int(limit_s * 1e9)).tolist():
            core.refusals[reason] += 1
            core.connections[slot].abort()

    def _excuse_messages(self, now_ns: int) -> None:
        """Begin the time of messages anew that cannot become complete because the server does not read on.

        That is so on streams that are paused, and on all of a connection whose socket is full. They may go on at any
        time before the next look, so their time begins there.
        """
        core, streams = self._core, self._core.state.streams
        begins_ns = now_ns + int(self.interval_s * 1e9)
        waiting = np.flatnonzero(core.since[Since.STALLED] < Since.NEVER).tolist()
        unread = [slot for slot in waiting if core.connections[slot].outbox.is_paused]
        state, since = streams[:, S_STATE], streams[:, S_SINCE_NS]
        since[(since > 0) & ((state & STREAM_PAUSED != 0) | np.isin(streams[:, S_CONNECTION], unread))] = begins_ns
        if unread:
            for call in [call for call in core.incomplete if call.connection.slot in unread]:
                del core.incomplete[call]
                core.incomplete[call] = begins_ns

    def _fail_messages(self, now_ns: int) -> None:
        """Answer calls whose message has begun, or should have, and does not become complete."""
        limit_s = self._config.message_timeout_s
        block = error_block(DeadlineExceeded(f"the message was not complete within message_timeout_s = {limit_s:g}"))
        for call, since_ns in list(self._core.incomplete.items()):
            if since_ns > now_ns - int(limit_s * 1e9):
                break
            self._core.refusals["slow_message"] += 1
            self._messages.drop_parts(call.connection, call.stream)
            call.failed(block)
        self._fail_streams(now_ns, block)

    def _fail_streams(self, now_ns: int, block: bytes) -> None:
        """Answer streams of which the wire knows since when a message is not complete."""
        core, streams = self._core, self._core.state.streams
        state, since = streams[:, S_STATE], streams[:, S_SINCE_NS]
        waits = (state & (STREAM_OPEN | STREAM_ENDED | STREAM_RESET | STREAM_FAILED)) == STREAM_OPEN
        overdue = waits & (since > 0) & (since <= now_ns - int(self._config.message_timeout_s * 1e9))
        for stream in np.flatnonzero(overdue).tolist():
            connection = core.connections[int(streams[stream, S_CONNECTION])]
            generation = int(streams[stream, S_GENERATION])
            core.refusals["slow_message"] += 1
            self._messages.drop_parts(connection, stream)
            streams[stream, S_STATE] |= STREAM_FAILED | STREAM_TOLD
            if (call := connection.calls.get(stream)) is not None:
                call.failed(block)
            else:
                connection.outbox.refuse(stream, generation, block)
            core.mark(connection)
