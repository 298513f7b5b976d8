import threading

import pytest

from serving.batching.batcher import RETRY_AFTER_MS_MAX, Batcher
from serving.batching.entries import Batch, Progress
from serving.config import BatchingConfig
from serving.errors import Draining, InvalidRequest, Overloaded
from tests.support.clocks import FakeClock
from tests.support.sessions import DEADLINE_S, queued


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def make(clock):
    def make(*, instances=1, batchable=True, **config):
        return Batcher(BatchingConfig(**config), clock, instances=instances, batchable=batchable)

    return make


def rows_of(batch):
    return [request.rows for request in batch.entries]


class Taking:
    """`take` on a thread of its own, for the cases in which it waits."""

    def __init__(self, batcher):
        self.batches = []
        self._thread = threading.Thread(target=lambda: self.batches.append(batcher.take()))
        self._thread.start()

    def result(self):
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive(), "take has not returned in time"
        return self.batches[0]


# ---- grouping ------------------------------------------------------------------------------------------------------


def test_what_waits_is_taken_together_in_order_of_arrival(make):
    batcher = make()
    requests = [queued(rows) for rows in (1, 3, 2)]
    for request in requests:
        batcher.submit(request)
    batch = batcher.take()
    assert batch.entries == requests
    assert batch.rows == 6
    assert {request.progress for request in requests} == {Progress.RUNNING}


def test_a_batch_is_full_when_the_next_request_does_not_fit(make):
    batcher = make(batch_rows_max=8)
    for rows in (4, 3, 2, 5):
        batcher.submit(queued(rows))
    assert [rows_of(batcher.take()) for _ in range(2)] == [[4, 3], [2, 5]]


def test_limits_count_rows_and_not_requests(make):
    batcher = make(batch_rows_max=8)
    for rows in (8, 1, 7, 1):
        batcher.submit(queued(rows))
    assert [rows_of(batcher.take()) for _ in range(3)] == [[8], [1, 7], [1]]


def test_a_model_that_is_not_batchable_gets_one_request_at_a_time(make):
    batcher = make(batchable=False, mode="window", queue_delay_us_max=1_000_000)
    for _ in range(2):
        batcher.submit(queued(1))
    assert [rows_of(batcher.take()) for _ in range(2)] == [[1], [1]]


def test_requests_of_other_shapes_wait_in_a_lane_of_their_own(make):
    batcher = make()
    short, long = ((3,),), ((5,),)
    for lane in (short, long, short, long):
        batcher.submit(queued(1, lane=lane))
    lanes = [{request.lane for request in batcher.take().entries} for _ in range(2)]
    assert lanes == [{short}, {long}]
    assert batcher.queued_rows == 0


def test_the_lane_with_the_oldest_request_is_served_first(make):
    batcher = make(batch_rows_max=1)
    old, young = queued(1, lane=((5,),)), queued(1, lane=((3,),))
    for request in (old, young, queued(1, lane=((3,),))):
        batcher.submit(request)
    assert batcher.take().entries == [old]
    assert batcher.take().entries == [young]


def test_requests_without_rows_ride_along(make):
    batcher = make(batch_rows_max=2)
    for rows in (0, 2, 0):
        batcher.submit(queued(rows))
    assert rows_of(batcher.take()) == [0, 2, 0]


def test_grouping_can_be_switched_off(make):
    batcher = make()
    for _ in range(2):
        batcher.submit(queued(3))
    batcher.stop_grouping()
    assert [rows_of(batcher.take()) for _ in range(2)] == [[3], [3]]


# ---- waiting -------------------------------------------------------------------------------------------------------


def test_take_waits_for_the_first_request(make):
    batcher = make()
    taking = Taking(batcher)
    request = queued()
    batcher.submit(request)
    assert taking.result().entries == [request]


def test_the_window_ends_when_its_time_is_over(make, clock):
    batcher = make(mode="window", queue_delay_us_max=60_000_000)
    batcher.submit(queued(arrival_ns=clock.now_ns()))
    clock.advance(60_000_000_000)
    assert rows_of(batcher.take()) == [1]


def test_the_window_ends_when_the_batch_is_full(make, clock):
    batcher = make(mode="window", queue_delay_us_max=60_000_000, batch_rows_max=3)
    batcher.submit(queued(1, arrival_ns=clock.now_ns()))
    taking = Taking(batcher)
    batcher.submit(queued(2, arrival_ns=clock.now_ns()))
    assert rows_of(taking.result()) == [1, 2]


