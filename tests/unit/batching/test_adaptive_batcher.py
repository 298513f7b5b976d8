"""What the batcher does in mode `adaptive` with what it has learnt, on a clock that moves when the test says so."""

import contextlib

import pytest

from serving.batching.batcher import ASIDE_TARGETS, Batcher
from serving.batching.entries import Batch
from serving.batching.outlook import PROBE_NS, PROBE_NS_MAX
from serving.batching.policy import NEVER, Reason
from serving.config import BatchingConfig
from serving.errors import DeadlineOutOfReach, Overloaded
from tests.support.clocks import FakeClock
from tests.support.groups import Asked, Intake, Ledger, numbers
from tests.support.sessions import queued

MS = 1_000_000
ROWS_MAX = 16


def affine(rows):
    """A model for which batches pay: 4 ms, and 0.1 ms per row."""
    return 4 * MS + rows * MS // 10


def linear(rows):
    """A model for which they do not."""
    return rows * MS


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def make(clock):
    def make(service_ns=affine, *, target_ms=None, instances=1, **config):
        config = BatchingConfig(**({"batch_rows_max": ROWS_MAX} | config))
        target_ns = NEVER if target_ms is None else float(target_ms * MS)
        batcher = Batcher(config, clock, instances=instances, batchable=True, target_ns=target_ns)
        batcher.seed([(rows, float(service_ns(rows))) for rows in (1, 2, 4, 8, 16)])
        return batcher

    return make


def ask(batcher, clock, rows=1, *, slack_ms=None, priority=100, lane=((4,),)):
    entry = queued(rows, arrival_ns=clock.now_ns(), lane=lane)
    entry.priority = priority
    if slack_ms is not None:
        entry.deadline_ns = clock.now_ns() + int(slack_ms * MS)
    over = batcher.submit(entry)
    return entry, over


def finish(batcher, clock, batch, service_ns=affine):
    clock.advance(service_ns(batch.rows))
    batcher.done(batch, service_ns(batch.rows))


# ---- sizes ---------------------------------------------------------------------------------------------------------


def test_all_that_waits_runs_together_where_batches_pay(make, clock):
    batcher = make()
    for _ in range(12):
        ask(batcher, clock)
    batch = batcher.take()
    assert (batch.rows, batch.reason) == (12, Reason.IDLE)


def test_rows_run_alone_where_batches_do_not_pay(make, clock):
    batcher = make(linear)
    for _ in range(12):
        ask(batcher, clock)
    batch = batcher.take()
    assert (batch.rows, batch.reason) == (1, Reason.EFFICIENCY)


@pytest.mark.parametrize("samples", [[], [(1, 400.0 * MS)], [(1, 400.0 * MS), (2, 400.0 * MS)]])
def test_sizes_that_no_sweep_has_reached_are_tried_while_they_pay(clock, samples):
    batcher = Batcher(BatchingConfig(batch_rows_max=ROWS_MAX), clock, instances=1, batchable=True)
    batcher.seed(samples)
    for _ in range(3):  # lone requests
        ask(batcher, clock)
        finish(batcher, clock, batcher.take(), lambda _: 400 * MS)
    for _ in range(20):
        while batcher.queued_rows < 64:
            ask(batcher, clock)
        batch = batcher.take()
        finish(batcher, clock, batch, lambda _: 400 * MS)
    assert batch.rows == ROWS_MAX


def test_sizes_that_no_sweep_has_reached_are_left_alone_where_batches_do_not_pay(clock):
    batcher = Batcher(BatchingConfig(batch_rows_max=ROWS_MAX), clock, instances=1, batchable=True)
    batcher.seed([(1, 400.0 * MS)])
    taken = []
    for _ in range(20):
        while batcher.queued_rows < 64:
            ask(batcher, clock)
        taken.append(batcher.take())
        finish(batcher, clock, taken[-1], lambda rows: rows * 400 * MS)
    assert [batch.rows for batch in taken] == [2, 2, *[1] * 18]


