"""The spine, second half: a servable takes batches from its queue and turns them into outputs.

    gather -> preprocess -> run -> postprocess -> scatter -> settle

All but the last run for the whole batch, on an instance thread or, while batches are cheap, on the I/O thread; settling
happens there, once per batch.
A batch that fails is split by halves between requests, so that a request the model cannot compute takes no batchmate
with it. 2 log2(requests) + 2 extra runs find one such request; when more are guilty, what is not answered by then fails
with them.
"""

import functools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from serving.batching.arena import Staging
from serving.batching.batcher import Batcher
from serving.batching.calibrations import Calibrations, differ, files_of
from serving.batching.entries import Batch, Entry, Over, Progress, Result
from serving.batching.inline import InlineRuns, Left
from serving.batching.pace import Pace, PaddedPace
from serving.batching.policy import NEVER
from serving.batching.portions import OutputsDoNotFollowRowsError, check_rows, halves, refuse, scatter
from serving.batching.service_time import least_rows
from serving.batching.sweep import Sample
from serving.batching_view import batching_view
from serving.clock import Clock
from serving.config import ModelConfig
from serving.errors import BatchFailed, Cancelled, DeadlineExceeded, InternalError, ModelFailed
from serving.execution.core_gate import CoreGate
from serving.execution.graph import Graph
from serving.execution.instances import InstanceGroup
from serving.execution.memory import gpu_used_bytes, resident_bytes
from serving.execution.padding import AnySession, fitted
from serving.execution.session import BUILD, Session, threads_of
from serving.pipeline.files import FolderFiles, PackedFiles
from serving.pipeline.flaws import RefusedRowsError
from serving.rehearsal import Rehearsal, pipeline_of
from serving.statistics.batching import BatchingView
from serving.statistics.drift.counter import Counter
from serving.statistics.drift.counting import NUMPY, Kernels
from serving.statistics.drift.watch import DriftWatch
from serving.statistics.feedback import Feedback
from serving.statistics.latency import Answered, BatchTimes, CountBatch, ServableStatistics, count_plainly
from serving.statistics.servable_view import Footprint
from serving.statistics.tracing import Tracer
from serving.types import Array

if TYPE_CHECKING:
    from serving.pipeline.pipeline import Pipeline

_FAILURE_LOG_INTERVAL_NS = 1_000_000_000
_GOOD_RATE = 0.9
"""What waits is run on the I/O thread in parts only if these reach so much of the best rate of rows."""

_log = logging.getLogger(__name__)

Post = Callable[[Callable[[], None]], object]
"""Runs a callback on the I/O thread, soon. Thread-safe."""


class Reflects(Protocol):
    """Something that wants to see what is answered."""

    def reflect(self, servable: "Servable", answered: Sequence[tuple[Entry, list[Array]]]) -> None:
        """Look at requests and the outputs that they are about to get, on the I/O thread. Raises nothing."""


@dataclass(frozen=True, slots=True)
class Workplace:
    """What one executor of batches has for itself: buffers to gather inputs in, and what it counts for drift.

    `answers_first`: batches are counted when their answers are on their way, which another thread gives.
    """

    staging: Staging
    counter: Counter
    answers_first: bool


@dataclass(frozen=True, slots=True)
class Shared:
    """What the servables of one server share: the I/O thread's turns, what counts features, what was measured, cores.

    `allow_user_code`: whether steps of pipelines may be Python that lies beside a model.
    """

    inline: InlineRuns | None = None
    kernels: Kernels = field(default_factory=lambda: NUMPY)
    calibrations: Calibrations = field(default_factory=lambda: Calibrations(None))
    count_batch: CountBatch = count_plainly
    cores: CoreGate = field(default_factory=CoreGate)
    allow_user_code: bool = False
    tracer: Tracer | None = None