def test_the_window_ends_when_the_batcher_closes(make, clock):
    batcher = make(mode="window", queue_delay_us_max=60_000_000)
    batcher.submit(queued(arrival_ns=clock.now_ns()))
    taking = Taking(batcher)
    batcher.close()
    assert rows_of(taking.result()) == [1]


def test_every_waiting_instance_is_woken_for_its_share(make):
    batcher = make(batch_rows_max=1, instances=2)
    taking = [Taking(batcher) for _ in range(2)]
    for _ in range(2):
        batcher.submit(queued())
    assert sorted(rows_of(one.result()) for one in taking) == [[1], [1]]


# ---- bounds --------------------------------------------------------------------------------------------------------


def test_the_queue_is_bounded_in_rows(make):
    batcher = make(queue_rows_max=4, batch_rows_max=4)
    batcher.submit(queued(3))
    with pytest.raises(Overloaded, match="holds 3 of queue_rows_max = 4 rows and this request brings 2 rows"):
        batcher.submit(queued(2))
    batcher.submit(queued(1))
    assert batcher.queued_rows == 4


def test_the_queue_is_bounded_in_bytes(make):
    batcher = make(queue_bytes_max=100)
    batcher.submit(queued(1, input_bytes=60))
    with pytest.raises(Overloaded, match=r"holds 60 of queue_bytes_max = 100 bytes.* 41 bytes"):
        batcher.submit(queued(1, input_bytes=41))
    batcher.submit(queued(1, input_bytes=40))
    assert batcher.queued_bytes == 100


def test_what_is_reserved_counts_as_if_it_waited(make):
    batcher = make(queue_rows_max=4, batch_rows_max=4, queue_bytes_max=100)
    batcher.submit(queued(1, input_bytes=20))
    batcher.reserve(queued(2, input_bytes=40))
    assert batcher.room_rows(20) == 1
    assert batcher.room_rows(41) == 0
    with pytest.raises(Overloaded, match="holds 3 of queue_rows_max = 4 rows"):
        batcher.submit(queued(2, input_bytes=1))
    with pytest.raises(Overloaded, match="holds 60 of queue_bytes_max = 100 bytes"):
        batcher.submit(queued(1, input_bytes=41))
    batcher.reserve(None)
    batcher.submit(queued(2, input_bytes=41))


def test_what_is_taken_makes_room(make):
    batcher = make(queue_rows_max=4, batch_rows_max=4)
    batcher.submit(queued(4))
    batcher.take()
    assert (batcher.queued_rows, batcher.queued_bytes) == (0, 0)
    batcher.submit(queued(4))


def observe(batcher, *, rows, ns):
    for _ in range(3):  # the first run of a size is not learnt from
        batcher.done(Batch([], rows, taken_ns=0), ns)


def test_a_refusal_estimates_when_the_queue_will_be_empty(make):
    batcher = make(queue_rows_max=10, batch_rows_max=10, instances=2)
    observe(batcher, rows=10, ns=100_000_000)  # 10 ms a row
    batcher.submit(queued(10))
    with pytest.raises(Overloaded) as caught:
        batcher.submit(queued(1))
    assert caught.value.retry_after_ms == 50


@pytest.mark.parametrize(("ns", "expected_ms"), [(0, 1), (10**15, RETRY_AFTER_MS_MAX)])
def test_the_estimate_keeps_between_its_bounds(make, ns, expected_ms):
    batcher = make(queue_rows_max=1, batch_rows_max=1)
    observe(batcher, rows=1, ns=ns)
    batcher.submit(queued(1))
    with pytest.raises(Overloaded) as caught:
        batcher.submit(queued(1))
    assert caught.value.retry_after_ms == expected_ms


# ---- leaving the queue ---------------------------------------------------------------------------------------------


def test_a_dropped_request_leaves_at_once_and_gives_its_rows_back(make):
    batcher = make()
    gone, stays = queued(2), queued(3)
    batcher.submit(gone)
    batcher.submit(stays)
    batcher.drop(gone)
    assert (batcher.queued_rows, batcher.queued_bytes) == (3, stays.input_bytes)
    assert batcher.take().entries == [stays]
    assert gone.progress is Progress.SETTLED