def test_a_size_that_was_believed_too_slow_is_found_out_while_many_rows_wait(clock):
    batcher = Batcher(BatchingConfig(batch_rows_max=ROWS_MAX), clock, instances=1, batchable=True)
    batcher.seed([*((rows, float(affine(rows))) for rows in (1, 2, 4, 8)), (16, 3.0 * affine(16))])
    taken = []
    for _ in range(3_000):
        while batcher.queued_rows < ROWS_MAX:
            ask(batcher, clock)
        taken.append(batcher.take())
        finish(batcher, clock, taken[-1])
    assert [batch.rows for batch in taken[:20]] == [8] * 20
    assert [batch.rows for batch in taken[-20:]] == [ROWS_MAX] * 20


def test_a_size_that_is_slow_is_tried_seldom(clock):
    batcher = Batcher(BatchingConfig(batch_rows_max=ROWS_MAX), clock, instances=1, batchable=True)

    def cliff(rows):
        return affine(rows) * (8 if rows > 8 else 1)

    batcher.seed([(rows, float(cliff(rows))) for rows in (1, 2, 4, 8, 16)])
    taken = []
    for _ in range(2_000):
        while batcher.queued_rows < ROWS_MAX:
            ask(batcher, clock)
        taken.append(batcher.take())
        finish(batcher, clock, taken[-1], cliff)
    tried_ns = sum(cliff(batch.rows) for batch in taken if batch.rows > 8)
    assert 0 < tried_ns < 0.02 * sum(cliff(batch.rows) for batch in taken)


def test_rows_that_would_be_late_in_a_size_that_is_in_doubt_do_not_run_in_it(clock):
    config = BatchingConfig(batch_rows_max=ROWS_MAX)
    batcher = Batcher(config, clock, instances=1, batchable=True, target_ns=40.0 * MS)
    batcher.seed([*((rows, float(affine(rows))) for rows in (1, 2, 4, 8)), (16, 8.0 * affine(16))])
    for _ in range(500):
        clock.advance(5 * MS)
        with contextlib.suppress(Overloaded):
            while batcher.queued_rows < ROWS_MAX:
                ask(batcher, clock)
        batch = batcher.take()
        assert batch.rows < ROWS_MAX
        finish(batcher, clock, batch)


def test_sizes_for_which_a_sweep_found_no_memory_are_not_tried(clock):
    batcher = Batcher(BatchingConfig(batch_rows_max=ROWS_MAX), clock, instances=1, batchable=True)
    batcher.seed([(1, 1.0 * MS), (2, 1.0 * MS)])
    for _ in range(16):
        ask(batcher, clock)
    assert batcher.take().rows == 2


def test_a_size_is_not_tried_for_which_the_first_row_leaves_no_time(clock):
    batcher = Batcher(BatchingConfig(batch_rows_max=ROWS_MAX), clock, instances=1, batchable=True)
    batcher.seed([(1, 400.0 * MS)])
    ask(batcher, clock, slack_ms=500)
    for _ in range(15):
        ask(batcher, clock)
    assert batcher.take().rows == 1


def padded(clock, service_ns):
    """A batcher of a model that runs some sizes only, which take so long."""
    config = BatchingConfig(batch_rows_allowed=tuple(service_ns))
    batcher = Batcher(config, clock, instances=1, batchable=True)
    batcher.seed([(rows, float(duration_ns)) for rows, duration_ns in service_ns.items()])
    return batcher


@pytest.mark.parametrize(
    ("waiting", "taken", "reason"),
    [(3, 3, Reason.IDLE), (5, 4, Reason.EFFICIENCY), (12, 12, Reason.IDLE), (20, 16, Reason.FULL)],
)
def test_a_batch_is_padded_where_that_costs_less_than_a_smaller_one(clock, waiting, taken, reason):
    batcher = padded(clock, {4: 4 * MS, 16: 9 * MS})
    for _ in range(waiting):
        ask(batcher, clock)
    batch = batcher.take()
    assert (batch.rows, batch.reason) == (taken, reason)


def test_every_number_of_rows_has_a_decision_of_its_own_where_batches_are_padded(clock):
    batcher = padded(clock, {32: 32 * MS, 64: 64 * MS})
    for waiting in (32, 39):
        for _ in range(waiting - batcher.queued_rows):
            ask(batcher, clock)
        batch = batcher.take()
        assert batch.rows == 32
        finish(batcher, clock, batch, lambda _: 32 * MS)


