"""A shadow: copies of answered requests, computed once more by another servable, for nobody.

A copy is computed after the answers of its batch are on their way, so no client waits for it, and it is the first thing
to go: at most `requests_per_s` copies are made, at most REQUESTS_MAX are under way, and none while rows wait for the
model itself.
"""

import functools
import logging
import random
from collections import Counter
from collections.abc import Sequence

import numpy as np

from serving.batching.entries import PRIORITY_USUAL, Entry, QueuedRequest, Result
from serving.clock import Clock
from serving.errors import ServingError
from serving.model import Post, Servable
from serving.repository.handle import Handle
from serving.types import Array

REQUESTS_MAX = 4

_log = logging.getLogger(__name__)


class Mirror:
    """Mirrors the requests of one servable to another, whose handle the caller keeps alive. Lives on the I/O thread.

    `requests`, `errors` and `differing` count answers of the shadow; `dropped` counts, by why, what was not copied.
    """

    def __init__(self, shadow: Handle, clock: Clock, later: Post, *, requests_per_s: float, tolerance: float) -> None:
        self._shadow = shadow
        self._clock = clock
        self._later = later
        self._interval_ns = int(1e9 / requests_per_s)
        self._tolerance = tolerance
        self._next_ns = 0
        self._random = random.Random(0)  # noqa: S311 - which requests are copied is no secret
        self._under_way = 0
        self.requests = self.errors = self.differing = 0
        self.dropped: Counter[str] = Counter(load=0, busy=0)

    def reflect(self, servable: Servable, answered: Sequence[tuple[Entry, list[Array]]]) -> None:
        """See `Reflects`."""
        now_ns = self._clock.now_ns()
        if now_ns < self._next_ns or not answered:
            return
        self._next_ns = now_ns + self._interval_ns
        if servable.batcher.queued_rows:
            self.dropped["load"] += 1
        elif self._under_way >= REQUESTS_MAX:
            self.dropped["busy"] += 1
        else:
            try:
                self._copy(*self._random.choice(answered), is_batchable=servable.signature.batchable)
            except Exception:  # noqa: BLE001 - a mistake of ours in this must cost nobody anything
                _log.exception("%s/%d: a request could not be mirrored", servable.name, servable.version)

    def _copy(self, entry: Entry, outputs: list[Array], *, is_batchable: bool) -> None:
        begin, rows = entry.place_of(self._random.randrange(entry.requests))
        end = begin + rows
        inputs, expected = ([np.array(array[begin:end] if is_batchable else array) for array in arrays]
                            for arrays in (entry.inputs, outputs))  # fmt: skip
        queued = QueuedRequest(
            inputs,
            rows=rows,
            lane=entry.lane,
            input_bytes=sum(array.nbytes for array in inputs),
            arrival_ns=self._clock.now_ns(),
            deadline_ns=None,
            settle=functools.partial(self._answered, expected),
            priority=PRIORITY_USUAL,
        )
        self._under_way += 1
        self._later(functools.partial(self._submit, queued))  # the answers of this turn are written first

    def _submit(self, queued: QueuedRequest) -> None:
        if not self._shadow.acquire():  # the step is over
            self._under_way -= 1
            return
        try:
            self._shadow.servable.submit(queued)
        except ServingError as error:
            queued.settle(error)

    def _answered(self, expected: list[Array], result: Result) -> None:
        self._under_way -= 1
        self._shadow.release()
        self.requests += 1
        if isinstance(result, ServingError):
            self.errors += 1
        elif any(map(self._differs, expected, result)):
            self.differing += 1

    def _differs(self, expected: Array, found: Array) -> bool:
        if expected.shape != found.shape:
            return True
        if expected.dtype.kind != "f":
            return not np.array_equal(expected, found)
        return not np.allclose(found, expected, rtol=self._tolerance, atol=self._tolerance / 10, equal_nan=True)
