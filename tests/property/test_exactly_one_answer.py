"""Every request is answered exactly once, whatever happens in whatever order; and the queue's bounds hold throughout.

The machine plays the I/O thread with a real data plane, a real batcher and real timers on a fake clock; in place of
instance threads it takes batches itself and finishes or fails them whenever it likes.
"""

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from serving.admission import Admission
from serving.batching.batcher import Batcher
from serving.batching.entries import Progress
from serving.batching.loads import Loads
from serving.batching.pace import Pace
from serving.batching.policy import NEVER
from serving.config import BatchingConfig, DriftConfig
from serving.dataplane import DataPlane
from serving.errors import Cancelled, DeadlineExceeded, ModelFailed, Overloaded
from serving.model import Servable
from serving.repository.handle import Handle
from serving.statistics.counters import RequestCounters
from serving.statistics.feedback import Feedback
from serving.statistics.latency import ServableStatistics
from serving.types import InferAnswer, InferRequest, InputTensor
from tests.support.clocks import FakeClock
from tests.support.sessions import AFFINE

CONFIG = BatchingConfig(batch_rows_max=8, queue_rows_max=20, queue_bytes_max=20 * 16)
PADDED = BatchingConfig(batch_rows_allowed=(3, 8), queue_rows_max=20, queue_bytes_max=20 * 16)
IN_FLIGHT_MAX = 12


class ThreadlessServable(Servable):
    """A servable without instances: the machine takes and settles batches in their place."""

    def __init__(self, clock, target_ns, config):
        self.name, self.version, self.signature, self.statistics = "m", 1, AFFINE, ServableStatistics()
        self.batch_rows_max = config.batch_rows_max
        self.batcher = Batcher(config, clock, instances=1, batchable=True, target_ns=target_ns)
        self._clock, self._inline, self._pace = clock, None, Pace()
        self._loads, self._target_ns = Loads(), target_ns
        self.feedback = Feedback("m", 1, AFFINE, DriftConfig(), clock=clock)