def test_a_batch_that_was_padded_teaches_the_size_that_ran(clock):
    batcher = padded(clock, {4: 4 * MS, 16: 9 * MS})
    for _ in range(100):
        for _ in range(12 - batcher.queued_rows):
            ask(batcher, clock)
        finish(batcher, clock, batcher.take(), lambda rows: 20 * MS if rows > 4 else 4 * MS)
    assert batcher.outlook.times.mean_ns(5) == batcher.outlook.times.mean_ns(16) > 15 * MS


def test_a_request_larger_than_the_batch_that_pays_is_padded_and_not_split(clock):
    batcher = padded(clock, {4: 4 * MS, 16: 90 * MS})
    ask(batcher, clock, 5)
    assert batcher.take().rows == 5


def test_a_deadline_is_out_of_reach_when_not_even_the_smallest_batch_makes_it(clock):
    batcher = padded(clock, {4: 4 * MS, 16: 9 * MS})
    ask(batcher, clock)
    finish(batcher, clock, batcher.take(), lambda _: 4 * MS)
    ask(batcher, clock, slack_ms=3)
    batch = batcher.take()
    assert not batch.entries
    assert isinstance(batch.over[0][1], DeadlineOutOfReach)


def test_the_first_deadline_chooses_the_size_also_where_the_smallest_batch_has_many_rows(clock):
    batcher = padded(clock, {8: 8 * MS, 16: 9 * MS})
    ask(batcher, clock, slack_ms=8.5)
    for _ in range(8):
        ask(batcher, clock)
    batch = batcher.take()
    assert (batch.rows, batch.reason) == (8, Reason.DEADLINE)


def test_a_full_batch_is_called_so(make, clock):
    batcher = make()
    for _ in range(20):
        ask(batcher, clock)
    batch = batcher.take()
    assert (batch.rows, batch.reason) == (ROWS_MAX, Reason.FULL)
    assert batcher.releases[Reason.FULL] == 1


def test_a_request_of_more_rows_than_the_chosen_batch_is_not_split(make, clock):
    batcher = make(linear)
    ask(batcher, clock, 5)
    assert batcher.take().rows == 5


def test_what_takes_longer_than_before_is_learnt(make, clock):
    batcher = make(linear)
    for _ in range(400):
        ask(batcher, clock)
        finish(batcher, clock, batcher.take(), affine)
        for _ in range(8):
            ask(batcher, clock)
        batch = batcher.take()
        finish(batcher, clock, batch, affine)
        while not batcher.is_empty:
            finish(batcher, clock, batcher.take(), affine)
    for _ in range(8):
        ask(batcher, clock)
    assert batcher.take().rows > 1


def test_a_lone_request_on_an_idle_server_never_waits(make, clock):
    batcher = make(target_ms=100)
    for _ in range(200):
        ask(batcher, clock)
        batch = batcher.take()  # it would wait for ever on this clock
        assert batch.taken_ns == clock.now_ns()
        finish(batcher, clock, batch)
        clock.advance(20 * MS)
    assert batcher.waits == 0


# ---- order ---------------------------------------------------------------------------------------------------------


def test_lower_priorities_go_first_and_deadlines_within_them(make, clock):
    batcher = make(linear, batch_rows_max=1)
    plain, _ = ask(batcher, clock)
    later, _ = ask(batcher, clock, slack_ms=900)
    sooner, _ = ask(batcher, clock, slack_ms=500)
    urgent, _ = ask(batcher, clock, priority=1)
    assert [batcher.take().entries for _ in range(4)] == [[urgent], [sooner], [later], [plain]]


def test_of_a_group_that_does_not_fit_whole_the_most_urgent_requests_run_first(make, clock):
    batcher = make(batch_rows_max=2)
    ledger, now_ns = Ledger(clock.now_ns), clock.now_ns()
    slacks_ms = (900, 100, 800, 200)
    group = Intake(ledger).group([("c", [Asked(1, now_ns + slack_ms * MS) for slack_ms in slacks_ms])], now_ns)
    batcher.submit(group)
    batches = [[number for part in batcher.take().entries for number in numbers(part)] for _ in range(2)]
    assert batches == [[1, 3], [2, 0]]
    assert batcher.is_empty


