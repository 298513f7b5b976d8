"""A queue around the pure policy, as a batcher would keep it, in virtual time and in plain lists."""

from bisect import insort
from dataclasses import dataclass, field

from serving.batching.demand import (
    CAME,
    MISSED,
    NUMBERS,
    note_arrival,
    note_batch,
    note_settled,
    rows_per_ns,
    utilisation,
)
from serving.batching.policy import (
    NEVER,
    Bounds,
    Newcomer,
    Snapshot,
    decide,
    hopeless_before_ns,
    rank,
    retry_after_ns,
    riders,
)


@dataclass(eq=False)
class Asked:
    """A request: `hard` says that it is due at a deadline, otherwise at a target."""

    rows: int
    priority: int
    due_ns: float
    hard: bool
    arrival_ns: int
    answers: list[str] = field(default_factory=list)

    @property
    def key(self):
        return rank(self.priority, self.due_ns, self.arrival_ns)


@dataclass(eq=False)
class Running:
    """A batch on an instance."""

    requests: list[Asked]
    rows: int
    taken_ns: float
    expected_ns: float


class PolicyQueue:
    """Does what decisions say, and asserts nothing. `answers` of a request tell what became of it."""

    def __init__(self, bounds: Bounds, times) -> None:
        self.bounds = bounds
        self.times = times
        self.now_ns = 1_000_000_000
        self.waiting: list[Asked] = []
        self.aside: list[Asked] = []
        self.running: list[Running] = []
        self.demand = [0.0] * NUMBERS
        self.idle_since_ns = float(self.now_ns)
        self.draining = False
        self.decisions = []

    @property
    def idle(self) -> int:
        return self.bounds.instances - len(self.running)

    @property
    def free_ns(self) -> float:
        others = (max(self.now_ns, batch.expected_ns) for batch in self.running)
        return min(others, default=NEVER)

    def submit(self, asked: Asked) -> None:
        queued_rows = sum(one.rows for one in (*self.waiting, *self.aside))
        free_ns = self.now_ns if self.idle else self.free_ns
        newcomer = Newcomer(asked.rows, asked.due_ns, queued_rows, free_ns)
        if self.draining:
            asked.answers.append("draining")
        elif retry_after_ns(self.bounds, self.times.curve, newcomer) > 0:
            asked.answers.append("refused")
            note_settled(self.demand, asked.rows, asked.rows)
        else:
            note_arrival(self.demand, asked.rows, self.now_ns)
            insort(self.waiting, asked, key=lambda one: one.key)

    def cancel(self, asked: Asked) -> None:
        for queue in (self.waiting, self.aside):
            if asked in queue:
                queue.remove(asked)
        asked.answers.append("cancelled")

    def finish(self, batch: Running, answer: str) -> None:
        self.running.remove(batch)
        self.idle_since_ns = float(self.now_ns)
        self.times.observe(batch.rows, self.now_ns - batch.taken_ns, self.now_ns)
        note_batch(self.demand, self.now_ns - batch.taken_ns, self.now_ns)
        for asked in batch.requests:
            if not asked.answers:
                asked.answers.append(answer)

    def snapshot(self) -> Snapshot:
        due_ns, rows = [], 0
        curve = self.times.curve
        for asked in self.waiting:
            rows += asked.rows
            while len(due_ns) < len(curve.sizes) and curve.sizes[len(due_ns)] <= rows:
                due_ns.append(asked.due_ns)
        due_ns += [NEVER] * (len(curve.sizes) - len(due_ns))
        head_ns = self.waiting[0].arrival_ns if self.waiting else 0
        return Snapshot(
            now_ns=float(self.now_ns), rows=rows, due_ns=due_ns,
            head_due_ns=self.waiting[0].due_ns if self.waiting else NEVER,
            last_due_ns=self.waiting[-1].due_ns if self.waiting else NEVER,
            idle=self.idle, free_ns=self.free_ns, since_ns=max(float(head_ns), self.idle_since_ns),
            rows_per_ns=rows_per_ns(self.demand, self.now_ns), came_ns=self.demand[CAME], slack_ns=NEVER,
            used=utilisation(self.demand, self.bounds.instances, self.now_ns), missed=self.demand[MISSED],
            draining=self.draining,
        )  # fmt: skip

    def run(self) -> float:
        """Act until there is nothing to do; return when to look again."""
        curve = self.times.curve
        free_ns = self.now_ns if self.idle else self.free_ns
        self.let_go(hopeless_before_ns(self.bounds, curve, free_ns))
        while self.idle and (self.waiting or self.aside):
            if not self.waiting:
                self.waiting, self.aside = self.aside, []
                for asked in self.waiting:
                    asked.due_ns = NEVER
            snapshot = self.snapshot()
            decision = decide(self.bounds, curve, snapshot)
            self.decisions.append((snapshot, decision))
            if decision.late_before_ns:
                self.let_go(decision.late_before_ns)
            elif not decision.rows:
                return decision.at_ns
            else:
                more_rows = riders(self.bounds, curve, snapshot, decision, sum(one.rows for one in self.aside))
                self.take(decision.rows, more_rows)
        return NEVER

    def let_go(self, before_ns: float) -> None:
        for asked in [one for one in self.waiting if one.due_ns < before_ns]:
            self.waiting.remove(asked)
            if asked.hard:
                asked.answers.append("late")
                note_settled(self.demand, asked.rows, asked.rows)
            else:
                self.aside.append(asked)

    def take(self, rows: int, more_rows: int) -> None:
        taken = _fitting(self.waiting, rows, at_least=1)
        taken += _fitting(self.aside, more_rows, at_least=0)
        total = sum(asked.rows for asked in taken)
        self.running.append(Running(taken, total, self.now_ns, self.now_ns + self.times.mean_ns(total)))


def _fitting(queue: list[Asked], rows: int, *, at_least: int) -> list[Asked]:
    """Take requests from the front of a queue as far as they fit."""
    taken: list[Asked] = []
    while queue and (len(taken) < at_least or sum(one.rows for one in taken) + queue[0].rows <= rows):
        taken.append(queue.pop(0))
    return taken
