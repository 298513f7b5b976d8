"""The batcher under more load than its instance carries, in virtual time: a model that takes what the test says."""

import numpy as np
import pytest

from serving.batching.batcher import ASIDE_TARGETS, Batcher
from serving.batching.entries import Batch
from serving.config import BatchingConfig
from serving.errors import Overloaded
from tests.support.clocks import FakeClock
from tests.support.sessions import queued

MS = 1_000_000
ROWS_MAX = 64
REQUESTS = 6_000


def service_ns(rows):
    return 4 * MS + rows * MS // 5


def heavy_ns(rows):
    """A model whose best batch takes nearly as long as five lone requests."""
    return 20 * MS + rows * 4 * MS // 5


CAPACITY_PER_NS = ROWS_MAX / service_ns(ROWS_MAX)


class World:
    """One instance, and requests of one row that come at random."""

    def __init__(self, *, load, target_ms, slower=1.0, noise=0.0, model_ns=service_ns, capacity=CAPACITY_PER_NS):
        self.model_ns, self.capacity = model_ns, capacity
        self.clock, self.random = FakeClock(), np.random.default_rng(3)
        self.batcher = Batcher(
            BatchingConfig(batch_rows_max=ROWS_MAX), self.clock,
            instances=1, batchable=True, target_ns=float(target_ms * MS),
        )  # fmt: skip
        self.batcher.seed([(rows, float(model_ns(rows))) for rows in (1, 2, 4, 8, 16, 32, 64)])
        self.slower, self.noise = slower, noise
        gaps = self.random.exponential(1 / (load * capacity / slower), REQUESTS)
        self.arrivals = (self.clock.now_ns() + np.cumsum(gaps)).astype(np.int64).tolist()
        self.latencies_ms, self.refusals, self.longest_queue = [], [], 0

    def run(self):
        pending, batch, done_ns, look_ns = self.arrivals[::-1], None, None, None
        while pending or batch or not self.batcher.is_empty:
            moments = [moment for moment in (pending[-1] if pending else None, done_ns, look_ns) if moment is not None]
            self.clock.time_ns = max(self.clock.time_ns, int(min(moments)))
            now_ns = self.clock.time_ns
            if done_ns is not None and done_ns <= now_ns:
                self._finish(batch)
                batch = done_ns = None
            while pending and pending[-1] <= now_ns:
                self._ask(pending.pop())
            look_ns = None
            if batch is None and not self.batcher.is_empty:
                batch = Batch([], 0, now_ns)
                at_ns = self.batcher._next(batch, ROWS_MAX, is_inline=False)
                if batch.entries:
                    self.batcher.outlook.note_begun(batch, now_ns)
                    factor = self.slower * float(np.exp(self.random.normal(0, self.noise)))
                    done_ns = now_ns + int(self.model_ns(batch.rows) * factor)
                else:
                    batch, look_ns = None, max(at_ns, now_ns + 1)

    def _ask(self, arrival_ns):
        """Come as over the wire: who finds no room is refused before anything is queued."""
        try:
            if not self.batcher.room_rows(4):
                raise self.batcher.refusal(1, 4)
            self.batcher.submit(queued(1, arrival_ns=arrival_ns))
        except Overloaded as error:
            self.refusals.append(error)
        self.longest_queue = max(self.longest_queue, self.batcher.queued_rows)

    def _finish(self, batch):
        now_ns = self.clock.time_ns
        late = 0
        for entry in batch.entries:
            self.latencies_ms.append((now_ns - entry.arrival_ns) / MS)
            late += now_ns - entry.arrival_ns > self.batcher._queue.target_ns
        self.batcher.done(batch, now_ns - batch.taken_ns)
        self.batcher.answered(batch.rows, late)

    def goodput(self, target_ms):
        """Answers in time over what the instance could have answered at its best."""
        seconds_ns = self.clock.now_ns() - self.arrivals[0]
        in_time = sum(latency <= target_ms for latency in self.latencies_ms)
        return in_time / (seconds_ns * self.capacity / self.slower)


@pytest.mark.parametrize("target_ms", [60, 200])
def test_at_twice_the_capacity_what_is_answered_is_in_time_and_the_rest_is_refused_at_once(target_ms):
    world = World(load=2.0, target_ms=target_ms)
    world.run()
    assert world.goodput(target_ms) >= 0.95
    assert np.quantile(world.latencies_ms, 0.99) <= target_ms
    assert {error.reason for error in world.refusals} == {"objective"}
    assert all(error.retry_after_ms >= 1 for error in world.refusals)
    assert len(world.latencies_ms) + len(world.refusals) == REQUESTS
    assert world.longest_queue <= target_ms * MS * CAPACITY_PER_NS


@pytest.mark.parametrize(("target_ms", "least"), [(60, 0.82), (200, 0.85)])  # the best batch takes 34 ms of 60
def test_a_model_that_has_become_slower_than_it_was_at_load_is_found_out(target_ms, least):
    world = World(load=2.0, target_ms=target_ms, slower=2.0)
    world.run()
    assert world.goodput(target_ms) >= least
    assert np.quantile(world.latencies_ms, 0.9) <= target_ms


def test_who_is_let_in_is_answered_within_a_bounded_time_also_when_batches_take_what_they_like():
    world = World(load=2.0, target_ms=60, noise=0.3)
    world.run()
    assert len(world.latencies_ms) + len(world.refusals) == REQUESTS
    longest_ms = service_ns(ROWS_MAX) / MS * 3  # of three standard deviations
    assert max(world.latencies_ms) <= ASIDE_TARGETS * 60 + 2 * longest_ms


def test_at_a_third_of_the_capacity_everybody_is_let_in_and_in_time():
    world = World(load=0.33, target_ms=60)
    world.run()
    assert not world.refusals
    assert max(world.latencies_ms) <= 60


@pytest.mark.parametrize("noise", [0.0, 0.05])
@pytest.mark.parametrize("load", [2.0, 4.0])
def test_a_target_that_leaves_no_time_for_the_best_batch_is_met_with_smaller_ones(load, noise):
    rows = 40  # two such batches take 104 ms
    world = World(load=load, target_ms=104, noise=noise, model_ns=heavy_ns, capacity=rows / heavy_ns(rows))
    world.run()
    assert world.goodput(104) >= 0.85
    assert np.quantile(world.latencies_ms, 0.97) <= 104


def test_few_are_refused_at_a_third_of_the_capacity_though_two_runs_take_all_of_the_target():
    world = World(load=0.3, target_ms=46, model_ns=heavy_ns, capacity=1 / heavy_ns(1))
    world.run()
    assert len(world.refusals) <= 0.02 * REQUESTS
    assert np.quantile(world.latencies_ms, 0.99) <= 46
