"""Whatever happens around the policy, what it decides keeps the invariants of a batcher."""

import math

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from serving.batching.policy import NEVER, Bounds, Reason
from serving.batching.service_time import ServiceTimes, ladder
from tests.support.policy_queue import Asked, PolicyQueue

MS = 1_000_000
ROWS_MAX, QUEUE_ROWS_MAX = 16, 64
SHAPES = {
    "affine": lambda rows: MS * (1 + rows // 4),
    "linear": lambda rows: MS * rows,
    "flat": lambda rows: 3 * MS,
}


class Promises(RuleBasedStateMachine):
    """Requests come, go, and are answered; instances finish and fail; time passes; the servable drains."""

    @initialize(
        instances=st.integers(1, 3),
        shape=st.sampled_from(sorted(SHAPES)),
        seeded=st.booleans(),
        allowed=st.sampled_from([(), (ROWS_MAX,), (1, ROWS_MAX), (3, 8, ROWS_MAX)]),
    )
    def begin(self, instances, shape, seeded, allowed):
        times = ServiceTimes(allowed or ladder(ROWS_MAX), stepped=bool(allowed))
        for rows in times.curve.sizes if seeded else ():
            times.observe(rows, SHAPES[shape](rows), 1_000_000_000)
        bounds = Bounds(ROWS_MAX, QUEUE_ROWS_MAX, instances, 10_000.0)
        self.queue = PolicyQueue(bounds, times)
        self.service_ns = lambda rows: SHAPES[shape](min((size for size in allowed if size >= rows), default=rows))
        self.asked, self.cancelled = [], []
        self.look_ns = NEVER
        self.seen = 0

    @rule(
        rows=st.integers(1, 6),
        priority=st.integers(0, 1),
        slack_ms=st.one_of(st.none(), st.integers(1, 60)),
        hard=st.booleans(),
    )
    def submit(self, rows, priority, slack_ms, hard):
        now_ns = self.queue.now_ns
        due_ns = NEVER if slack_ms is None else float(now_ns + slack_ms * MS)
        asked = Asked(rows, priority, due_ns, hard, now_ns)
        self.asked.append(asked)
        self.queue.submit(asked)
        self.act()

    @rule(passed_us=st.integers(1, 20_000))
    def advance(self, passed_us):
        until_ns = self.queue.now_ns + passed_us * 1_000
        while self.look_ns <= until_ns:
            self.queue.now_ns = max(self.queue.now_ns + 1, math.ceil(self.look_ns))
            self.act()
        self.queue.now_ns = max(self.queue.now_ns, until_ns)
        self.act()

    @precondition(lambda self: self.queue.running)
    @rule(which=st.integers(0, 2), answer=st.sampled_from(["answered", "failed"]), slowly=st.integers(1, 3))
    def finish(self, which, answer, slowly):
        batch = self.queue.running[which % len(self.queue.running)]
        self.queue.now_ns = max(self.queue.now_ns, int(batch.taken_ns) + slowly * self.service_ns(batch.rows))
        self.queue.finish(batch, answer)
        self.act()

    @precondition(lambda self: any(not asked.answers for asked in self.asked))
    @rule(which=st.integers(0, 100))
    def cancel(self, which):
        open_ones = [asked for asked in self.asked if not asked.answers]
        asked = open_ones[which % len(open_ones)]
        self.cancelled.append((asked, any(asked in batch.requests for batch in self.queue.running)))
        self.queue.cancel(asked)
        self.act()

    @rule()
    def drain(self):
        self.queue.draining = True
        self.act()

    def act(self):
        before = {id(asked): asked for asked in self.queue.waiting}
        running = list(self.queue.running)
        self.look_ns = self.queue.run()
        self.check_drops(before.values())
        self.check_batches([batch for batch in self.queue.running if batch not in running])
        self.check_waits()

    def check_drops(self, candidates):
        """Only who has a deadline is dropped, and only when a batch from now on would be too late for it."""
        longest_ns = self.queue.times.mean_ns(ROWS_MAX) + self.queue.bounds.overhead_ns
        free_ns = self.queue.now_ns if self.queue.idle else max(self.queue.free_ns, self.queue.now_ns)
        for asked in candidates:
            if asked.answers == ["late"]:
                assert asked.hard
                assert asked.due_ns < free_ns + longest_ns

    def check_batches(self, batches):
        for batch in batches:
            assert batch.rows <= max(ROWS_MAX, batch.requests[0].rows)
            assert all(not asked.answers for asked in batch.requests), "nobody who has an answer is run"

    def check_waits(self):
        for snapshot, decision in self.queue.decisions:
            if decision.reason is not Reason.WAITING:
                continue
            assert not self.queue.draining
            assert snapshot.used >= 0.25, "nothing waits on a server that is hardly used"
            assert snapshot.now_ns < decision.at_ns <= snapshot.since_ns + self.queue.times.mean_ns(1) * (1 + 1e-9)
            assert decision.at_ns < snapshot.head_due_ns
        self.queue.decisions.clear()

    @invariant()
    def nobody_gets_two_answers(self):
        for asked in getattr(self, "asked", ()):
            assert len(asked.answers) <= 1

    @invariant()
    def nobody_is_lost(self):
        if not hasattr(self, "queue"):
            return
        places = [*self.queue.waiting, *self.queue.aside]
        for batch in self.queue.running:
            places += batch.requests
        for asked in self.asked:
            assert asked.answers or places.count(asked) == 1

    @invariant()
    def the_queue_is_bounded(self):
        if hasattr(self, "queue"):
            assert sum(asked.rows for asked in (*self.queue.waiting, *self.queue.aside)) <= QUEUE_ROWS_MAX

    @invariant()
    def an_idle_instance_leaves_nobody_without_a_moment(self):
        if hasattr(self, "queue") and self.queue.idle and self.queue.waiting:
            assert self.look_ns < NEVER

    @invariant()
    def cancelled_requests_are_not_run(self):
        for asked, was_running in getattr(self, "cancelled", ()):
            is_running = any(asked in batch.requests for batch in self.queue.running)
            assert was_running or not is_running

    def teardown(self):
        if not hasattr(self, "queue"):
            return
        self.queue.draining = True
        self.act()
        while self.queue.running:
            batch = self.queue.running[0]
            self.queue.now_ns += self.service_ns(batch.rows)
            self.queue.finish(batch, "answered")
            self.act()
        assert all(len(asked.answers) == 1 for asked in self.asked), "a drain answers everybody"


Promises.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestPromises = Promises.TestCase
