"""The spine, second half: a servable takes batches from its queue and turns them into outputs.

    gather -> run -> scatter -> settle

The first three run on an instance thread, for the whole batch; settling happens on the I/O thread, once per batch.
A batch that fails is split by halves between requests, so that a request the model cannot compute takes no batchmate
with it. 2 log2(requests) + 2 extra runs find one such request; when they find more, what is left runs one by one.
"""

import functools
import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from serving.batching.batcher import Batch, Batcher, Progress, QueuedRequest
from serving.clock import Clock
from serving.config import ModelConfig
from serving.errors import DeadlineExceeded, InternalError, ModelFailed, ServingError
from serving.execution.instances import InstanceGroup
from serving.execution.probe import probed
from serving.execution.session import Session
from serving.statistics.latency import Answered, BatchTimes, ServableStatistics
from serving.types import DYNAMIC, Array, Datatype, Signature

_FAILURE_LOG_INTERVAL_NS = 1_000_000_000
_log = logging.getLogger(__name__)

Post = Callable[[Callable[[], None]], object]
"""Runs a callback on the I/O thread, soon. Thread-safe."""


class OutputsDoNotFollowRowsError(Exception):
    """A batch's output has another number of rows than the batch: its first dimension does not count rows."""


class Servable:
    """One loaded version of a model: its session, its queue and the instance threads between them.

    `submit` and `drop` belong to the I/O thread. Every submitted request is settled exactly once, there.
    """

    def __init__(
        self, name: str, version: int, session: Session, config: ModelConfig, *, clock: Clock, post: Post
    ) -> None:
        self.name = name
        self.version = version
        self.config = config
        self.signature = session.signature
        self.statistics = ServableStatistics()
        self._session = session
        self._clock = clock
        self._post = post
        self._failure_logged_ns = -_FAILURE_LOG_INTERVAL_NS
        self._warm_up()
        batchable = self.signature.batchable
        self.batch_rows_max = config.batching.batch_rows_max if batchable else 1
        self.batcher = Batcher(config.batching, clock, instances=config.instances.count, batchable=batchable)
        self._instances = InstanceGroup(f"{name}/{version}", config.instances.count, self._serve)

    @classmethod
    def load(cls, name: str, version: int, path: Path, config: ModelConfig, *, clock: Clock, post: Post) -> "Servable":
        """Load `model.onnx` at `path`. Raises LoadError."""
        session = Session(path, config.session, config.instances)
        return cls(name, version, session, config, clock=clock, post=post)

    def submit(self, request: QueuedRequest) -> None:
        """Queue a request. Raises Overloaded or Draining."""
        self.batcher.submit(request)

    def drop(self, request: QueuedRequest) -> None:
        """Stop caring about a request; its `settle` will not be called."""
        self.batcher.drop(request)

    def hurry(self) -> None:
        """Let no request wait for batchmates any more; the servable is about to close."""
        self.batcher.end_windows()

    def close(self) -> None:
        """Finish what waits, end the instance threads and free the session. Not for the I/O thread."""
        self.batcher.close()
        self._instances.join()
        self._session.close()

    def _warm_up(self) -> None:
        """Run a few times before anybody waits: the first run of a graph is slow, and its outputs tell the truth."""
        try:
            self.signature = probed(self.signature, self._session.run)
        except Exception as error:  # noqa: BLE001 - zeros may be nothing that this model can take; it can still serve
            _log.info("%s/%d: no warm-up, the model does not take zeros: %s", self.name, self.version, error)
            return
        if self._session.signature.batchable and not self.signature.batchable:
            _log.warning("%s/%d: rows do not stand alone, so batching is off", self.name, self.version)

    def _serve(self) -> None:
        """Run batches until the batcher is closed and empty. The loop of one instance thread."""
        staging = Staging(self.signature)
        while (batch := self.batcher.take()) is not None:
            if batch.requests:
                self._compute(batch, staging)
            self._post(functools.partial(self._settle, batch))
            del batch  # the last reference to outputs must not wait here for the next batch

    def _compute(self, batch: Batch, staging: "Staging") -> None:
        """Execute a batch; a mistake of ours in doing so costs this batch and not the thread."""
        try:
            self._execute(batch, staging)
            self.batcher.observe(batch)
        except Exception:  # noqa: BLE001 - logged, and answered
            _log.exception("%s/%d: a batch could not be executed", self.name, self.version)
            for request in batch.requests:
                if request.outputs is None:
                    request.outputs = InternalError()

    def _execute(self, batch: Batch, staging: "Staging") -> None:
        """Fill in the outputs, or the error, of every request of the batch."""
        reruns_left = 2 * math.ceil(math.log2(len(batch.requests))) + 2
        parts = [batch.requests]
        while parts:
            part = parts.pop()
            try:
                self._run(part, batch, staging)
                continue
            except OutputsDoNotFollowRowsError:
                _log.warning("%s/%d: outputs do not follow rows; batching is off", self.name, self.version)
                self.batcher.stop_grouping()
                parts.extend([request] for request in reversed(part))
                batch.reruns += len(part)
            except Exception:  # noqa: BLE001 - whatever the graph raises, this request alone must fail
                self._log_failure(part)
                if len(part) == 1:
                    part[0].outputs = ModelFailed(f"model '{self.name}' failed to compute this request")
                    continue
                pieces = _halves(part) if reruns_left >= 2 else [[request] for request in part]
                parts += reversed(pieces)
                reruns_left -= len(pieces)
                batch.reruns += len(pieces)
        batch.scattered_ns = self._clock.now_ns()

    def _run(self, requests: Sequence[QueuedRequest], batch: Batch, staging: "Staging") -> None:
        started_ns = self._clock.now_ns()
        inputs = staging.gather(requests)
        gathered_ns = self._clock.now_ns()
        outputs = self._session.run(inputs)
        ran_ns = self._clock.now_ns()
        _scatter(requests, outputs)
        batch.input_ns += gathered_ns - started_ns
        batch.infer_ns += ran_ns - gathered_ns
        batch.output_ns += self._clock.now_ns() - ran_ns

    def _settle(self, batch: Batch) -> None:
        """Give every request of a finished batch its answer. On the I/O thread."""
        alive = [request for request in batch.requests if request.progress is not Progress.SETTLED]
        try:
            self._count(batch, [request for request in alive if isinstance(request.outputs, list)])
        except Exception:  # noqa: BLE001 - counting must not cost anybody an answer
            _log.exception("%s/%d: a batch could not be counted", self.name, self.version)
        for request in alive:
            assert request.outputs is not None, "bug: a request left its batch without outputs or an error"
            request.progress = Progress.SETTLED
            self._give(request, request.outputs)
        for request in batch.expired:
            if request.progress is not Progress.SETTLED:
                request.progress = Progress.SETTLED
                self._give(request, DeadlineExceeded("the deadline passed while the request waited for an instance"))

    def _count(self, batch: Batch, answered: Sequence[QueuedRequest]) -> None:
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
        facts = Answered([request.arrival_ns for request in answered], sum(request.rows for request in answered))
        self.statistics.batch_done(times, facts, now_ns=self._clock.now_ns(), wall_ns=self._clock.wall_ns())

    def _give(self, request: QueuedRequest, result: list[Array] | ServingError) -> None:
        """Settle one request; a mistake of ours in doing so must not cost its batchmates their answers."""
        try:
            request.settle(result)
        except Exception:  # noqa: BLE001 - logged, and answered
            _log.exception("%s/%d: a request could not be settled", self.name, self.version)

    def _log_failure(self, requests: Sequence[QueuedRequest]) -> None:
        """Log the exception at hand, at most once per second, so that a hostile client cannot fill the disk."""
        now_ns = self._clock.now_ns()
        if now_ns - self._failure_logged_ns >= _FAILURE_LOG_INTERVAL_NS:
            self._failure_logged_ns = now_ns
            _log.exception("%s/%d: a batch of %d requests failed", self.name, self.version, len(requests))


