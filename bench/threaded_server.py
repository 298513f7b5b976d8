"""The same planes and services behind grpcio's threaded server: what the `grpcio` transport was chosen over.

`python -m bench.threaded_server MODELS THREADS` prints its port and serves until its standard input ends. What runs on
the I/O thread in the real server runs under one lock here, which is the cheapest sound way for handler threads.
"""

import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import grpc

from serving.admission import Admission
from serving.clock import MonotonicClock
from serving.controlplane import ControlPlane
from serving.dataplane import DataPlane
from serving.errors import ServingError
from serving.model import Servable
from serving.repository.manager import ModelRepository
from serving.statistics.counters import RequestCounters
from serving.transport.calls import Message, UnaryMethod
from serving.transport.large import LargeMessages
from serving.transport.services import InferenceService
from serving.transport.status import GRPC_CODES


class ThreadTimers:
    """Timers that call back under the lock; made only for requests with a deadline."""

    def __init__(self, clock: MonotonicClock, post: Callable[[Callable[[], None]], object]) -> None:
        self._clock = clock
        self._post = post

    def call_at_ns(self, when_ns: int, callback: Callable[[], None]) -> threading.Timer:
        """See serving.clock.Timers."""
        timer = threading.Timer(max(0, when_ns - self._clock.now_ns()) / 1e9, self._post, (callback,))
        timer.daemon = True
        timer.start()
        return timer


class ThreadCall:
    """A unary call whose handler thread waits for the answer."""

    takes_pieces = False
    traceparent = ""
    route = 0

    def __init__(self) -> None:
        self.peer_host = "127.0.0.1"
        self.peer_names = ()
        self.deadline_ns: int | None = None
        self.on_cancel: Callable[[], None] | None = None
        self._answered = threading.Event()
        self._answer: bytes | ServingError = b""

    def settle(self, answer: Message | ServingError) -> None:
        """See serving.transport.calls.Call."""
        self._answer = answer if isinstance(answer, (bytes, ServingError)) else b"".join(answer)
        self._answered.set()

    def wait(self) -> bytes | ServingError:
        """Wait for the answer."""
        self._answered.wait()
        return self._answer


class Handlers(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Runs each call's method under the lock and waits for its answer outside of it."""

    def __init__(self, methods: dict[str, UnaryMethod], lock: threading.RLock) -> None:
        self._lock = lock
        self._handlers = {
            path: grpc.unary_unary_rpc_method_handler(partial(self._handle, method)) for path, method in methods.items()
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        """See grpc.GenericRpcHandler."""
        return self._handlers.get(handler_call_details.method)

    def _handle(self, method: UnaryMethod, data: bytes, context: Any) -> bytes:
        call = ThreadCall()
        with self._lock:
            method(data, call)
        answer = call.wait()
        if isinstance(answer, ServingError):
            context.abort(GRPC_CODES[answer.code], answer.message)
            return b""
        return answer


def main() -> None:
    """Serve until standard input ends."""
    models, threads = Path(sys.argv[1]), int(sys.argv[2])
    lock, clock = threading.RLock(), MonotonicClock()

    def post(callback: Callable[[], None]) -> None:
        with lock:
            callback()

    load = partial(Servable.load, clock=clock, post=post)
    repository = ModelRepository(models, load, clock, drain_timeout_s=30, changed=lambda: None)
    repository.load_all()
    plane = DataPlane(repository, Admission(16_384), RequestCounters(), clock=clock, timers=ThreadTimers(clock, post))
    service = InferenceService(
        repository, plane, ControlPlane(repository, "off"),
        large=LargeMessages(ThreadPoolExecutor(1), post),
        worker=ThreadPoolExecutor(1), post=post, why_not_ready=repository.why_not_ready,
    )  # fmt: skip
    server = grpc.server(ThreadPoolExecutor(threads), options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((Handlers(service.unary(), lock),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    sys.stdin.read()
    server.stop(None)


if __name__ == "__main__":
    main()
