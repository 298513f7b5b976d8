"""The spine, second half: a servable takes batches from its queue and turns them into outputs.

    gather -> preprocess -> run -> postprocess -> scatter -> settle

All but the last run for the whole batch, on an instance thread or, while batches are cheap, on the I/O thread; settling
happens there, once per batch.
A batch that fails is split by halves between requests, so that a request the model cannot compute takes no batchmate
with it. 2 log2(requests) + 2 extra runs find one such request; when they find more, what is left runs one by one.
"""

import contextlib
import functools
import logging
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from serving.batching.arena import Staging
from serving.batching.batcher import Batcher
from serving.batching.entries import Batch, Entry, Over, Progress, Result
from serving.batching.inline import InlineRuns, Left
from serving.batching.pace import CHEAP_RUNS, Pace
from serving.clock import Clock
from serving.config import ModelConfig
from serving.errors import InternalError, InvalidRequest, ModelFailed
from serving.execution.instances import InstanceGroup
from serving.execution.probe import probed, zeros
from serving.execution.session import Session
from serving.pipeline.flaws import RefusedRowsError
from serving.statistics.latency import Answered, BatchTimes, ServableStatistics
from serving.types import Array

if TYPE_CHECKING:
    from serving.pipeline.pipeline import Pipeline

_FAILURE_LOG_INTERVAL_NS = 1_000_000_000
_log = logging.getLogger(__name__)

Post = Callable[[Callable[[], None]], object]
"""Runs a callback on the I/O thread, soon. Thread-safe."""


class OutputsDoNotFollowRowsError(Exception):
    """A batch's output has another number of rows than the batch: its first dimension does not count rows."""