def test_a_lone_group_is_split_where_batches_do_not_pay(make, clock):
    batcher = make(linear)
    batcher.set_inline(True)
    asked = [Asked(1) for _ in range(12)]
    batcher.submit(Intake(Ledger(clock.now_ns)).group([("c", asked)], clock.now_ns()))
    batch = batcher.take_now(ROWS_MAX)
    assert (batch.rows, batch.reason, batcher.queued_rows) == (1, Reason.EFFICIENCY, 11)


# ---- the door ------------------------------------------------------------------------------------------------------


def test_who_would_be_late_for_the_target_is_refused_with_a_time_to_come_back(make, clock):
    batcher = make(linear, target_ms=20)
    ask(batcher, clock)
    running = batcher.take()
    for _ in range(17):  # one runs, and the last one in is done after 20 ms, if all take a little longer than usual
        ask(batcher, clock)
    with pytest.raises(Overloaded) as caught:
        ask(batcher, clock)
    assert (caught.value.reason, caught.value.retry_after_ms) == ("objective", 1)
    finish(batcher, clock, running, linear)
    clock.advance(MS)
    ask(batcher, clock)


def test_room_is_left_for_as_many_rows_as_can_be_answered_in_time(make, clock):
    batcher = make(linear, target_ms=20)
    assert batcher.room_rows(4) == 4096
    batcher.reserve(queued(1, input_bytes=4))
    assert batcher.room_rows(4) == 17
    assert batcher.refusal(1, 4).reason == "objective"


def test_an_idle_server_lets_in_also_who_will_be_late_for_the_target(make, clock):
    batcher = make(target_ms=1)
    entry, over = ask(batcher, clock)
    assert over == []
    assert batcher.take().entries == [entry]


def test_requests_of_a_group_that_leave_too_little_time_are_refused_alone(make, clock):
    batcher = make(linear)
    for _ in range(10):
        ask(batcher, clock)
    now_ns = clock.now_ns()
    slacks_ms = (5, 50, 6)
    group = Intake(Ledger(clock.now_ns)).group([("c", [Asked(1, now_ns + s * MS) for s in slacks_ms])], now_ns)
    over = batcher.submit(group)
    assert [numbers(part) for part, _ in over] == [[0], [2]]
    assert {error.reason for _, error in over} == {"objective"}
    assert batcher.queued_rows == 11


@pytest.mark.parametrize("mode", ["window", "none"])
def test_deadlines_are_kept_at_the_door_in_every_mode(make, clock, mode):
    batcher = make(linear, mode=mode)
    for _ in range(10):
        ask(batcher, clock)
    with pytest.raises(Overloaded, match="cannot be worked off in the 5 ms"):
        ask(batcher, clock, slack_ms=5)


# ---- early drop ----------------------------------------------------------------------------------------------------


def test_who_cannot_make_the_deadline_even_alone_is_told_so_before_it_has_passed(make, clock):
    batcher = make()
    finish(batcher, clock, Batch([], 1, clock.now_ns()))
    _, over = ask(batcher, clock, slack_ms=8)
    assert over == []
    clock.advance(5 * MS)
    batch = batcher.take() if not batcher.is_empty else None
    assert batch is not None
    assert batch.entries == []
    ((_, error),) = batch.over
    assert isinstance(error, DeadlineOutOfReach)


def test_short_rows_are_let_in_and_run_however_long_rows_of_other_lanes_take(make, clock):
    batcher = make(linear, target_ms=None)

    def run(length, service_ns, *, slack_ms=None):
        entry, _ = ask(batcher, clock, slack_ms=slack_ms, lane=((length,),))
        batch = batcher.take()
        clock.advance(service_ns)
        batcher.done(batch, service_ns)
        return entry in batch.entries

    run(4, MS)
    for _ in range(50):
        clock.advance(20 * MS)  # so that each is learnt from
        run(4096, 400 * MS)
    assert batcher.outlook.times.mean_ns(1) > 100 * MS
    assert [run(4, MS, slack_ms=50) for _ in range(10)] == [True] * 10
    assert run(7, MS, slack_ms=50), "who knows how long these take?"
    assert not run(4096, MS, slack_ms=50)