class Machine(RuleBasedStateMachine):
    """Submit, cancel, let time pass, take, finish, fail, close, in any order."""

    target_ns = NEVER
    config = CONFIG

    def __init__(self):
        super().__init__()
        self.clock, self.admission = FakeClock(), Admission(IN_FLIGHT_MAX)
        self.servable = ThreadlessServable(self.clock, self.target_ns, self.config)
        self.handle, self.idle = Handle(self.servable), []
        self.plane = DataPlane(self, self.admission, RequestCounters(), clock=self.clock, timers=self.clock)
        self.requests, self.running, self.closed = [], [], False

    def route(self, name, version, key, request_id):
        """As `ModelRepository.find`."""
        assert self.handle.acquire(), "a retired servable was asked"
        return self.handle

    @precondition(lambda self: not self.closed)
    @rule(rows=st.integers(0, 9), deadline_us=st.none() | st.integers(0, 50), priority=st.integers(0, 3))
    def submit(self, rows, deadline_us, priority=0):
        x = np.full((rows, 4), len(self.requests), np.float32)
        tensor = InputTensor("x", "FP32", x.shape, raw=x.tobytes())
        request, answers = InferRequest("m", "", str(len(self.requests)), (tensor,), raw_count=1,
                                        parameters={"priority": priority}), []  # fmt: skip
        deadline_ns = None if deadline_us is None else self.clock.now_ns() + deadline_us * 1_000
        in_flight = self.plane.infer(request, deadline_ns=deadline_ns, settle=answers.append)
        assert (in_flight is None) == bool(answers)
        self.requests.append((x, answers, in_flight))

    @precondition(lambda self: any(in_flight for _, _, in_flight in self.requests))
    @rule(data=st.data())
    def cancel(self, data):
        alive = [(answers, in_flight) for _, answers, in_flight in self.requests if in_flight]
        answers, in_flight = data.draw(st.sampled_from(alive))
        was_over = bool(answers)
        in_flight.cancel()
        assert len(answers) == 1
        assert was_over or isinstance(answers[0], Cancelled)

    @rule(duration_us=st.integers(1, 30))
    def let_time_pass(self, duration_us):
        self.clock.advance(duration_us * 1_000)

    @precondition(lambda self: self.servable.batcher.queued_rows)
    @rule()
    def take(self):
        batch = self.servable.batcher.take()
        assert batch.rows == sum(request.rows for request in batch.entries) <= CONFIG.batch_rows_max
        assert all(request.progress is Progress.RUNNING for request in batch.entries)
        self.running.append(batch)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), fails=st.booleans())
    def finish(self, data, fails):
        batch = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        for request in batch.entries:
            request.outputs = ModelFailed("it failed") if fails else [2 * request.inputs[0] + 1]
        self.servable._end(batch, self.clock.now_ns() - batch.taken_ns)
        self.servable._settle(batch)

    @precondition(lambda self: not self.closed)
    @rule()
    def close(self):
        self.closed = True
        self.handle.retire(lambda: self.idle.append(1))

    @invariant()
    def no_request_is_answered_twice_and_those_in_flight_are_the_unanswered(self):
        assert all(len(answers) <= 1 for _, answers, _ in self.requests)
        unanswered = sum(not answers for _, answers, _ in self.requests)
        assert self.admission.in_flight == unanswered <= IN_FLIGHT_MAX
        assert self.idle == ([1] if self.closed and not unanswered else [])

    @invariant()
    def the_queue_keeps_its_bounds(self):
        batcher = self.servable.batcher
        assert 0 <= batcher.queued_rows <= CONFIG.queue_rows_max
        assert batcher.queued_bytes == 16 * batcher.queued_rows

    @invariant()
    def answers_are_right(self):
        for x, answers, _ in self.requests:
            if answers and isinstance(answers[0], InferAnswer):
                np.testing.assert_array_equal(answers[0].outputs[0].array, 2 * x + 1)

    def teardown(self):
        while self.servable.batcher.queued_rows:
            self.take()
        while self.running:
            batch = self.running.pop()
            for request in batch.entries:
                request.outputs = [2 * request.inputs[0] + 1]
            self.servable._settle(batch)
        assert all(len(answers) == 1 for _, answers, _ in self.requests)
        assert self.admission.in_flight == 0
        assert (self.servable.batcher.queued_rows, self.servable.batcher.queued_bytes) == (0, 0)
        self.answers_are_right()


Machine.TestCase.settings = settings(max_examples=150, stateful_step_count=40)
test_every_request_is_answered_exactly_once = Machine.TestCase


class MachineWithTarget(Machine):
    """The same for a servable that has learnt what batches take, and has an objective: who is late is set aside."""

    target_ns = 30_000.0

    def __init__(self):
        super().__init__()
        sizes = self.servable.batcher.outlook.times.curve.sizes
        self.servable.batcher.seed([(rows, 4_000.0 + 1_000.0 * rows) for rows in sizes])


MachineWithTarget.TestCase.settings = settings(max_examples=150, stateful_step_count=40)
test_with_an_objective_as_well = MachineWithTarget.TestCase


class MachineOfSizes(MachineWithTarget):
    """The same for a servable whose batches are padded to some sizes."""

    config = PADDED


MachineOfSizes.TestCase.settings = settings(max_examples=100, stateful_step_count=40)
test_where_batches_are_padded_as_well = MachineOfSizes.TestCase


def test_the_machine_reaches_every_kind_of_answer():
    machine = Machine()
    for rows, deadline_us in [(3, 5), (1, None), (8, None), (8, None), (8, None), (1, None), (9, None), (0, None)]:
        machine.submit(rows, deadline_us)
    machine.clock.advance(5_000)
    machine.requests[1][2].cancel()
    machine.take()
    batch = machine.running.pop()
    for request in batch.entries:
        request.outputs = ModelFailed("it failed")
    machine.servable._settle(batch)
    machine.teardown()
    kinds = [type(answers[0]) for _, answers, _ in machine.requests]
    assert kinds[:3] == [DeadlineExceeded, Cancelled, ModelFailed]
    assert kinds[4] is Overloaded
    assert kinds[7] is InferAnswer