def test_a_request_dropped_while_it_runs_stays_in_its_batch(make):
    batcher = make()
    request = queued(2)
    batcher.submit(request)
    batch = batcher.take()
    batcher.drop(request)
    assert batch.entries == [request]
    assert request.progress is Progress.SETTLED
    assert batcher.queued_rows == 0


def test_expired_requests_are_handed_over_unrun(make, clock):
    batcher = make()
    now_ns = clock.now_ns()
    late, timely = queued(2, deadline_ns=now_ns), queued(3, deadline_ns=now_ns + 1)
    batcher.submit(timely)
    batcher.submit(late)
    batch = batcher.take()
    assert ([entry for entry, _ in batch.over], batch.entries, batch.rows) == ([late], [timely], 3)
    assert batcher.queued_rows == 0


def test_a_batch_may_hold_expired_requests_only(make, clock):
    batcher = make()
    batcher.submit(queued(deadline_ns=clock.now_ns() - 1))
    batch = batcher.take()
    assert (len(batch.over), batch.entries) == (1, [])


def test_expired_requests_take_no_place_in_a_full_batch(make, clock):
    batcher = make(batch_rows_max=2)
    for deadline_ns in (0, None, 0, None, 0):
        batcher.submit(queued(1, deadline_ns=deadline_ns))
    assert rows_of(batcher.take()) == [1, 1]
    assert batcher.queued_rows == 0


# ---- the end -------------------------------------------------------------------------------------------------------


def test_a_closed_batcher_refuses_and_finishes_what_waits(make):
    batcher = make(batch_rows_max=1)
    for _ in range(2):
        batcher.submit(queued(1))
    batcher.close()
    with pytest.raises(Draining, match="ask again"):
        batcher.submit(queued(1))
    assert [rows_of(batcher.take()) for _ in range(2)] == [[1], [1]]
    assert batcher.take() is None


def test_closing_wakes_every_instance(make):
    batcher = make(instances=3)
    taking = [Taking(batcher) for _ in range(3)]
    batcher.close()
    assert [one.result() for one in taking] == [None, None, None]


def test_a_full_lane_does_not_wait_for_the_window_of_an_older_one(make, clock):
    batcher = make(batch_rows_max=2, mode="window", queue_delay_us_max=1_000)
    older, *full = [queued(lane=lane, arrival_ns=clock.now_ns()) for lane in (((3,),), ((4,),), ((4,),))]
    for request in (older, *full):
        batcher.submit(request)
    assert batcher.take().entries == full
    assert batcher.queued_rows == 1


def test_a_lane_whose_window_is_over_goes_before_a_full_one(make, clock):
    batcher = make(batch_rows_max=2, mode="window", queue_delay_us_max=1_000)
    older, *full = [queued(lane=lane, arrival_ns=clock.now_ns()) for lane in (((3,),), ((4,),), ((4,),))]
    for request in (older, *full):
        batcher.submit(request)
    clock.advance(1_000_000)
    assert batcher.take().entries == [older]


def test_a_window_that_is_ended_lets_what_waits_go_at_once(make, clock):
    batcher = make(mode="window", queue_delay_us_max=60_000_000)
    waiting = queued(arrival_ns=clock.now_ns())
    batcher.submit(waiting)
    taking = Taking(batcher)
    batcher.hurry()
    assert taking.result().entries == [waiting]


def test_requests_of_zero_rows_are_bounded_too(make):
    batcher = make(batch_rows_max=1, queue_rows_max=3)
    for _ in range(3):
        batcher.submit(queued(0))
    with pytest.raises(Overloaded, match="queue_rows_max = 3"):
        batcher.submit(queued(0))


def test_a_window_ends_before_the_deadline_of_its_first_request(make, clock):
    batcher = make(mode="window", queue_delay_us_max=60_000_000)
    request = queued(arrival_ns=clock.now_ns(), deadline_ns=clock.now_ns() + 1_000_000_000)
    batcher.submit(request)
    clock.advance(999_000_000)
    assert batcher.take().entries == [request]


def test_a_request_that_can_never_fit_is_not_told_to_try_again(make):
    batcher = make(queue_bytes_max=100)
    with pytest.raises(InvalidRequest, match=r"101 bytes.*queue_bytes_max = 100"):
        batcher.submit(queued(input_bytes=101))
