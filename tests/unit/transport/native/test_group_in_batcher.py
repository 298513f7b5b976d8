"""Groups of compiled requests in a servable's queue, beside requests that came alone."""

import pytest

from serving.batching.batcher import Batcher
from serving.config import BatchingConfig
from serving.errors import Cancelled, DeadlineExceeded
from tests.support.clocks import FakeClock
from tests.support.groups import ROW_BYTES, Asked, Intake, Ledger, numbers
from tests.support.sessions import queued


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def ledger(clock):
    return Ledger(clock.now_ns)


@pytest.fixture
def group(ledger):
    """Makes groups of one connection's requests."""
    intake = Intake(ledger)
    return lambda *requests: intake.group([("connection", requests)])


def batcher(clock, **config):
    return Batcher(BatchingConfig(**config), clock, instances=1, batchable=True)


def taken(batch):
    """The numbers of the requests in each entry of a batch."""
    return [numbers(entry) for entry in batch.entries]


def is_empty(batcher):
    return (batcher.queued_rows, batcher.queued_bytes, len(batcher._queue), batcher._queue.lanes) == (0, 0, 0, {})


def test_a_group_is_split_where_the_batch_ends(clock, group):
    queue = batcher(clock, batch_rows_max=4)
    queue.submit(group(*[Asked(1)] * 6))
    assert taken(queue.take()) == [[0, 1, 2, 3]]
    assert (queue.queued_rows, queue.queued_bytes) == (2, 2 * ROW_BYTES)
    assert taken(queue.take()) == [[4, 5]]
    assert is_empty(queue)


def test_groups_and_lone_requests_share_a_batch_in_order_of_arrival(clock, group):
    queue = batcher(clock)
    first, alone, second = group(Asked(), Asked()), queued(3), group(Asked(2))
    for entry in (first, alone, second):
        queue.submit(entry)
    batch = queue.take()
    assert batch.entries == [first, alone, second]
    assert (batch.rows, batch.requests) == (7, 4)
    assert is_empty(queue)


def test_runs_that_do_not_lie_side_by_side_share_a_batch(clock, group):
    queue, late = batcher(clock), Asked(1, clock.now_ns())
    queue.submit(group(Asked(), late, Asked(), late, Asked()))
    batch = queue.take()
    assert taken(batch) == [[0], [2], [4]]
    assert [numbers(part) for part, _ in batch.over] == [[1], [3]]
    assert is_empty(queue)


def test_a_group_of_which_all_are_over_in_several_parts_leaves_the_queue_once(clock, group, ledger):
    queue = batcher(clock)
    queue.submit(group(Asked(), Asked(1, clock.now_ns()), Asked()))
    ledger.kill(0)
    ledger.kill(2)
    batch = queue.take()
    assert [(numbers(part), type(error)) for part, error in batch.over] == [
        ([0], Cancelled),
        ([2], Cancelled),
        ([1], DeadlineExceeded),
    ]
    assert batch.entries == []
    assert is_empty(queue)


def test_runs_that_expire_together_leave_the_queue_once(clock, group):
    queue, now_ns = batcher(clock), clock.now_ns()
    waiting = group(Asked(1, now_ns + 1), Asked(1, now_ns), Asked(1, now_ns + 1))
    queue.submit(waiting)
    assert [numbers(part) for part, _ in queue.sift(waiting)] == [[1]]
    clock.advance(1)
    assert [numbers(part) for part, _ in queue.sift(waiting)] == [[0], [2]]
    assert is_empty(queue)


def test_one_request_at_a_time_is_taken_when_grouping_is_off(clock, group):
    queue = batcher(clock)
    queue.submit(group(Asked(2), Asked(3)))
    queue.stop_grouping()
    assert [taken(queue.take()) for _ in range(2)] == [[[0]], [[1]]]
    assert is_empty(queue)


def test_a_request_that_is_larger_than_what_may_run_now_waits_for_an_instance(clock, group):
    queue = batcher(clock)
    queue.submit(group(Asked(5), Asked(1)))
    assert taken(queue.take_now(2)) == []
    assert taken(queue.take()) == [[0, 1]]
    assert queue.take_now(2) is None
