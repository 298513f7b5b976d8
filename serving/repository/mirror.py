"""A shadow: copies of answered requests, computed once more by another servable, for nobody.

A copy is computed after the answers of its batch are on their way, so no client waits for it, and it is the first thing
to go: at most `requests_per_s` copies are made, at most REQUESTS_MAX are under way, and none while rows wait for the
model itself. Of a request of many rows only some are copied, and large answers are compared on another thread, so that
the I/O thread is never held up for long.
"""

import functools
import logging
import random
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from serving.batching.entries import PRIORITY_USUAL, Entry, QueuedRequest, Result
from serving.clock import Clock
from serving.errors import InternalError, Overloaded, ServingError
from serving.model import Post, Servable
from serving.repository.handle import Handle
from serving.types import Array

REQUESTS_MAX = 4
BYTES_MAX = 64 << 20
"""A larger request is not copied; its answers count too."""
ROWS_BYTES_MAX = 1 << 20
"""Of a request so many bytes of rows are copied, and one row at least."""
BYTES_PER_S = 64 << 20
"""So many bytes are copied on the I/O thread, which takes about a hundredth of its time."""
COMPARED_HERE_BYTES_MAX = 1 << 16
"""Larger answers are compared elsewhere."""

_FAILURE_LOG_INTERVAL_NS = 1_000_000_000
_log = logging.getLogger(__name__)

Aside = Callable[[Callable[[], None]], object]
"""Has work done on another thread."""


class Mirror:
    """Mirrors the requests of one servable to another, whose handle the caller keeps alive. Lives on the I/O thread.

    `requests`, `errors` and `differing` count answers of the shadow; `dropped` counts, by why, what was not copied or
    found no room. `later` brings work back to the I/O thread, `aside` has some done on another one.
    """

    def __init__(
        self, shadow: Handle, clock: Clock, later: Post, aside: Aside, *, requests_per_s: float, tolerance: float
    ) -> None:  # fmt: skip
        self._shadow = shadow
        self._clock = clock
        self._later = later
        self._aside = aside
        self._interval_ns = 1e9 / requests_per_s
        self._tolerance = tolerance
        self._next_ns = 0.0
        self._failure_logged_ns = -_FAILURE_LOG_INTERVAL_NS
        self._random = random.Random(0)  # noqa: S311 - which requests are copied is no secret
        self._under_way = 0
        self.requests = self.errors = self.differing = 0
        self.dropped: Counter[str] = Counter(load=0, busy=0, large=0)

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
                self._copy(*self._random.choice(answered), servable)
            except Exception:  # noqa: BLE001 - a mistake of ours in this must cost nobody anything
                self._log_failure(f"{servable.name}/{servable.version}: a request could not be mirrored")

    # ---- out -------------------------------------------------------------------------------------------------------

    def _copy(self, entry: Entry, outputs: list[Array], servable: Servable) -> None:
        """Copy one request of an entry, or some of its rows, and have the copy submitted."""
        begin, rows = entry.place_of(self._random.randrange(entry.requests))
        originals = [entry.inputs, outputs]
        if all(array.shape[:1] == (entry.rows,) for arrays in originals for array in arrays):
            if servable.signature.batchable and not _has_ragged_answers(servable):
                rows = _rows_to_copy(originals, rows)
            originals = [[array[begin : begin + rows] for array in arrays] for arrays in originals]
        copied_bytes = sum(array.nbytes for arrays in originals for array in arrays)
        if copied_bytes > BYTES_MAX:
            self.dropped["large"] += 1
            return
        self._next_ns += copied_bytes * (1e9 / BYTES_PER_S)
        inputs, expected = ([np.array(array) for array in arrays] for arrays in originals)
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
        except Overloaded:  # by what it was given here: of the package that says nothing
            self._let_go()
            self.dropped["busy"] += 1
        except ServingError as error:
            queued.settle(error)
        except Exception:  # noqa: BLE001 - or else what is held for it would be held for ever
            self._log_failure("a copy of a request could not be submitted to a shadow")
            queued.settle(InternalError())

    # ---- back ------------------------------------------------------------------------------------------------------

    def _answered(self, expected: list[Array], result: Result) -> None:
        """Count an answer of the shadow; its copy is under way until it was compared."""
        if isinstance(result, ServingError):
            self._let_go()
            self.requests += 1
            self.errors += 1
        elif sum(array.nbytes for array in expected) <= COMPARED_HERE_BYTES_MAX:
            self._judged(expected, result)()
        else:
            try:
                self._aside(functools.partial(self._judge_aside, expected, result))
            except RuntimeError:  # the server is stopping
                self._let_go()

    def _judge_aside(self, expected: list[Array], found: list[Array]) -> None:
        self._later(self._judged(expected, found))

    def _judged(self, expected: list[Array], found: list[Array]) -> Callable[[], None]:
        """Compare answers, on any thread; return what is left to be done about it on the I/O thread."""
        try:
            return functools.partial(self._compared, _differ(expected, found, self._tolerance))
        except Exception:  # noqa: BLE001 - without memory for example, or else the copy would be under way for ever
            self._log_failure("an answer of a shadow could not be compared")
            return self._let_go

    def _compared(self, differs: bool) -> None:
        self._let_go()
        self.requests += 1
        self.differing += differs

    def _let_go(self) -> None:
        self._under_way -= 1
        self._shadow.release()

    def _log_failure(self, what: str) -> None:
        """Log the exception at hand, at most once per second: there may be as many as requests."""
        now_ns = self._clock.now_ns()
        if now_ns - self._failure_logged_ns >= _FAILURE_LOG_INTERVAL_NS:
            self._failure_logged_ns = now_ns
            _log.exception(what)


def _rows_to_copy(originals: Sequence[Sequence[Array]], rows: int) -> int:
    """Return how many rows of a request to copy: those that fit ROWS_BYTES_MAX, and one at least."""
    row_bytes = sum(array[:1].nbytes for arrays in originals for array in arrays)
    return max(1, min(rows, ROWS_BYTES_MAX // max(1, row_bytes)))


def _has_ragged_answers(servable: Servable) -> bool:
    """Say whether answers take the shape of the longest row of a request, and so are others for fewer rows."""
    return servable.pipeline is not None and servable.pipeline.has_ragged_answers


def _differ(expected: Sequence[Array], found: Sequence[Array], tolerance: float) -> bool:
    """Say whether two answers are not the same, but for the tolerance."""
    if len(expected) != len(found):
        return True
    with np.errstate(all="ignore"):
        return any(_differs(*pair, tolerance) for pair in zip(expected, found, strict=True))


def _differs(expected: Array, found: Array, tolerance: float) -> bool:
    if (expected.shape, expected.dtype) != (found.shape, found.dtype):
        return True
    if expected.dtype.kind != "f":
        return not np.array_equal(expected, found)
    return not np.allclose(found, expected, rtol=tolerance, atol=tolerance / 10, equal_nan=True)
