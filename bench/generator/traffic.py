"""Bytes between the client's kernels and its sockets: some connections to one target, and waiting for what comes.

It owns the connections and the state of their kernels. It knows no slice: what is due, and when to stop waiting, is
said by its user.
"""

import contextlib
import select
import ssl
import time

import numpy as np

from bench.generator import failures
from bench.generator.failures import SliceFailed, SliceStopped
from bench.generator.links import CONNECT_TIMEOUT_S, Link, connect, tls_context
from bench.slices import Target
from serving.wire.client import heads
from serving.wire.client.layout import (
    K_ERROR,
    K_OUT_BYTES,
    K_STUCK,
    STATUS_BREACH,
    STATUS_FULL,
    STATUS_GOAWAY,
    STATUS_HUNGRY,
    STREAM_ID_MAX,
    State,
)
from serving.wire.client.receive import receive
from serving.wire.client.send import cancel, open_connection
from serving.wire.layout import C_LAST_STREAM, C_STATE, CONNECTION_OPEN

CANCEL_TIMEOUT_S = 1.0
_GONE = select.EPOLLHUP | select.EPOLLERR


class Traffic:
    """The connections to one target. One thread; `connect` makes them, `close` ends them, both as often as one likes.

    `watched_fd` is a pipe that says nothing while a slice is to go on: when it says something or ends, `look` raises
    SliceStopped.
    `zero_ns` is the moment from which failures count time.
    """

    def __init__(self, target: Target, count: int, *, watched_fd: int | None = None) -> None:
        self.state = State(count)
        self.due = np.zeros(1, np.int64)
        self.zero_ns = time.monotonic_ns()
        self._target = target
        self._context = tls_context(target)
        self._links: list[Link] = []
        self._by_fd: dict[int, Link] = {}
        self._epoll = select.epoll()
        if watched_fd is not None:
            self._epoll.register(watched_fd, select.EPOLLIN)

    def close(self) -> None:
        """Close all connections."""
        for link in self._links:
            link.close()  # which takes it out of the epoll set, too
        self._links.clear()
        self._by_fd.clear()

    def dispose(self) -> None:
        """Close all connections for good."""
        self.close()
        self._epoll.close()

    # ---- connecting ------------------------------------------------------------------------------------------------

    def connect(self) -> None:
        """Connect, unless all connections are there and alive. Raises SliceFailed."""
        if self._links:
            # That one was closed between slices concerns no request.
            with contextlib.suppress(SliceFailed):
                self.look(0.0)
                if int(self.state.connections[:, C_LAST_STREAM].max()) < STREAM_ID_MAX // 2:
                    return
            self.close()
        try:
            for slot in range(self.state.connections_count):
                self._open(slot)
        except SliceFailed:
            self.close()
            raise

    def _open(self, slot: int) -> None:
        """Connect, say the opening, and wait for the server's settings; then the socket waits no more."""
        state = self.state
        open_connection(state.connections, state.calls, state.shared, slot)
        link = Link(connect(self._target, self._context), slot, state.outs[slot])
        self._links.append(link)
        self._by_fd[link.fd] = link
        give_up_s = time.monotonic() + CONNECT_TIMEOUT_S
        self._epoll.register(link.fd, select.EPOLLIN)
        try:
            link.socket.sendall(heads.opening())
            while state.connections[slot, C_STATE] != CONNECTION_OPEN:
                link.socket.settimeout(max(give_up_s - time.monotonic(), 1e-3))
                if not (count := link.read()):
                    raise failures.not_greeted(self._target)
                self._take(link, count)
        except TimeoutError:
            raise failures.not_answering(self._target, CONNECT_TIMEOUT_S) from None
        except ConnectionError:
            raise failures.not_greeted(self._target) from None
        except OSError as error:
            raise failures.not_connected(self._target, error) from None
        link.socket.setblocking(False)

    # ---- a turn ----------------------------------------------------------------------------------------------------

    def flush(self, found: int) -> None:
        """Send the output of the first `found` connections that `state.ready` names. Raises SliceFailed."""
        for slot, count in self.state.ready[:found].tolist():
            self._flush(self._links[slot], count)

    def look(self, wait_s: float) -> bool:
        """Wait for what comes, at most so long, and take it; says whether something came.

        Raises SliceFailed.
        """
        # epoll itself waits in whole milliseconds.
        if wait_s > 0 and not select.select((self._epoll,), (), (), wait_s)[0]:
            return False
        for fd, events in self._epoll.poll(0):
            link = self._by_fd.get(fd)
            if link is None:
                raise SliceStopped
            if events & select.EPOLLOUT:
                self._flush(link, int(self.state.connections[link.slot, K_OUT_BYTES]))
                if link.is_full and not link.is_stuck:
                    link.is_full = False
                    self._take(link, 0)
            if not link.is_full:
                self._read(link)
            elif events & _GONE:
                raise failures.closed(self._target, self._at_s())
        return True

    def take_what_came(self) -> None:
        """Take what other connections have brought by now, after one has failed."""
        for link in self._links:
            link.is_stuck = True  # nothing more goes out
            with contextlib.suppress(SliceFailed):
                self._read(link)

    def cancel(self) -> None:
        """Reset the calls that are left, so that the next slice begins without them; else it begins newly connected."""
        state, give_up_s, is_done = self.state, time.monotonic() + CANCEL_TIMEOUT_S, False
        with contextlib.suppress(SliceFailed):
            while time.monotonic() < give_up_s:
                is_done = cancel(state.connections, state.calls, state.outs, state.shared)
                self.flush_all()
                if is_done and not any(link.is_stuck for link in self._links):
                    return
                self.look(1e-3)
        self.close()

    def flush_all(self) -> None:
        """Send what lies in any output, where the socket takes it. Raises SliceFailed."""
        for link in self._links:
            if not link.is_stuck and (count := int(self.state.connections[link.slot, K_OUT_BYTES])):
                self._flush(link, count)

    # ---- one connection --------------------------------------------------------------------------------------------

    def _read(self, link: Link) -> None:
        try:
            count = link.read()
            while count:
                self._take(link, count)
                # A socket that has more is told again; records that TLS has unpacked are not.
                count = link.read() if link.is_tls and not link.is_full else None
        except ssl.SSLError as error:
            raise failures.closed(self._target, self._at_s(), f"TLS: {error.reason or error}") from None
        except OSError as error:
            raise failures.closed(self._target, self._at_s(), error.strerror) from None
        if count == 0:
            raise failures.closed(self._target, self._at_s())

    def _take(self, link: Link, count: int) -> None:
        """Take bytes that have come on a connection, and answer what must be answered at once."""
        state = self.state
        link.filled += count
        while True:
            status, link.filled, out_bytes, detail = receive(
                link.source, state.connections, state.calls, state.pool, state.headers, state.outs, state.shared,
                state.counts, self.due, link.slot, link.filled, time.monotonic_ns(),
            )  # fmt: skip
            if status == STATUS_BREACH:
                raise failures.breach(self._target, self._at_s(), detail)
            if status == STATUS_GOAWAY:
                code = int(state.connections[link.slot, K_ERROR])
                raise failures.goaway(self._target, self._at_s(), code, state.headers[:detail].tobytes())
            if out_bytes and not link.is_stuck:
                self._flush(link, out_bytes)
            if status == STATUS_HUNGRY:
                return
            assert status == STATUS_FULL, "bug: a status that nobody knows"
            if link.is_stuck:
                link.is_full = True
                self._epoll.modify(link.fd, select.EPOLLOUT)
                return

    def _flush(self, link: Link, count: int) -> None:
        """Send a connection's output; what its socket does not take moves to the front and waits until it does."""
        try:
            sent = link.write(count)
        except OSError as error:
            link.is_stuck = True  # nothing more goes out, but what the server said before it closed is heard
            self._read(link)
            raise failures.closed(self._target, self._at_s(), error.strerror) from None
        row = self.state.connections[link.slot]
        row[K_OUT_BYTES] = count - sent
        if sent < count:
            self.state.outs[link.slot, : count - sent] = self.state.outs[link.slot, sent:count].copy()
        is_stuck = sent < count
        if is_stuck != link.is_stuck:
            link.is_stuck = is_stuck
            row[K_STUCK] = int(is_stuck)
            self._epoll.modify(link.fd, select.EPOLLIN | (select.EPOLLOUT if is_stuck else 0))

    def _at_s(self) -> float:
        return (time.monotonic_ns() - self.zero_ns) / 1e9
