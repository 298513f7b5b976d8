"""The spine, first half: what happens to a request until it waits in a servable's queue, and when it is settled.

    admit -> find -> validate -> submit

Everything here runs on the I/O thread.
"""

import logging
from collections.abc import Callable, Sequence

import numpy as np

from serving.admission import Admission
from serving.batching.entries import PRIORITY_USUAL, QueuedRequest
from serving.clock import Clock, TimerHandle, Timers
from serving.errors import Cancelled, DeadlineExceeded, InternalError, NotReady, ServingError
from serving.model import Servable
from serving.repository.handle import Handle
from serving.repository.manager import ModelRepository
from serving.statistics.counters import RequestCounters
from serving.statistics.tracing import PARAMETER, RequestTrace, Tracer
from serving.types import DYNAMIC, Array, InferAnswer, InferRequest, OutputTensor
from serving.validation import ValidRequest, validate

_log = logging.getLogger(__name__)

Settle = Callable[[InferAnswer | ServingError], None]
"""Takes the one and only answer to a request."""


class DataPlane:
    """Answers inference requests.

    Whoever has `admission` admit requests lets each of them leave once: by `leave_answered`, `leave_many`,
    `refuse_many` or `leave_undone`.
    """

    def __init__(
        self,
        repository: ModelRepository,
        admission: Admission,
        counters: RequestCounters,
        *,
        clock: Clock,
        timers: Timers,
        tracer: Tracer | None = None,
    ) -> None:
        self._repository = repository
        self.admission = admission
        self._counters = counters
        self._clock = clock
        self._timers = timers
        self.tracer = tracer

    def infer(
        self, request: InferRequest, *, deadline_ns: int | None, settle: Settle, route: int = 0, traceparent: str = ""
    ) -> "InFlight | None":
        """Answer a request, now or later, by exactly one call of `settle`.

        `deadline_ns` is the transport's deadline on the monotonic clock, `route` a key by which the request is routed
        in place of its id, 0 for none, `traceparent` the caller's header of this name. Returns what can be cancelled,
        or None when the request has been settled already.
        """
        arrival_ns = self._clock.now_ns()
        try:
            self.admission.admit()
        except ServingError as error:
            self._refuse(request, error, settle)
            return None
        try:
            handle = self._repository.route(request.model_name, request.model_version, route, request.id)
        except ServingError as error:
            self.admission.release()
            self._refuse(request, error, settle)
            return None
        in_flight = InFlight(self, handle, request, settle, arrival_ns)
        if self.tracer is not None:
            in_flight.trace = self.tracer.begin(traceparent or request.parameters.get(PARAMETER))
        try:
            in_flight.start(deadline_ns)
        except ServingError as error:
            in_flight.finish(error)
        except Exception:  # noqa: BLE001 - a mistake of ours must not keep the permit and the servable for ever
            _log.exception("%s/%d: a request could not be started", handle.servable.name, handle.servable.version)
            in_flight.finish(InternalError())
        return None if in_flight.done else in_flight

    def refuse(self, error: ServingError, settle: Callable[[ServingError], None]) -> None:
        """Answer and count a request that was turned away before it had a servable."""
        self._counters.count("", "", error)
        settle(error)

    def _refuse(self, request: InferRequest, error: ServingError, settle: Settle) -> None:
        known = isinstance(error, NotReady)  # otherwise the names are whatever the client wrote
        self._counters.count(request.model_name if known else "", request.model_version if known else "", error)
        settle(error)

    # ---- many requests at a time, which a transport has found and validated itself ---------------------------------

    def leave_undone(self, requests: int) -> None:
        """Let requests out that will be handed to `infer` instead."""
        self.admission.release(requests)

    def refuse_many(self, error: ServingError, requests: int, servable: Servable | None) -> None:
        """Count requests that were answered by an error before they were queued.

        Without a servable they were not admitted; with one they were, and are let out.
        """
        if servable is None:
            self._counters.count("", "", error, requests)
        else:
            now_ns = self._clock.now_ns()
            self.leave_many(servable, error, ((now_ns, requests),))

    def leave_answered(self, servable: Servable, requests: int) -> None:
        """Count answers that were outputs, and let their requests out."""
        self._counters.count(servable.name, str(servable.version), None, requests)
        self.admission.release(requests)

    def leave_many(self, servable: Servable, error: ServingError | None, arrivals: Sequence[tuple[int, int]]) -> None:
        """Count answers that were given, to requests that came at these times, so many each, and let them out."""
        requests = sum(count for _, count in arrivals)
        if error is not None:
            now_ns = self._clock.now_ns()
            for arrival_ns, count in arrivals:
                servable.statistics.failed(now_ns - arrival_ns, count)
        self._counters.count(servable.name, str(servable.version), error, requests)
        self.admission.release(requests)

    # ---- what a request in flight needs of its data plane ----------------------------------------------------------

    def set_timer(self, when_ns: int, callback: Callable[[], None]) -> TimerHandle:
        """Call back at a point in time."""
        return self._timers.call_at_ns(when_ns, callback)

    def leave(self, servable: Servable, result: InferAnswer | ServingError, arrival_ns: int) -> None:
        """Count the answer and let the request out."""
        error = result if isinstance(result, ServingError) else None
        if error is not None:
            servable.statistics.failed(self._clock.now_ns() - arrival_ns)
        self._counters.count(servable.name, str(servable.version), error)
        self.admission.release()

    def end_trace(self, servable: Servable, trace: RequestTrace, result: InferAnswer | ServingError) -> None:
        """Hand a traced request on; a mistake of ours in this must not cost the answer."""
        assert self.tracer is not None, "bug: a request is traced without a tracer"
        try:
            error = result if isinstance(result, ServingError) else None
            self.tracer.end(servable.name, str(servable.version), trace, error)
        except Exception:  # noqa: BLE001 - logged
            _log.exception("a request could not be traced")

    def count_empty(self, servable: Servable, arrival_ns: int) -> None:
        """Count a request of zero rows, which no batch will."""
        servable.statistics.empty_done(self._clock.now_ns() - arrival_ns)

    def has_passed(self, deadline_ns: int) -> bool:
        """Say whether a deadline is over."""
        return deadline_ns <= self._clock.now_ns()