class Servable:
    """One loaded version of a model: its session, its queue and the instances that run its batches.

    Batches run on instance threads, or, while they are cheap, on the I/O thread itself (`inline`). `submit` and `drop`
    belong to the I/O thread. Every submitted request is settled exactly once, there.
    """

    def __init__(
        self, name: str, version: int, session: Session, config: ModelConfig, *,
        clock: Clock, post: Post, inline: InlineRuns | None = None, pipeline: "Pipeline | None" = None,
    ) -> None:  # fmt: skip
        self.name = name
        self.version = version
        self.config = config
        self.pipeline = pipeline
        self.signature = session.signature if pipeline is None else pipeline.signature
        self.statistics = ServableStatistics()
        self._session = session
        self._clock = clock
        self._post = post
        self._inline = inline
        self._is_batchable = self.signature.batchable
        self._pace = Pace()
        self._failure_logged_ns = -_FAILURE_LOG_INTERVAL_NS
        self._inline_staging = Staging(self.signature)
        self._warm_up()
        batchable = self.signature.batchable
        self.batch_rows_max = config.batching.batch_rows_max if batchable else 1
        self.batcher = Batcher(config.batching, clock, instances=config.instances.count, batchable=batchable)
        self._instances = InstanceGroup(f"{name}/{version}", config.instances.count, self._serve)

    @classmethod
    def load(
        cls, name: str, version: int, path: Path, config: ModelConfig, *,
        clock: Clock, post: Post, inline: InlineRuns | None = None, allow_user_code: bool = False,
    ) -> "Servable":  # fmt: skip
        """Load `model.onnx` at `path`. Raises LoadError."""
        session = Session(path, config.session, config.instances)
        pipeline = None
        if not config.pipeline.is_empty:
            pipeline = _pipeline(config, session, path.parent, allow_user_code=allow_user_code)
        return cls(name, version, session, config, clock=clock, post=post, inline=inline, pipeline=pipeline)

    def submit(self, entry: Entry) -> None:
        """Queue a request, or many. Raises Overloaded or Draining."""
        inline = self._inline
        is_inline = inline is not None and self._is_cheap(inline)
        self.batcher.set_inline(is_inline)
        try:
            self.batcher.submit(entry)
        finally:  # what waits was taken from the instance threads, also when this entry is refused
            if inline is not None and is_inline:
                inline.add(self)

    def run_inline(self, budget_ns: int) -> Left:
        """Run one batch on the I/O thread, see `CheapWork`.

        What turns out to be dear is left to instance threads, and so is a request of more rows than fit a whole turn.
        """
        assert self._inline is not None, "bug: a servable without a place on the I/O thread was run there"
        waiting_rows = min(self.batcher.queued_rows, self.batch_rows_max)
        rows = self._pace.rows_within(waiting_rows, budget_ns)
        if waiting_rows and not rows and self._is_cheap(self._inline):
            return Left.MORE_THAN_FITS
        if (rows or not waiting_rows) and (batch := self.batcher.take_now(max(rows, 1))) is not None:
            if batch.entries:
                self._compute(batch, self._inline_staging)
            self._settle(batch)
            is_too_large = not batch.entries and not self.batcher.is_empty
            if is_too_large and budget_ns < self._inline.budget_ns:
                return Left.MORE_THAN_FITS
            if not is_too_large and self._pace.is_cheap:
                return Left.NOTHING if self.batcher.is_empty else Left.MORE
        self.batcher.set_inline(False)
        return Left.NOTHING

    def drop(self, entry: Entry) -> None:
        """Stop caring about a request; its `settle` will not be called."""
        self.batcher.drop(entry)

    def expire(self, entry: Entry) -> None:
        """Settle what is over in an entry that waits."""
        self._settle_over(self.batcher.sift(entry))

    def hurry(self) -> None:
        """Let no request wait for batchmates any more; the servable is about to close."""
        self.batcher.end_windows()

    def close(self) -> None:
        """Finish what waits, end the instance threads and free the session. Not for the I/O thread."""
        self.batcher.close()
        self._instances.join()
        self._session.close()

    def _is_cheap(self, inline: InlineRuns) -> bool:
        """Say whether batches should run on the I/O thread: none that should wait for more rows do."""
        if self.batcher.has_window or not self._session.runs_on_caller or not self._pace.is_cheap:
            return False
        if self.pipeline is not None and not self.pipeline.is_quick:
            return False
        return self._pace.rows_within(1, inline.budget_ns) > 0

    def _rehearse(self, inputs: Sequence[Array]) -> list[Array]:
        """Run without a request, on inputs that preprocessing may take or not."""
        if self.pipeline is None:
            return self._session.run(inputs)
        staging = self._inline_staging
        return self.pipeline.postprocess(
            self._session.run(self.pipeline.preprocess(inputs, staging, is_strict=False)), staging
        )

    def _warm_up(self) -> None:
        """Run a few times before anybody waits: the first run of a graph is slow, and its outputs tell the truth."""
        try:
            self.signature = probed(self.signature, self._rehearse)
            self._time_one_row()
        except Exception as error:  # noqa: BLE001 - zeros may be nothing that this model can take; it can still serve
            _log.info("%s/%d: no warm-up, the model does not take zeros: %s", self.name, self.version, error)
            return
        if self._is_batchable and not self.signature.batchable:
            _log.warning("%s/%d: rows do not stand alone, so batching is off", self.name, self.version)

    def _time_one_row(self) -> None:
        """Learn how long one row takes, so that a cheap model is known to be one from its first request on."""
        row = zeros(self.signature)
        times_ns = [self._clock.now_ns()]
        for _ in range(CHEAP_RUNS):
            self._rehearse(row)
            times_ns.append(self._clock.now_ns())
        shortest_ns = min(end_ns - begin_ns for begin_ns, end_ns in pairwise(times_ns))
        for _ in range(CHEAP_RUNS):
            self._pace.observe(1, shortest_ns)

    def _serve(self) -> None:
        """Run batches until the batcher is closed and empty. The loop of one instance thread."""
        staging = Staging(self.signature)
        while (batch := self.batcher.take()) is not None:
            if batch.entries:
                self._compute(batch, staging)
            self._post(functools.partial(self._settle, batch))
            del batch  # the last reference to outputs must not wait here for the next batch

    def _compute(self, batch: Batch, staging: Staging) -> None:
        """Execute a batch; a mistake of ours in doing so costs this batch and not the thread."""
        began_ns, cpu_began_ns = self._clock.now_ns(), self._clock.thread_ns()
        try:
            self._execute(batch, staging)
            self.batcher.observe(batch)
            batch.cpu_ns = self._clock.thread_ns() - cpu_began_ns
            batch.wall_ns = self._clock.now_ns() - began_ns
        except Exception:  # noqa: BLE001 - logged, and answered
            _log.exception("%s/%d: a batch could not be executed", self.name, self.version)
            for entry in batch.entries:
                if entry.outputs is None:
                    entry.outputs = InternalError()

    def _execute(self, batch: Batch, staging: Staging) -> None:
        """Fill in the outputs, or the error, of every entry of the batch."""
        reruns_left = 2 * math.ceil(math.log2(batch.requests)) + 2
        parts: list[Sequence[Entry]] = [batch.entries]
        while parts:
            part = parts.pop()
            try:
                self._run(part, batch, staging)
                continue
            except OutputsDoNotFollowRowsError:
                _log.warning("%s/%d: outputs do not follow rows; batching is off", self.name, self.version)
                self.batcher.stop_grouping()
                halving = False
            except RefusedRowsError as refused:
                if part is batch.entries:
                    part = batch.entries = [single for entry in part for single in entry.singles()]
                if left := _refuse(part, refused):
                    parts.append(left)
                    batch.reruns += 1
                continue
            except Exception:  # noqa: BLE001 - whatever the graph raises, this request alone must fail
                self._log_failure(part)
                halving = reruns_left >= 2
            if part is batch.entries:  # the first failure: from now on every request is an entry of its own
                part = batch.entries = [single for entry in part for single in entry.singles()]
            if len(part) == 1:
                part[0].outputs = ModelFailed(f"model '{self.name}' failed to compute this request")
                continue
            pieces = _halves(part) if halving else [[entry] for entry in part]
            parts += reversed(pieces)
            reruns_left -= len(pieces)
            batch.reruns += len(pieces)
        batch.scattered_ns = self._clock.now_ns()

    def _run(self, entries: Sequence[Entry], batch: Batch, staging: Staging) -> None:
        pipeline = self.pipeline
        started_ns = self._clock.now_ns()
        inputs = staging.gather(entries)
        if pipeline is not None:
            inputs = pipeline.preprocess(inputs, staging)
        gathered_ns = self._clock.now_ns()
        outputs = self._session.run(inputs)
        ran_ns = self._clock.now_ns()
        if pipeline is not None:
            _check_rows(entries, outputs)
            outputs = pipeline.postprocess(outputs, staging)
        _scatter(entries, outputs)
        batch.input_ns += gathered_ns - started_ns
        batch.infer_ns += ran_ns - gathered_ns
        batch.output_ns += self._clock.now_ns() - ran_ns

    def _settle(self, batch: Batch) -> None:
        """Give every request of a finished batch its answer. On the I/O thread."""
        alive = [entry for entry in batch.entries if entry.progress is not Progress.SETTLED]
        results = [result for entry in alive for result in self._finish(entry)]
        try:
            self._learn(batch, [entry for entry, result in results if isinstance(result, list)])
        except Exception:  # noqa: BLE001 - counting must not cost anybody an answer
            _log.exception("%s/%d: a batch could not be counted", self.name, self.version)
        for entry, result in results:
            self._give(entry, result)
        self._settle_over(batch.over)

    def _finish(self, entry: Entry) -> Sequence[tuple[Entry, Result]]:
        """Return what an entry that has run ends with, in as many parts as it takes."""
        outputs = entry.outputs
        if not isinstance(outputs, list):
            return ((entry, outputs or InternalError()),)
        try:
            return entry.finished(outputs, self._clock.now_ns())
        except Exception:  # noqa: BLE001 - a mistake of ours must not cost the batchmates their answers
            _log.exception("%s/%d: a request that has run could not be looked at", self.name, self.version)
            return ((entry, InternalError()),)

    def _settle_over(self, over: Sequence[Over]) -> None:
        for entry, error in over:
            self._give(entry, error)

    def _learn(self, batch: Batch, answered: Sequence[Entry]) -> None:
        """Count a batch, and how long it took."""
        if not answered:
            return
        if not batch.reruns:
            self._pace.observe(batch.rows, self._pace.cost_ns(batch.cpu_ns, batch.wall_ns))
        times = BatchTimes(
            rows=batch.rows,
            taken_ns=batch.taken_ns,
            input_ns=batch.input_ns,
            infer_ns=batch.infer_ns,
            output_ns=batch.output_ns,
            reruns=batch.reruns,
        )
        arrivals = [arrival for entry in answered for arrival in entry.arrivals]
        facts = Answered(arrivals, sum(entry.rows for entry in answered))
        self.statistics.batch_done(times, facts, now_ns=self._clock.now_ns(), wall_ns=self._clock.wall_ns())

    def _give(self, entry: Entry, result: Result) -> None:
        """Settle an entry; a mistake of ours in doing so must not cost its batchmates their answers."""
        try:
            entry.settle(result)
        except Exception:  # noqa: BLE001 - logged, and answered
            _log.exception("%s/%d: a request could not be settled", self.name, self.version)

    def _log_failure(self, entries: Sequence[Entry]) -> None:
        """Log the exception at hand, at most once per second, so that a hostile client cannot fill the disk."""
        now_ns = self._clock.now_ns()
        if now_ns - self._failure_logged_ns >= _FAILURE_LOG_INTERVAL_NS:
            self._failure_logged_ns = now_ns
            requests = sum(entry.requests for entry in entries)
            _log.exception("%s/%d: a batch of %d requests failed", self.name, self.version, requests)


