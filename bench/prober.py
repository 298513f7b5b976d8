"""One stock client that asks now and then beside a load: how soon, and how, it is turned away.

It does not wait for an answer before it asks again: answers come when a batch ends, which is when there is room, so who
asks soon after one is hardly ever turned away.
"""

import contextlib
import functools
import statistics
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import grpc

from bench.load import METHOD

PUSHBACK = "grpc-retry-pushback-ms"
INTERVAL_S = 0.02
_TIMEOUT_S = 10.0


@dataclass(slots=True)
class Refusals:
    """Requests that were not answered: by code, how long each took in ms, and how many said when to come again."""

    codes: Counter[str] = field(default_factory=Counter)
    took_ms: list[float] = field(default_factory=list)
    with_pushback: int = 0

    @property
    def median_ms(self) -> float:
        """How long a refusal takes; NaN without one."""
        return statistics.median(self.took_ms) if self.took_ms else float("nan")

    def __str__(self) -> str:
        if not self.took_ms:
            return "none of the prober's"
        slowest_ms = sorted(self.took_ms)[int(0.99 * len(self.took_ms))]
        codes = ", ".join(f"{count} {code}" for code, count in self.codes.items())
        return f"{codes} in {self.median_ms:.1f} ms (p99 {slowest_ms:.1f} ms), {self.with_pushback} with pushback"


class Prober:
    """A context manager: asks a server every INTERVAL_S on a thread of its own, until `stop` or the end."""

    def __init__(self, port: int, message: bytes) -> None:
        self._port = port
        self._message = message
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._ask, name="prober")
        self.refusals = Refusals()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
        self._thread.join()

    def stop(self) -> None:
        """Ask no more."""
        self._stopped.set()

    def _ask(self) -> None:
        options = [("grpc.enable_http_proxy", 0), ("grpc.enable_retries", 0)]
        with grpc.insecure_channel(f"127.0.0.1:{self._port}", options=options) as channel:
            infer = channel.unary_unary(METHOD)
            asked = []
            while not self._stopped.wait(INTERVAL_S):
                asked.append(infer.future(self._message, timeout=_TIMEOUT_S))
                asked[-1].add_done_callback(functools.partial(self._note, time.perf_counter()))
            for call in asked:
                with contextlib.suppress(grpc.RpcError):
                    call.result()

    def _note(self, began_s: float, call: grpc.Call) -> None:
        """Count a call that has ended, if it was turned away; on the thread of the channel."""
        if call.code() is grpc.StatusCode.OK:
            return
        refusals = self.refusals
        refusals.took_ms.append((time.perf_counter() - began_s) * 1e3)
        refusals.codes[call.code().name] += 1
        refusals.with_pushback += any(key == PUSHBACK for key, _ in call.trailing_metadata() or ())