class InFlight:
    """An admitted request: holds its permit, its servable and its timer until it is settled."""

    __slots__ = (
        "_arrival_ns",
        "_handle",
        "_outputs",
        "_plane",
        "_queued",
        "_raw",
        "_request",
        "_settle",
        "_timer",
        "done",
        "trace",
    )

    def __init__(
        self, plane: DataPlane, handle: Handle, request: InferRequest, settle: Settle, arrival_ns: int
    ) -> None:
        self._plane = plane
        self._handle = handle
        self._request = request
        self._settle = settle
        self._arrival_ns = arrival_ns
        self._queued: QueuedRequest | None = None
        self._timer: TimerHandle | None = None
        self._outputs: tuple[int, ...] = ()
        self._raw = True
        self.done = False
        self.trace: RequestTrace | None = None

    def start(self, deadline_ns: int | None) -> None:
        """Validate and submit. Raises the ServingError that the request ends with."""
        servable = self._handle.servable
        valid = validate(self._request, servable.signature, rows_max=servable.batch_rows_max)
        self._outputs, self._raw = valid.outputs, valid.raw
        deadline_ns = _earlier(deadline_ns, valid.timeout_us, self._arrival_ns)
        if deadline_ns is not None and self._plane.has_passed(deadline_ns):
            raise DeadlineExceeded("the deadline had passed when the request arrived")
        if valid.rows == 0 and (outputs := _empty_outputs(servable)) is not None:
            self._plane.count_empty(servable, self._arrival_ns)
            self.finish(self._answer(outputs))
            return
        self._submit(servable, valid, deadline_ns)

    def cancel(self) -> None:
        """The client went away. Harmless after the end."""
        self._abandon(Cancelled("the client cancelled the request"))

    def finish(self, result: InferAnswer | ServingError) -> None:
        """Settle, and give everything back."""
        assert not self.done, "bug: a request was settled twice"
        self.done = True
        if self._timer is not None:
            self._timer.cancel()
        try:
            self._plane.leave(self._handle.servable, result, self._arrival_ns)
            if self.trace is not None:
                self._plane.end_trace(self._handle.servable, self.trace, result)
            self._handle.release()
        finally:
            self._settle(result)

    def _submit(self, servable: Servable, valid: ValidRequest, deadline_ns: int | None) -> None:
        queued = QueuedRequest(
            valid.inputs,
            rows=valid.rows,
            lane=valid.lane,
            input_bytes=max(self._request.wire_bytes, sum(array.nbytes for array in valid.inputs)),
            arrival_ns=self._arrival_ns,
            deadline_ns=deadline_ns,
            settle=self._computed,
            priority=valid.priority or PRIORITY_USUAL,
        )
        if self.trace is not None and self._plane.tracer is not None:
            self._plane.tracer.follow(self.trace, queued)
        servable.submit(queued)
        self._queued = queued
        if deadline_ns is not None:
            self._timer = self._plane.set_timer(deadline_ns, self._expire)

    def _computed(self, result: list[Array] | ServingError) -> None:
        try:
            answer = result if isinstance(result, ServingError) else self._answer(result)
        except Exception:  # noqa: BLE001 - a mistake of ours must not keep the permit and the servable for ever
            _log.exception("an answer could not be made")
            answer = InternalError()
        self._remember(result)
        self.finish(answer)

    def _remember(self, result: list[Array] | ServingError) -> None:
        """Keep what a request with an id and one row was answered, for the label that may come."""
        feedback, queued = self._handle.servable.feedback, self._queued
        if isinstance(result, ServingError) or not (self._request.id and feedback.is_on):
            return
        try:
            if queued is not None and queued.rows == 1:
                feedback.note(self._request.id, result, 0)
        except Exception:  # noqa: BLE001 - a mistake of ours in this must not cost the answer
            _log.exception("a request could not be remembered for its label")

    def _expire(self) -> None:
        self._abandon(DeadlineExceeded("the deadline passed before the model had answered"))

    def _abandon(self, error: ServingError) -> None:
        if self.done:
            return
        assert self._queued is not None, "bug: a request is neither settled nor queued"
        self._handle.servable.drop(self._queued)
        self.finish(error)

    def _answer(self, outputs: list[Array]) -> InferAnswer:
        servable = self._handle.servable
        specs = servable.signature.outputs
        return InferAnswer(
            servable.name,
            servable.version,
            self._request.id,
            tuple(OutputTensor(specs[i].name, specs[i].datatype, outputs[i]) for i in self._outputs),
            self._raw,
        )


def _earlier(deadline_ns: int | None, timeout_us: int, arrival_ns: int) -> int | None:
    """Return the earlier of the transport's deadline and the `timeout` parameter, 0 meaning none."""
    if not timeout_us:
        return deadline_ns
    end_ns = arrival_ns + timeout_us * 1_000
    return end_ns if deadline_ns is None else min(deadline_ns, end_ns)


def _empty_outputs(servable: Servable) -> list[Array] | None:
    """Return outputs of zero rows, or None when only the model knows their other dimensions."""
    specs = servable.signature.outputs
    if not servable.signature.batchable or any(DYNAMIC in spec.shape[1:] for spec in specs):
        return None
    return [np.empty((0, *spec.shape[1:]), spec.datatype.dtype) for spec in specs]