def _scatter(entries: Sequence[Entry], outputs: list[Array]) -> None:
    """Give each entry its rows of the outputs, as views."""
    if len(entries) == 1 and entries[0].requests == 1:
        entries[0].outputs = outputs
        return
    rows = sum(entry.rows for entry in entries)
    _check_rows(entries, outputs)
    start = 0
    for entry in entries:
        stop = start + entry.rows
        entry.outputs = outputs if entry.rows == rows else [output[start:stop] for output in outputs]
        start = stop


def _check_rows(entries: Sequence[Entry], outputs: Sequence[Array]) -> None:
    """Check that outputs can be told apart by rows, which nobody needs of a single request's."""
    if len(entries) == 1 and entries[0].requests == 1:
        return
    rows = sum(entry.rows for entry in entries)
    if any(output.ndim == 0 or len(output) != rows for output in outputs):
        raise OutputsDoNotFollowRowsError


def _refuse(entries: Sequence[Entry], refused: RefusedRowsError) -> list[Entry]:
    """Give the requests whose rows were refused their errors; return the others.

    A request that runs alone may have rows of which nobody knows: of a model whose rows cannot be told apart.
    """
    left: list[Entry] = []
    end = 0
    for entry in entries:
        begin, end = end, end + entry.rows if len(entries) > 1 else max(refused.reasons) + 1
        reasons = [f"row {row - begin}: {refused.reasons[row]}" for row in range(begin, end) if row in refused.reasons]
        if reasons:
            more = f" (and {len(reasons) - 1} more rows)" if len(reasons) > 1 else ""
            entry.outputs = InvalidRequest(reasons[0] + more)
        else:
            left.append(entry)
    assert len(left) < len(entries), "bug: rows were refused that no request has sent"
    return left


def _pipeline(config: ModelConfig, session: Session, folder: Path, *, allow_user_code: bool) -> "Pipeline":
    """Compose and compile a model's pipeline. Raises LoadError."""
    from serving.pipeline.composition import Surroundings  # noqa: PLC0415 - brings numba, which few models need
    from serving.pipeline.pipeline import Pipeline  # noqa: PLC0415

    with contextlib.suppress(Exception):  # a graph that does not take zeros is composed as it declares itself
        session.signature = probed(session.signature, session.run)
    return Pipeline(config.pipeline, session.signature, Surroundings(folder, allow_user_code))


def _halves(entries: Sequence[Entry]) -> list[Sequence[Entry]]:
    middle = len(entries) // 2
    return [entries[:middle], entries[middle:]]
