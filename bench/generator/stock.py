"""The stock client: the same slices through grpcio's public API, as the referee of the compiled client.

It costs some hundred microseconds per request, so it offers a few thousand requests per second at most. Requests leave
from one thread; grpcio's threads note when the answers came. A lost connection ends a slice, as it does with the
compiled client, although grpcio would connect again. CPU time is that of the process.
"""

import collections
import contextlib
import queue
import select
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np

from bench.generator import failures
from bench.generator.failures import SliceFailed, SliceStopped
from bench.generator.links import CONNECT_TIMEOUT_S, connect, tls_context
from bench.generator.meter import INTERVAL_NS
from bench.generator.schedule import Schedule, message_order
from bench.histogram import Histogram
from bench.slices import Interval, OpenLoop, Recording, Slice, Target
from serving.errors import ConfigError

_METHOD = "/inference.GRPCInferenceService/ModelInfer"
_CANCEL_TIMEOUT_S = 5.0


@dataclass(slots=True)
class _Counted:
    """What has happened since the last interval, as (intended, answered) moments; appended by several threads."""

    lags_ns: collections.deque[int] = field(default_factory=collections.deque)
    ended: collections.deque[tuple[str, int]] = field(default_factory=collections.deque)


class StockClient:
    """Channels to one target, each with a connection of its own. `run` is for one thread; see NativeClient."""

    def __init__(
        self, target: Target, messages: Sequence[bytes], *, connections: int, watched_fd: int | None = None
    ) -> None:
        self._target = target
        self._messages = list(messages)
        self._connections = connections
        self._watched_fd = watched_fd
        self._context = tls_context(target)
        self._channels: list[grpc.Channel] = []
        self._is_lost = threading.Event()

    def close(self) -> None:
        """Close all channels."""
        for channel in self._channels:
            channel.close()
        self._channels.clear()

    def run(self, slice_: Slice, on_interval: Callable[[Interval], None]) -> Recording:
        """Run a slice; see NativeClient.run."""
        schedule = Schedule.of(slice_)
        try:
            self._connect()
        except SliceFailed as failure:
            self.close()
            return Recording(slice_, failure=str(failure))
        calls = [channel.unary_unary(_METHOD) for channel in self._channels]
        messages = [self._messages[k] for k in message_order(slice_, len(self._messages)).tolist()]
        run = _Run(slice_, schedule.moved(time.monotonic_ns()), calls, messages, on_interval)
        failure_text = None
        try:
            run.turns(self._check)
        except SliceStopped as stopped:
            failure_text = str(stopped)
        except SliceFailed:
            failure_text = str(failures.closed(self._target, run.at_s()))
        recording = run.finish(failure_text)
        if failure_text is not None:
            self.close()
        return recording

    def _connect(self) -> None:
        """Connect, unless all channels are there and alive. Raises SliceFailed with the compiled client's words."""
        if self._channels and not self._is_lost.is_set():
            return
        self.close()
        self._is_lost.clear()
        connect(self._target, self._context).close()
        for _ in range(self._connections):
            channel = self._channel()
            self._channels.append(channel)
            try:
                grpc.channel_ready_future(channel).result(CONNECT_TIMEOUT_S)
            except grpc.FutureTimeoutError:
                raise failures.not_answering(self._target, CONNECT_TIMEOUT_S) from None
            channel.subscribe(self._note)

    def _channel(self) -> grpc.Channel:
        address = failures.address_of(self._target)
        options = [
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.enable_http_proxy", 0),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_receive_message_length", -1),
        ]
        if not self._target.tls:
            return grpc.insecure_channel(address, options)
        try:
            files = (self._target.tls_ca, self._target.tls_key, self._target.tls_cert)
            ca, key, chain = (path.read_bytes() if path else None for path in files)
        except OSError as error:
            raise ConfigError(f"cannot read {error.filename}: {error.strerror}") from None
        return grpc.secure_channel(address, grpc.ssl_channel_credentials(ca, key, chain), options)

    def _note(self, connectivity: grpc.ChannelConnectivity) -> None:
        """Note on a thread of grpcio's that a connection is lost."""
        if connectivity in {grpc.ChannelConnectivity.IDLE, grpc.ChannelConnectivity.TRANSIENT_FAILURE}:
            self._is_lost.set()

    def _check(self) -> None:
        """Raise SliceFailed when a connection is lost, SliceStopped when the pipe to the bench says something."""
        if self._is_lost.is_set():
            raise SliceFailed
        if self._watched_fd is not None and select.select((self._watched_fd,), (), (), 0)[0]:
            raise SliceStopped


