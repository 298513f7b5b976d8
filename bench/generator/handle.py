"""What the bench uses of the generator: a process that runs slices, and what it has recorded.

The process is a child of this one; drawing progress here delays no send there. It ends with the handle, with its
parent, or when something kills it, which is a failure of the slice that it ran. It knows no socket.
"""

import multiprocessing
import queue
import threading
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self

from bench.generator.child import Ready, Refused, Stop, main
from bench.slices import INTERRUPTED, Interval, Recording, Slice, Target
from serving.errors import ConfigError

CLIENTS = ("native", "grpcio")
CONNECTIONS_MAX = 512
STOP_TIMEOUT_S = 5.0
INTERRUPT_TIMEOUT_S = 2.0
"""How long an interrupted slice may take to say what it has recorded since its last interval."""


class Generator:
    """Runs slices of load, one at a time, on `targets`.

    `messages` holds for each target the encoded ModelInferRequests that its slices go round. `connections` to a target
    are made by its first slice and kept; one that was lost is made anew by the next. Use it in a `with`; `run` is for
    one thread, and calls `on_interval` on it. `interrupt` is for any thread, and for signal handlers.
    """

    def __init__(
        self,
        targets: Sequence[Target],
        messages: Sequence[Sequence[bytes]],
        *,
        connections: int = 8,
        client: str = "native",
    ) -> None:
        if client not in CLIENTS:
            raise ConfigError(f"client = {client!r}, expected one of {', '.join(CLIENTS)}")
        if not 1 <= connections <= CONNECTIONS_MAX:
            raise ConfigError(f"connections = {connections}, expected 1 to {CONNECTIONS_MAX}")
        assert len(targets) == len(messages), "bug: each target needs its messages"
        assert all(messages), "bug: a target without messages"
        self._is_interrupted = False
        self._arguments = (list(targets), [list(own) for own in messages], connections, client)

    def __enter__(self) -> Self:
        """Start the process, and wait until its kernels are compiled or loaded. Raises ConfigError."""
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=main, args=(theirs, *self._arguments), name="load generator", daemon=True
        )  # fmt: skip
        self._process.start()
        theirs.close()
        self._arrived: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._reader = threading.Thread(target=_read, args=(self._pipe, self._arrived), daemon=True)
        self._reader.start()
        first = self._arrived.get()
        if isinstance(first, Ready):
            return self
        why = first.message if isinstance(first, Refused) else self._why_it_ended()
        self._stop()
        raise ConfigError(why)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop()

    def run(self, slice_: Slice, on_interval: Callable[[Interval], None]) -> Recording:
        """Run a slice to its end; `on_interval` gets what happened about four times a second.

        What goes wrong on the way is in the recording's `failure`, beside what was recorded before. Raises ConfigError
        for a load that cannot be offered.
        """
        assert 0 <= slice_.target < len(self._arguments[0]), "bug: no such target"
        intervals: list[Interval] = []

        def keep(interval: Interval) -> None:
            intervals.append(interval)
            on_interval(interval)

        if self._is_interrupted:
            return Recording(slice_, failure=INTERRUPTED)
        try:
            self._pipe.send(slice_)
        except OSError:
            return Recording(slice_, failure=self._why_it_ended())
        arrived = self._next(keep)
        if isinstance(arrived, Stop):
            arrived = self._stopped(keep) or Recording(slice_)
            arrived.failure = INTERRUPTED
            arrived.unsent = 0  # what was due at that very moment is no loss
        if isinstance(arrived, Refused):
            raise ConfigError(arrived.message)
        recording: Recording = arrived or Recording(slice_, failure=self._why_it_ended())
        recording.intervals = intervals
        return recording

    def interrupt(self) -> None:
        """End the slice that runs, and every later one at once: their failure is `INTERRUPTED`."""
        if not self._is_interrupted:
            self._is_interrupted = True
            self._arrived.put(Stop())

    def _next(self, on_interval: Callable[[Interval], None], timeout_s: float | None = None) -> Any:
        """Return what arrives after some intervals; None when the process is gone. Raises queue.Empty."""
        while isinstance(arrived := self._arrived.get(timeout=timeout_s), Interval):
            on_interval(arrived)
        return arrived

    def _stopped(self, on_interval: Callable[[Interval], None]) -> Recording | None:
        """Stop the slice and return its recording, None when there is none to be had."""
        try:
            self._pipe.send(Stop())
            arrived = self._next(on_interval, INTERRUPT_TIMEOUT_S)
        except (OSError, queue.Empty):  # it is gone, or waits for a server that does not take its connections
            return None
        return arrived if isinstance(arrived, Recording) else None

    def _why_it_ended(self) -> str:
        self._process.join(STOP_TIMEOUT_S)
        status = self._process.exitcode
        how = f"was killed by signal {-status}" if status is not None and status < 0 else f"ended with status {status}"
        return f"the load generator's process {how}; what it said on stderr may tell more"

    def _stop(self) -> None:
        """End the process; a slice that it still runs is given up."""
        self._process.terminate()
        self._process.join(STOP_TIMEOUT_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._reader.join()
        self._pipe.close()
        self._process.close()


def _read(pipe: Connection, arrived: "queue.SimpleQueue[Any]") -> None:
    """Take everything from the pipe at once, so that the child never waits for us; None is its end."""
    try:
        while True:
            arrived.put(pipe.recv())
    except (EOFError, OSError):
        arrived.put(None)
