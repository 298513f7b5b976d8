"""The spine, second half: a servable takes batches from its queue and turns them into outputs.

    gather -> run -> scatter -> settle

The first three run for the whole batch, on an instance thread or, while batches are cheap, on the I/O thread; settling
happens there, once per batch.
A batch that fails is split by halves between requests, so that a request the model cannot compute takes no batchmate
with it. 2 log2(requests) + 2 extra runs find one such request; when they find more, what is left runs one by one.
"""

import functools
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from serving.batching.arena import Staging
from serving.batching.batcher import Batcher
from serving.batching.entries import Batch, Entry, Over, Progress, Result
from serving.batching.inline import InlineRuns, Left
from serving.batching.pace import CHEAP_RUNS, Pace
from serving.clock import Clock
from serving.config import ModelConfig
from serving.errors import InternalError, ModelFailed
from serving.execution.graph import Graph
from serving.execution.instances import InstanceGroup
from serving.execution.probe import probed, zeros
from serving.execution.session import Session
from serving.statistics.drift.counter import Counter
from serving.statistics.drift.counting import NUMPY, Kernels
from serving.statistics.drift.watch import DriftWatch
from serving.statistics.feedback import Feedback
from serving.statistics.latency import Answered, BatchTimes, ServableStatistics
from serving.types import Array

_FAILURE_LOG_INTERVAL_NS = 1_000_000_000
_log = logging.getLogger(__name__)

Post = Callable[[Callable[[], None]], object]
"""Runs a callback on the I/O thread, soon. Thread-safe."""


class OutputsDoNotFollowRowsError(Exception):
    """A batch's output has another number of rows than the batch: its first dimension does not count rows."""


@dataclass(frozen=True, slots=True)
class Workplace:
    """What one executor of batches has for itself: buffers to gather inputs in, and what it counts for drift."""

    staging: Staging
    counter: Counter


