"""One budget of cores for the batches of all servables.

A session keeps its own operator threads, which sleep while nothing runs, so what counts is what runs at once. A batch
takes as many cores as its session has threads and waits, first come first served, until they are free. It waits no
longer than it is going to take itself: then it runs beside the others, and the system shares the cores. So two heavy
models take turns and each has the cores that it was given, and a light one is never kept waiting by a heavy one for
long. onnxruntime's global thread pool would bound threads too; its threads spin when they idle, and Python cannot turn
that off (six times the CPU time of a small model, measured).
"""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Iterator

from serving.cores import usable_cores

PATIENCE_NS_MAX = 100_000_000
"""A batch waits no longer than this for cores, whatever it takes itself."""


class CoreGate:
    """Counts cores in use. Thread-safe; bound: one place in the line per instance thread."""

    def __init__(self, cores: int | None = None) -> None:
        self.cores = cores or usable_cores()
        self._free = self.cores
        self._line: deque[object] = deque()
        self._changed = threading.Condition(threading.Lock())

    @property
    def free(self) -> int:
        """How many cores nobody uses; below 0 when batches run beside others."""
        return self._free

    @property
    def waiting(self) -> int:
        """How many batches stand in line."""
        return len(self._line)

    def share(self, threads: int, instances: int) -> int:
        """Return how many cores one batch counts for, 0 when it is told to have more instances than there are cores.

        A servable that is told to use more threads than there are cores counts as if it used all of them.
        """
        return min(threads, self.cores // instances)

    @contextlib.contextmanager
    def use(self, cores: int, patience_ns: float) -> Iterator[None]:
        """Hold some cores for as long as the block runs; wait for them, but no longer than `patience_ns`."""
        with self._changed:
            if cores and (self._line or self._free < cores):
                self._wait(cores, min(patience_ns, PATIENCE_NS_MAX) / 1e9)
            self._free -= cores
        try:
            yield
        finally:
            if cores:
                with self._changed:
                    self._free += cores
                    if self._line:
                        self._changed.notify_all()

    def _wait(self, cores: int, patience_s: float) -> None:
        """Stand in line until it is this batch's turn and its cores are free, or until its patience is over."""
        place = object()
        self._line.append(place)
        until_s = time.monotonic() + patience_s
        while self._line[0] is not place or self._free < cores:
            left_s = until_s - time.monotonic()
            if left_s <= 0.0:
                break
            self._changed.wait(left_s)
        self._line.remove(place)
        self._changed.notify_all()  # whoever stands behind may find cores as well