class Servable:
    """One loaded version of a model: its session, its queue and the instances that run its batches.

    Batches run on instance threads, or, while they are cheap, on the I/O thread itself (`inline`). `submit` and `drop`
    belong to the I/O thread. Every submitted request is settled exactly once, there. While `loads` are under way,
    nothing is learnt from how long batches take.
    """

    mirror: Reflects | None = None  # set, by a loader, while a rollout has a shadow

    def __init__(
        self, name: str, version: int, session: AnySession, config: ModelConfig, *,
        clock: Clock, post: Post, shared: Shared | None = None, pipeline: "Pipeline | None" = None,
    ) -> None:  # fmt: skip
        self.name = name
        self.version = version
        self.config = config
        shared = shared or Shared()
        self.footprint = Footprint()  # of loading it, where it was loaded
        self.package_digest = ""  # of the package that it came in, if it did
        self.pipeline = pipeline
        self.statistics = ServableStatistics(shared.count_batch)
        self._session = session
        self._clock = clock
        self._post = post
        self._inline = shared.inline
        self._calibrations = shared.calibrations
        self._calibration: tuple[str, list[Sample]] | None = None  # its key, and what was found at load
        self._loads = shared.calibrations.loads
        self._tracer = shared.tracer
        self._gate = shared.cores
        runs_here = session.runs_on_caller and config.instances.kind == "cpu"  # other devices have threads of their own
        threads = threads_of(config.session, config.instances)
        self._cores = self._gate.share(threads, config.instances.count) if runs_here else 0
        rows_allowed = config.batching.batch_rows_allowed
        self._pace = PaddedPace(rows_allowed) if rows_allowed else Pace()
        self._failure_logged_ns = -_FAILURE_LOG_INTERVAL_NS
        self._rehearsal = Rehearsal(session, pipeline, clock, name=f"{name}/{version}")
        self._rehearsal.warm_up(self._pace)
        self.signature = self._rehearsal.signature
        batchable = self.signature.batchable
        self.batch_rows_max = config.batching.batch_rows_max if batchable else 1
        self._target_ns = config.slo_ms * 1e6 or NEVER
        self.batcher = Batcher(
            config.batching, clock,
            instances=config.instances.count, batchable=batchable, target_ns=self._target_ns,
        )  # fmt: skip
        # What is compared with the reference profile is what the graph takes and gives.
        self.graph_signature = self.signature if pipeline is None else session.signature
        self.drift = DriftWatch(name, version, self.graph_signature, config.drift, clock=clock, kernels=shared.kernels)
        self.feedback = Feedback(name, version, self.signature, config.drift, clock=clock)
        self._inline_workplace = Workplace(self._rehearsal.staging, self.drift.counter(), answers_first=False)
        self._instances = InstanceGroup(f"{name}/{version}", config.instances.count, self._serve)

    @classmethod
    def load(
        cls, name: str, version: int, source: Path | Graph, config: ModelConfig, *,
        clock: Clock, post: Post, shared: Shared | None = None,
    ) -> "Servable":  # fmt: skip
        """Load a graph, from its file or from memory, and look up, or measure, how long its batches take.

        Raises LoadError.
        """
        shared = shared or Shared()
        began_ns, held_bytes = clock.now_ns(), resident_bytes()
        gpu_held_bytes = gpu_used_bytes(config.instances.gpu)
        calibrations = shared.calibrations
        files = FolderFiles(source.parent) if isinstance(source, Path) else PackedFiles(source.files)
        with calibrations.loads.one():
            rows_allowed = config.batching.batch_rows_allowed
            session = fitted(Session(source, config.session, config.instances), rows_allowed)
            pipeline = pipeline_of(config.pipeline, session, files, allow_user_code=shared.allow_user_code)
            one = cls(name, version, session, config, clock=clock, post=post, shared=shared, pipeline=pipeline)
            parts = list(files_of(source.parent) if isinstance(source, Path) else source.parts)
            facts = (BUILD, config.session, config.instances, config.pipeline, one.batch_rows_max, *rows_allowed)
            key = calibrations.key(parts, *facts)
            samples = calibrations.read(key) or one._rehearsal.sweep(one.batcher.outlook.times.curve.sizes)
            one.batcher.seed(samples)
            calibrations.write(key, samples)
            one._calibration = key, samples
        one.footprint = Footprint(
            clock.now_ns() - began_ns,
            sum(length for _, length, _ in parts),
            max(0, resident_bytes() - held_bytes),
            max(0, gpu_used_bytes(config.instances.gpu) - gpu_held_bytes),
        )
        return one

    def submit(self, entry: Entry) -> None:
        """Queue a request, or many. Raises Overloaded or Draining."""
        inline = self._inline
        is_inline = inline is not None and self._fits_here(inline, self.batcher.queued_rows + entry.rows)
        self.batcher.set_inline(is_inline)
        try:
            self._settle_over(self.batcher.submit(entry))
        finally:  # what waits was taken from the instance threads, also when this entry is refused
            if inline is not None and is_inline:
                inline.add(self)

    def run_inline(self, budget_ns: int) -> Left:
        """Run one batch on the I/O thread, see `CheapWork`.

        What turns out to be dear is left to instance threads, and so is a request of more rows than fit a whole turn.
        """
        assert self._inline is not None, "bug: a servable without a place on the I/O thread was run there"
        waiting_rows = min(self.batcher.queued_rows, self.batch_rows_max)
        rows = self._rows_here(waiting_rows, budget_ns)
        if waiting_rows and not rows and self._fits_here(self._inline, waiting_rows):
            return Left.MORE_THAN_FITS
        if (rows or not waiting_rows) and (batch := self.batcher.take_now(max(rows, 1))) is not None:
            if batch.entries:
                self._compute(batch, self._inline_workplace)
            self._settle(batch, is_inline=True)
            is_too_large = not batch.entries and not self.batcher.is_empty
            if is_too_large and budget_ns < self._inline.budget_ns:
                return Left.MORE_THAN_FITS
            if not is_too_large and self._pace.is_cheap:
                return Left.NOTHING if self.batcher.is_empty else Left.MORE
        self.batcher.set_inline(False)
        return Left.NOTHING

    def batching(self) -> BatchingView:
        """Return what the batcher has learnt and done."""
        return batching_view(self.batcher, self.config, self.statistics, now_ns=self._clock.now_ns())

    def drop(self, entry: Entry) -> None:
        """Stop caring about a request; its `settle` will not be called."""
        self.batcher.drop(entry)

    def expire(self, entry: Entry) -> None:
        """Settle what is over in an entry that waits."""
        self._settle_over(self.batcher.sift(entry))

    def hurry(self) -> None:
        """Let no request wait for batchmates any more; the servable is about to close."""
        self.batcher.hurry()

    def close(self) -> None:
        """Finish what waits, end the instance threads and free the session. Not for the I/O thread."""
        self.batcher.close()
        self._instances.join()
        self._keep_learnt()
        self.drift.end()
        self.feedback.watch.end()
        self._session.close()

    def _keep_learnt(self) -> None:
        """Leave to the next load what batches have taught since this one, if that differs from what it began with."""
        if self._calibration is None or not self.batcher.outlook.actual_ns:
            return
        key, samples = self._calibration
        learnt = self.batcher.outlook.times.known()
        if differ(samples, learnt):
            self._calibrations.write(key, learnt)

    def _fits_here(self, inline: InlineRuns, rows: int) -> bool:
        """Say whether `rows` rows that wait should run on the I/O thread.

        None that should wait for more rows do, nor those that an instance which runs now takes in its next batch.
        """
        if self.batcher.has_window or not self._session.runs_on_caller or not self._pace.is_cheap:
            return False
        if self.pipeline is not None and not self.pipeline.is_quick:
            return False
        if self.batcher.outlook.is_running:
            return False
        return self._rows_here(max(1, min(rows, self.batch_rows_max)), inline.budget_ns) > 0

    def _rows_here(self, rows: int, budget_ns: int) -> int:
        """Return how many of `rows` rows to run within a budget; none when fewer of them run at a lower rate."""
        fitting = self._pace.rows_within(rows, budget_ns)
        if fitting < rows and fitting < least_rows(self.batcher.outlook.times.curve, rows, _GOOD_RATE):
            return 0
        return fitting

    def _serve(self) -> None:
        """Run batches until the batcher is closed and empty. The loop of one instance thread."""
        workplace = Workplace(Staging(self.signature), self.drift.counter(), answers_first=True)
        while (batch := self.batcher.take()) is not None:
            if batch.entries:
                with self._gate.use(self._cores, self.batcher.outlook.times.mean_ns(batch.rows)):
                    self._compute(batch, workplace)
                self._end(batch, batch.wall_ns)
            self._post(functools.partial(self._settle, batch))
            if workplace.counter.is_due:
                self._count(batch.entries, workplace.counter.count_kept)
            del batch  # the last reference to outputs must not wait here for the next batch

    def _compute(self, batch: Batch, workplace: Workplace) -> None:
        """Execute a batch; a mistake of ours in doing so costs this batch and not the thread."""
        began_ns, cpu_began_ns = self._clock.now_ns(), self._clock.thread_ns()
        try:
            self._execute(batch, workplace)
            batch.cpu_ns = self._clock.thread_ns() - cpu_began_ns
            batch.wall_ns = self._clock.now_ns() - began_ns
            batch.is_clean = not self._loads.are_under_way
        except Exception:  # noqa: BLE001 - logged, and answered
            _log.exception("%s/%d: a batch could not be executed", self.name, self.version)
            batch.is_clean = False
            for entry in batch.entries:
                if entry.outputs is None:
                    entry.outputs = InternalError()

    def _end(self, batch: Batch, duration_ns: int) -> None:
        """Let the batcher know that a batch has run; a mistake of ours in doing so must cost nobody an answer."""
        try:
            self.batcher.done(batch, duration_ns)
        except Exception:  # noqa: BLE001 - logged; the answers are there
            _log.exception("%s/%d: nothing was learnt from a batch", self.name, self.version)

    def _execute(self, batch: Batch, workplace: Workplace) -> None:
        """Fill in the outputs, or the error, of every entry of the batch."""
        reruns_left = 2 * (batch.requests - 1).bit_length() + 2
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
            except RefusedRowsError as refused:
                if part is batch.entries:
                    part = batch.entries = [single for entry in part for single in entry.singles()]
                if left := refuse(part, refused.reasons):
                    parts.append(left)
                    batch.reruns += 1
                continue
            except Exception:  # noqa: BLE001 - whatever the graph raises, this request alone must fail
                self._log_failure(part)
                halving = True
            if part is batch.entries:  # the first failure: from now on every request is an entry of its own
                part = batch.entries = [single for entry in part for single in entry.singles()]
            if len(part) == 1:
                part[0].outputs = ModelFailed(f"model '{self.name}' failed to compute this request")
                continue
            if halving and reruns_left < 2:
                self._give_up(part)
                continue
            pieces = halves(part) if halving else [[entry] for entry in part]
            parts += reversed(pieces)
            reruns_left -= len(pieces) if halving else 0  # a model whose rows do not stand alone is nobody's fault
            batch.reruns += len(pieces)

    def _give_up(self, entries: Sequence[Entry]) -> None:
        """Fail requests of which some, and nobody knows which, cannot be computed."""
        error = BatchFailed(
            f"model '{self.name}' failed on several requests of one batch, and this one was not told apart from them; "
            "try again"
        )
        for entry in entries:
            entry.outputs = error

    def _run(self, entries: Sequence[Entry], batch: Batch, workplace: Workplace) -> None:
        pipeline, staging = self.pipeline, workplace.staging
        rows = sum(entry.rows for entry in entries)
        started_ns = self._clock.now_ns()
        inputs = staging.gather(entries)
        given = inputs
        if pipeline is not None:
            inputs = pipeline.preprocess(given, staging)
        gathered_ns = self._clock.now_ns()
        outputs = self._session.run(inputs)
        ran_ns = self._clock.now_ns()
        answers = outputs
        if pipeline is not None:
            check_rows(entries, rows, outputs)
            answers = pipeline.postprocess(outputs, staging, given)
        scatter(entries, rows, answers)
        if pipeline is not None and pipeline.has_ragged_answers:
            _make_whole(entries, pipeline)
        batch.input_ns += gathered_ns - started_ns
        batch.infer_ns += ran_ns - gathered_ns
        batch.output_ns += self._clock.now_ns() - ran_ns
        if self.config.drift.enabled and ran_ns >= self.drift.paused_until_ns:
            note = workplace.counter.keep if workplace.answers_first else workplace.counter.observe
            self._count(entries, note, inputs, outputs, rows=rows, infer_ns=ran_ns - gathered_ns)

    def _count(self, entries: Sequence[Entry], count: Callable[..., None], *arrays: list[Array], **facts: int) -> None:
        """Count rows that have run for drift; a mistake of ours in doing so must not cost anybody an answer."""
        try:
            count(*arrays, **facts)
        except Exception:  # noqa: BLE001 - logged
            self._log_failure(entries)

    def _settle(self, batch: Batch, *, is_inline: bool = False) -> None:
        """Give every request of a finished batch its answer. On the I/O thread.

        A batch that has run here (`is_inline`) has occupied this thread until its answers are given.
        """
        alive = [entry for entry in batch.entries if entry.progress is not Progress.SETTLED]
        results = [result for entry in alive for result in self._finish(entry)]
        try:
            self._learn(batch, [entry for entry, result in results if isinstance(result, list)])
            if len(alive) != len(batch.entries) or len(results) != len(alive):
                self._count_dead(batch, results)
        except Exception:  # noqa: BLE001 - counting must not cost anybody an answer
            _log.exception("%s/%d: a batch could not be counted", self.name, self.version)
        if (mirror := self.mirror) is not None:  # looked at once: a loader takes it away at any moment
            mirror.reflect(self, [(entry, result) for entry, result in results if isinstance(result, list)])
        for entry, result in results:
            self._give(entry, result)
        self._settle_over(batch.over)
        if batch.entries:
            took_ns = self._clock.now_ns() - batch.taken_ns
            if is_inline:
                self._end(batch, took_ns)
            else:
                self.batcher.settled(took_ns - batch.wall_ns)

    def _count_dead(self, batch: Batch, results: Sequence[tuple[Entry, Result]]) -> None:
        """Count rows that have run for somebody who waits no longer."""
        dropped = sum(entry.rows for entry in batch.entries if entry.progress is Progress.SETTLED)
        gone = sum(entry.rows for entry, result in results if isinstance(result, Cancelled | DeadlineExceeded))
        self.statistics.dead_rows += dropped + gone

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
        """Count a batch, and how long it took, which is as long for those that nobody waits for any more."""
        if batch.entries and not batch.reruns:
            self._pace.observe(batch.rows, self._pace.cost_ns(batch.cpu_ns, batch.wall_ns))
        if not answered:
            return
        times = BatchTimes(
            rows=batch.rows,
            taken_ns=batch.taken_ns,
            input_ns=batch.input_ns,
            infer_ns=batch.infer_ns,
            output_ns=batch.output_ns,
            reruns=batch.reruns,
        )
        arrivals = [arrival for entry in answered for arrival in entry.arrivals]
        now_ns, rows = self._clock.now_ns(), sum(entry.rows for entry in answered)
        missed = 0
        if self._target_ns < NEVER:
            missed = sum(count for arrival_ns, count in arrivals if now_ns - arrival_ns > self._target_ns)
            self.batcher.answered(rows, rows * missed // max(1, sum(count for _, count in arrivals)))
        facts = Answered(arrivals, rows, missed)
        self.statistics.batch_done(times, facts, now_ns=now_ns, wall_ns=self._clock.wall_ns())
        if self._tracer is not None:
            self._trace(self._tracer, times, answered)

    def _trace(self, tracer: Tracer, times: BatchTimes, answered: Sequence[Entry]) -> None:
        """Tell the tracer which entries have run, and how long it took."""
        for entry in answered:
            if entry.arena is None:
                tracer.ran(entry, times)
            else:  # nothing was there to be traced when its requests came
                tracer.compiled(self.name, str(self.version), times, entry.arrivals)

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


def _make_whole(entries: Sequence[Entry], pipeline: "Pipeline") -> None:
    """Turn the rows of each entry into tensors, as those of one request have one shape."""
    for entry in entries:
        assert entry.requests == 1, "bug: requests whose rows have shapes of their own came in one entry"
        if isinstance(entry.outputs, list):
            entry.outputs = pipeline.answered(entry.outputs)