class Servable:
    """One loaded version of a model: its session, its queue and the instances that run its batches.

    Batches run on instance threads, or, while they are cheap, on the I/O thread itself (`inline`). `submit` and `drop`
    belong to the I/O thread. Every submitted request is settled exactly once, there.
    """

    def __init__(
        self, name: str, version: int, session: Session, config: ModelConfig, *,
        clock: Clock, post: Post, inline: InlineRuns | None = None, kernels: Kernels = NUMPY,
    ) -> None:  # fmt: skip
        self.name = name
        self.version = version
        self.config = config
        self.package_digest = ""  # of the package that it came in, if it did
        self.signature = session.signature
        self.statistics = ServableStatistics()
        self._session = session
        self._clock = clock
        self._post = post
        self._inline = inline
        self._pace = Pace()
        self._failure_logged_ns = -_FAILURE_LOG_INTERVAL_NS
        self._warm_up()
        batchable = self.signature.batchable
        self.batch_rows_max = config.batching.batch_rows_max if batchable else 1
        self.batcher = Batcher(config.batching, clock, instances=config.instances.count, batchable=batchable)
        self.drift = DriftWatch(name, version, self.signature, config.drift, clock=clock, kernels=kernels)
        self.feedback = Feedback(name, version, self.signature, config.drift, clock=clock)
        self._inline_workplace = self._workplace()
        self._instances = InstanceGroup(f"{name}/{version}", config.instances.count, self._serve)

    @classmethod
    def load(
        cls, name: str, version: int, source: Path | Graph, config: ModelConfig, *,
        clock: Clock, post: Post, inline: InlineRuns | None = None, kernels: Kernels = NUMPY,
    ) -> "Servable":  # fmt: skip
        """Load a graph, from its file or from memory; `kernels` count its features. Raises LoadError."""
        session = Session(source, config.session, config.instances)
        return cls(name, version, session, config, clock=clock, post=post, inline=inline, kernels=kernels)

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
                self._compute(batch, self._inline_workplace)
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
        self.drift.end()
        self.feedback.watch.end()
        self._session.close()

    def _is_cheap(self, inline: InlineRuns) -> bool:
        """Say whether batches should run on the I/O thread: none that should wait for more rows do."""
        if self.batcher.has_window or not self._session.runs_on_caller or not self._pace.is_cheap:
            return False
        return self._pace.rows_within(1, inline.budget_ns) > 0

    def _warm_up(self) -> None:
        """Run a few times before anybody waits: the first run of a graph is slow, and its outputs tell the truth."""
        try:
            self.signature = probed(self.signature, self._session.run)
            self._time_one_row()
        except Exception as error:  # noqa: BLE001 - zeros may be nothing that this model can take; it can still serve
            _log.info("%s/%d: no warm-up, the model does not take zeros: %s", self.name, self.version, error)
            return
        if self._session.signature.batchable and not self.signature.batchable:
            _log.warning("%s/%d: rows do not stand alone, so batching is off", self.name, self.version)

    def _time_one_row(self) -> None:
        """Learn how long one row takes, so that a cheap model is known to be one from its first request on."""
        row = zeros(self.signature)
        times_ns = [self._clock.now_ns()]
        for _ in range(CHEAP_RUNS):
            self._session.run(row)
            times_ns.append(self._clock.now_ns())
        shortest_ns = min(end_ns - begin_ns for begin_ns, end_ns in pairwise(times_ns))
        for _ in range(CHEAP_RUNS):
            self._pace.observe(1, shortest_ns)

    def _serve(self) -> None:
        """Run batches until the batcher is closed and empty. The loop of one instance thread."""
        workplace = self._workplace()
        while (batch := self.batcher.take()) is not None:
            if batch.entries:
                self._compute(batch, workplace)
            self._post(functools.partial(self._settle, batch))
            del batch  # the last reference to outputs must not wait here for the next batch

    def _compute(self, batch: Batch, workplace: Workplace) -> None:
        """Execute a batch; a mistake of ours in doing so costs this batch and not the thread."""
        began_ns, cpu_began_ns = self._clock.now_ns(), self._clock.thread_ns()
        try:
            self._execute(batch, workplace)
            self.batcher.observe(batch)
            batch.cpu_ns = self._clock.thread_ns() - cpu_began_ns
            batch.wall_ns = self._clock.now_ns() - began_ns
        except Exception:  # noqa: BLE001 - logged, and answered
            _log.exception("%s/%d: a batch could not be executed", self.name, self.version)
            for entry in batch.entries:
                if entry.outputs is None:
                    entry.outputs = InternalError()

    def _execute(self, batch: Batch, workplace: Workplace) -> None:
        """Fill in the outputs, or the error, of every entry of the batch."""
        reruns_left = 2 * math.ceil(math.log2(batch.requests)) + 2
        parts: list[Sequence[Entry]] = [batch.entries]
        while parts:
            part = parts.pop()
            try:
                self._run(part, batch, workplace)
                continue
            except OutputsDoNotFollowRowsError:
                _log.warning("%s/%d: outputs do not follow rows; batching is off", self.name, self.version)
                self.batcher.stop_grouping()
                halving = False
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

    def _run(self, entries: Sequence[Entry], batch: Batch, workplace: Workplace) -> None:
        started_ns = self._clock.now_ns()
        inputs = workplace.staging.gather(entries)
        gathered_ns = self._clock.now_ns()
        outputs = self._session.run(inputs)
        ran_ns = self._clock.now_ns()
        _scatter(entries, outputs)
        batch.input_ns += gathered_ns - started_ns
        batch.infer_ns += ran_ns - gathered_ns
        batch.output_ns += self._clock.now_ns() - ran_ns
        if self.config.drift.enabled:
            self._count(entries, inputs, outputs, ran_ns - gathered_ns, workplace)

    def _count(
        self, entries: Sequence[Entry], inputs: list[Array], outputs: list[Array], infer_ns: int, workplace: Workplace
    ) -> None:  # fmt: skip
        """Count rows that have run for drift; a mistake of ours in doing so must not cost anybody an answer."""
        try:
            rows = entries[0].rows if len(entries) == 1 else sum(entry.rows for entry in entries)
            workplace.counter.observe(inputs, outputs, rows=rows, infer_ns=infer_ns)
        except Exception:  # noqa: BLE001 - logged
            self._log_failure(entries)

    def _workplace(self) -> Workplace:
        return Workplace(Staging(self.signature), self.drift.counter())

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
    if any(output.ndim == 0 or len(output) != rows for output in outputs):
        raise OutputsDoNotFollowRowsError
    start = 0
    for entry in entries:
        stop = start + entry.rows
        entry.outputs = outputs if entry.rows == rows else [output[start:stop] for output in outputs]
        start = stop


def _halves(entries: Sequence[Entry]) -> list[Sequence[Entry]]:
    middle = len(entries) // 2
    return [entries[:middle], entries[middle:]]
