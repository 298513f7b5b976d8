"""The compiled client: the loop that runs a slice on some connections.

A turn of the loop is: write what is due (one kernel call for all connections), send it (one call per connection with
output), wait for what comes or for the next moment, take what has come (one read and one kernel call per connection).
It never waits beyond the next intended moment, and turns without waiting only in the last microseconds before one.
"""

import time
from collections.abc import Callable, Sequence

import numpy as np

from bench.generator import failures
from bench.generator.failures import SliceFailed
from bench.generator.meter import Meter
from bench.generator.schedule import Schedule, message_order
from bench.generator.traffic import Traffic
from bench.slices import Interval, OpenLoop, Recording, Slice, Target
from serving.wire.client import heads
from serving.wire.client.layout import (
    NOTHING_DUE,
    X_CLOSED_LOOP,
    X_COUNT_FROM_NS,
    X_DUE_COUNT,
    X_DUE_HEAD,
    X_END_NS,
    X_LIVE_COUNTED,
    X_MESSAGE,
    X_SLO_NS,
    X_TIMEOUT_NS,
    X_TOGETHER,
    X_TURN,
)
from serving.wire.client.send import expire, send

SPIN_NS = 5_000
"""A moment that is so near is waited for without sleeping."""
OVERSLEPT_NS_MAX = 100_000
"""Of one sleep, as the next one takes it into account; more is a disturbance and no property of the machine."""
EXPIRY_NS = 5_000_000
"""How often deadlines are looked at."""
TOGETHER = 8
"""Requests of an open loop that go to one connection when they are due at once."""

OnInterval = Callable[[Interval], None]