class _Run:
    """One slice. `turns` and `finish` are for its thread, `_end` for those of grpcio."""

    def __init__(
        self,
        slice_: Slice,
        schedule: Schedule,
        calls: list[Any],
        messages: list[bytes],
        on_interval: Callable[[Interval], None],
    ) -> None:
        self._slice = slice_
        self._schedule = schedule
        self._calls = calls
        self._messages = messages
        self._on_interval = on_interval
        self._counted = _Counted()
        self._places: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._due = collections.deque(schedule.due_ns.tolist())
        self._live: set[Any] = set()
        self._sent = 0
        self._waiting = 0
        """Of what counts and was told: sent, and not ended."""
        self._is_over = False
        self._ended = threading.Event()
        self._begin_ns: int | None = None
        self._cpu_ns = 0

    def at_s(self) -> float:
        """How long ago counting began."""
        return (time.monotonic_ns() - self._schedule.count_from_ns) / 1e9

    def turns(self, check: Callable[[], None]) -> None:
        """Send what is due until the slice is over."""
        schedule = self._schedule
        tell_ns = schedule.count_from_ns
        while True:
            now_ns = time.monotonic_ns()
            check()
            if now_ns >= tell_ns:
                self._tell(now_ns)
                tell_ns = now_ns + INTERVAL_NS
            is_ending = now_ns >= schedule.end_ns
            if is_ending and (now_ns >= schedule.give_up_ns or not (self._live or self._open_due())):
                return
            wake_ns = min(tell_ns, schedule.give_up_ns if is_ending else schedule.end_ns)
            intended_ns = self._next(wake_ns)
            if intended_ns is not None:
                self._send(intended_ns)

    def _open_due(self) -> bool:
        return not self._schedule.is_closed_loop and bool(self._due)

    def _next(self, wake_ns: int) -> int | None:
        """Wait for the next intended moment, at most until `wake_ns`; None when there is none by then."""
        if self._due:
            wait_s = (min(self._due[0], wake_ns) - time.monotonic_ns()) / 1e9
            if wait_s > 0:
                time.sleep(wait_s)
            return self._due.popleft() if self._due[0] <= time.monotonic_ns() else None
        wait_s = max(0.0, (wake_ns - time.monotonic_ns()) / 1e9)
        if not self._schedule.is_closed_loop or time.monotonic_ns() >= self._schedule.end_ns:
            self._ended.wait(min(wait_s, 0.01))
            self._ended.clear()
            return None
        with contextlib.suppress(queue.Empty):
            return self._places.get(timeout=wait_s)
        return None

    def _send(self, intended_ns: int) -> None:
        number, self._sent = self._sent, self._sent + 1
        message, call = self._messages[number % len(self._messages)], self._calls[number % len(self._calls)]
        now_ns = time.monotonic_ns()
        if intended_ns >= self._schedule.count_from_ns:
            self._counted.lags_ns.append(now_ns - intended_ns)
        future = call.future(message, timeout=self._slice.timeout_s)
        self._live.add(future)
        future.add_done_callback(lambda done: self._end(done, intended_ns))

    def _end(self, done: Any, intended_ns: int) -> None:
        """Note an answer."""
        now_ns = time.monotonic_ns()
        if not self._is_over:
            if intended_ns >= self._schedule.count_from_ns:
                self._counted.ended.append((done.code().name, now_ns - intended_ns))
            if self._schedule.is_closed_loop and now_ns < self._schedule.end_ns:
                self._places.put(now_ns)
        self._live.discard(done)
        self._ended.set()

    def _tell(self, now_ns: int) -> None:
        """Hand out what has happened since the last interval; nothing before counting has begun."""
        begin_ns, self._begin_ns = self._begin_ns, max(now_ns, self._schedule.count_from_ns)
        cpu_ns, self._cpu_ns = self._cpu_ns, time.process_time_ns()
        if begin_ns is None:
            self._begin_ns = self._schedule.count_from_ns
            return
        lags, ended = self._counted.lags_ns, self._counted.ended
        lags_ns = np.array([lags.popleft() for _ in range(len(lags))], np.int64)
        answers = [ended.popleft() for _ in range(len(ended))]
        self._waiting += lags_ns.size - len(answers)
        latencies_ns = np.array([latency_ns for code, latency_ns in answers if code == "OK"], np.int64)
        zero_ns, slo_ms = self._schedule.count_from_ns, self._slice.slo_ms
        slo_ns = float("inf") if slo_ms is None else slo_ms * 1e6
        interval = Interval(
            (begin_ns - zero_ns) / 1e9,
            (now_ns - zero_ns) / 1e9,
            sent=lags_ns.size,
            answered=latencies_ns.size,
            in_slo=int(np.count_nonzero(latencies_ns <= slo_ns)),
            errors=collections.Counter(code for code, _ in answers if code != "OK"),
            latency=Histogram.of(latencies_ns),
            lag=Histogram.of(lags_ns),
            busy_s=(self._cpu_ns - cpu_ns) / 1e9,
        )
        self._on_interval(interval)

    def finish(self, failure: str | None) -> Recording:
        """Cancel what is left, and say what it was."""
        self._is_over = True
        now_ns = time.monotonic_ns()
        self._tell(now_ns)
        left = [moment for moment in self._due if self._schedule.count_from_ns <= moment <= now_ns]
        unsent = len(left) if isinstance(self._slice.load, OpenLoop) else 0
        live = list(self._live)
        for future in live:
            future.cancel()
        give_up_s = time.monotonic() + _CANCEL_TIMEOUT_S
        while self._live and time.monotonic() < give_up_s:
            self._ended.wait(0.01)
            self._ended.clear()
        return Recording(self._slice, unanswered=self._waiting, unsent=unsent, failure=failure)