class Staging:
    """The input buffers of one instance, grown to the largest batch it has seen. Lives on the instance thread.

    Strings are gathered into a new array each time: a kept one would keep the texts of past requests alive.
    """

    def __init__(self, signature: Signature) -> None:
        self._fixed = [
            DYNAMIC not in spec.shape[1:] and spec.datatype is not Datatype.BYTES for spec in signature.inputs
        ]
        self._buffers = [np.empty((0, *spec.shape[1:]), spec.datatype.dtype) if fixed else None
                         for spec, fixed in zip(signature.inputs, self._fixed, strict=True)]  # fmt: skip

    def gather(self, requests: Sequence[QueuedRequest]) -> list[Array]:
        """Return the inputs of a batch: those of a lone request as they are, otherwise copied side by side."""
        if len(requests) == 1:
            return requests[0].inputs
        rows = sum(request.rows for request in requests)
        return [
            self._concatenate(index, rows, [request.inputs[index] for request in requests])
            for index in range(len(self._fixed))
        ]

    def _concatenate(self, index: int, rows: int, arrays: list[Array]) -> Array:
        buffer = self._buffers[index]
        if buffer is None:
            return np.concatenate(arrays)
        if len(buffer) < rows:
            capacity = 1 << (rows - 1).bit_length()
            buffer = self._buffers[index] = np.empty((capacity, *buffer.shape[1:]), buffer.dtype)
        return np.concatenate(arrays, out=buffer[:rows])


def _scatter(requests: Sequence[QueuedRequest], outputs: list[Array]) -> None:
    """Give each request its rows of the outputs, as views."""
    if len(requests) == 1:
        requests[0].outputs = outputs
        return
    rows = sum(request.rows for request in requests)
    if any(output.ndim == 0 or len(output) != rows for output in outputs):
        raise OutputsDoNotFollowRowsError
    start = 0
    for request in requests:
        stop = start + request.rows
        request.outputs = [output[start:stop] for output in outputs]
        start = stop


def _halves(requests: list[QueuedRequest]) -> list[list[QueuedRequest]]:
    middle = len(requests) // 2
    return [requests[:middle], requests[middle:]]