class NativeClient:
    """Connections to one target, and its messages. One thread; connected by the first slice, until `close`.

    `watched_fd`: see Traffic. Raises ConfigError for TLS files that cannot be used.
    """

    def __init__(
        self, target: Target, messages: Sequence[bytes], *, connections: int, watched_fd: int | None = None
    ) -> None:
        self._target = target
        self._traffic = Traffic(target, connections, watched_fd=watched_fd)
        framed = [b"\0" + len(message).to_bytes(4, "big") + message for message in messages]
        lengths = np.array([len(message) for message in framed], np.int64)
        self._messages = np.frombuffer(b"".join(framed), np.uint8).copy()
        self._where = np.stack([np.cumsum(lengths) - lengths, lengths], axis=1)

    def close(self) -> None:
        """Close all connections."""
        self._traffic.dispose()

    def run(self, slice_: Slice, on_interval: OnInterval) -> Recording:
        """Run a slice; intervals go to `on_interval`, the rest of the recording is returned. Raises ConfigError."""
        schedule = Schedule.of(slice_)
        try:
            self._traffic.connect()
        except SliceFailed as failure:
            return Recording(slice_, failure=str(failure))
        self._lay_out(slice_, schedule.moved(time.monotonic_ns()))
        recording = Recording(slice_)
        try:
            self._turns(on_interval)
        except SliceFailed as failure:
            recording.failure = str(failure)
            self._traffic.take_what_came()
        self._finish(recording, on_interval)
        return recording

    def _lay_out(self, slice_: Slice, schedule: Schedule) -> None:
        """Write a slice into the shared row."""
        traffic, state = self._traffic, self._traffic.state
        self._schedule = schedule
        self._meter = Meter(state, schedule.count_from_ns)
        self._places_left = 0
        self._overslept_ns = 0
        self._timeout_ns = NOTHING_DUE if slice_.timeout_s is None else round(slice_.timeout_s * 1e9)
        traffic.zero_ns = schedule.count_from_ns
        traffic.due = schedule.due_ns if schedule.due_ns.size else np.zeros(1, np.int64)
        for column, value in (
            (X_CLOSED_LOOP, int(schedule.is_closed_loop)),
            (X_DUE_HEAD, 0),
            (X_DUE_COUNT, schedule.due_ns.size),
            (X_COUNT_FROM_NS, schedule.count_from_ns),
            (X_END_NS, schedule.end_ns),
            (X_SLO_NS, NOTHING_DUE if slice_.slo_ms is None else round(slice_.slo_ms * 1e6)),
            (X_TIMEOUT_NS, self._timeout_ns),
            (X_MESSAGE, 0),
            (X_TURN, 0),
            (X_TOGETHER, TOGETHER if isinstance(slice_.load, OpenLoop) else 1),
        ):
            state.shared[column] = value
        address = failures.address_of(self._target)
        head = heads.request_head(address, tls=self._target.tls, timeout_s=slice_.timeout_s)
        where = self._where[message_order(slice_, len(self._where))]
        self._send_arguments = (
            state.connections, state.calls, state.outs, state.shared, state.counts, traffic.due, self._messages,
            where, np.frombuffer(head, np.uint8).copy(), state.ready,
        )  # fmt: skip

    def _turns(self, on_interval: OnInterval) -> None:
        """Take turns until the slice is over. Raises SliceFailed."""
        schedule, meter, traffic = self._schedule, self._meter, self._traffic
        expiry_ns = 0 if self._timeout_ns < NOTHING_DUE else NOTHING_DUE
        while True:
            now_ns = time.monotonic_ns()
            found, next_ns, live, waits, goes_on = send(*self._send_arguments, now_ns)
            if found:
                traffic.flush(found)
            if now_ns >= meter.next_ns and (interval := meter.read(now_ns)):
                on_interval(interval)
            if now_ns >= expiry_ns:
                self._expire(now_ns)
                expiry_ns = now_ns + EXPIRY_NS
            if now_ns >= schedule.end_ns:
                next_ns = self._end_places(next_ns, is_waiting=waits != 0)
                if now_ns >= schedule.give_up_ns or (not live and next_ns == NOTHING_DUE):
                    return
                end_ns = schedule.give_up_ns
            else:
                end_ns = schedule.end_ns
            wake_ns = min(meter.next_ns, expiry_ns, end_ns, NOTHING_DUE if waits else next_ns)
            if goes_on:
                traffic.look(0.0)
            else:
                self._wait(wake_ns)

    def _wait(self, wake_ns: int) -> None:
        """Wait for what comes, at most until a moment, and take it.

        A sleep ends late, on a virtual machine by tens of microseconds, and that delay would be part of every latency.
        So it is asked to end earlier by as much as sleeps were late of late; that costs no CPU time, as it is spent
        on waking up, and what remains is watched without sleeping.
        """
        wait_ns = wake_ns - time.monotonic_ns() - self._overslept_ns
        if wait_ns <= SPIN_NS:
            self._traffic.look(0.0)
        elif not self._traffic.look(wait_ns / 1e9):
            late_ns = time.monotonic_ns() - (wake_ns - self._overslept_ns)
            self._overslept_ns += (min(max(late_ns, 0), OVERSLEPT_NS_MAX) - self._overslept_ns) // 8

    def _expire(self, now_ns: int) -> None:
        """End calls whose deadline has passed; what an output has no room for waits for the next time."""
        state = self._traffic.state
        expire(state.connections, state.calls, state.outs, state.shared, self._traffic.due, now_ns)
        self._traffic.flush_all()

    def _end_places(self, next_ns: int, *, is_waiting: bool) -> int:
        """Fill no more places of a closed loop; those that wait for a stream by now are told as unsent."""
        if not self._schedule.is_closed_loop:
            return next_ns
        shared = self._traffic.state.shared
        if is_waiting:
            self._places_left += int(shared[X_DUE_COUNT])
        shared[X_DUE_COUNT] = 0
        return NOTHING_DUE

    def _finish(self, recording: Recording, on_interval: OnInterval) -> None:
        """Note what is left, and leave nothing of it to the next slice."""
        now_ns, shared = time.monotonic_ns(), self._traffic.state.shared
        if interval := self._meter.read(now_ns):
            on_interval(interval)
        recording.unsent = self._count_unsent(now_ns)
        recording.unanswered = int(shared[X_LIVE_COUNTED])
        shared[X_DUE_COUNT] = 0
        if recording.failure is None:
            self._traffic.cancel()
        else:
            self._traffic.close()

    def _count_unsent(self, now_ns: int) -> int:
        """Count what was due by now and was not sent, of what counts."""
        if self._schedule.is_closed_loop:
            return self._places_left
        shared = self._traffic.state.shared
        head, count = int(shared[X_DUE_HEAD]), int(shared[X_DUE_COUNT])
        left = self._traffic.due[head : head + count]
        return int(np.count_nonzero((left >= self._schedule.count_from_ns) & (left <= now_ns)))