def test_short_rows_are_let_in_behind_others_that_are_short(make, clock):
    batcher = make(linear)
    for length, service_ns in ((4, MS), *[(4096, 400 * MS)] * 50):
        clock.advance(20 * MS)
        ask(batcher, clock, lane=((length,),))
        batch = batcher.take()
        clock.advance(service_ns)
        batcher.done(batch, service_ns)
    ask(batcher, clock, lane=((4,),))
    batcher.take()
    _, over = ask(batcher, clock, slack_ms=500, lane=((4,),))
    assert over == []


def test_an_estimate_that_keeps_everybody_out_is_put_to_the_test(make, clock):
    batcher = make()
    finish(batcher, clock, Batch([], 1, clock.now_ns()))
    clock.advance(PROBE_NS + 1)
    entry, _ = ask(batcher, clock, slack_ms=1)
    assert batcher.take().entries == [entry]


def test_an_estimate_of_an_hour_does_not_keep_everybody_out_for_hours(make, clock):
    batcher = make(lambda _: 3_600_000 * MS)
    finish(batcher, clock, Batch([], 1, clock.now_ns()), lambda _: MS)
    clock.advance(PROBE_NS_MAX + 1)
    entry, _ = ask(batcher, clock, slack_ms=1)
    assert batcher.take().entries == [entry]


def test_who_is_late_for_a_target_is_set_aside_and_answered(make, clock):
    batcher = make(target_ms=20)
    late, _ = ask(batcher, clock)
    clock.advance(18 * MS)
    timely, _ = ask(batcher, clock)
    first = batcher.take()
    assert first.over == []
    assert timely in first.entries
    entries = list(first.entries)
    if late not in entries:
        finish(batcher, clock, first)
        entries += batcher.take().entries
    assert late in entries


def test_who_was_set_aside_waits_for_a_bounded_time_however_busy_it_is(make, clock):
    batcher = make(linear, target_ms=20)
    late, _ = ask(batcher, clock)
    clock.advance(20 * MS)
    began_ns = clock.now_ns()
    for _ in range(100):
        for _ in range(3):
            if batcher.room_rows(4) > 0:
                ask(batcher, clock)
        batch = batcher.take()
        if late in batch.entries:
            break
        finish(batcher, clock, batch, linear)
    assert late in batch.entries
    assert batch.taken_ns - began_ns <= (ASIDE_TARGETS - 1) * 20 * MS + 4 * MS


# ---- modes ---------------------------------------------------------------------------------------------------------


def test_in_mode_none_every_request_runs_alone(make, clock):
    batcher = make(mode="none")
    for rows in (1, 3, 2):
        ask(batcher, clock, rows)
    assert [batcher.take().rows for _ in range(3)] == [1, 3, 2]
    assert batcher.chosen_rows() == 1


def test_in_mode_window_a_preferred_batch_does_not_wait(make, clock):
    batcher = make(mode="window", queue_delay_us_max=60_000_000, batch_rows_preferred=(2, 4))
    for _ in range(5):
        ask(batcher, clock)
    batch = batcher.take()
    assert (batch.rows, batch.reason) == (4, Reason.FULL)
    assert batcher.decision().reason is Reason.WAITING


def test_when_it_drains_what_waits_is_taken_and_called_so(make, clock):
    batcher = make()
    ask(batcher, clock)
    batcher.close()
    assert batcher.take().reason is Reason.DRAIN


def test_a_batch_that_ends_where_other_shapes_begin_is_called_so(make, clock):
    batcher = make()
    for lane in (((3,),), ((5,),)):
        batcher.submit(queued(lane=lane, arrival_ns=clock.now_ns()))
    assert [batcher.take().reason for _ in range(2)] == [Reason.SHAPE, Reason.IDLE]
