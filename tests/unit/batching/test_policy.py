import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.batching.policy import (
    NEVER,
    Bounds,
    Decision,
    Newcomer,
    Reason,
    Snapshot,
    Window,
    decide,
    decide_in_window,
    rank,
    retry_after_ns,
    riders,
    run_ns,
    take_at_ns,
)
from serving.batching.service_time import ServiceTimes, ladder

TIMES = st.integers(0, 2**62)


@given(st.integers(0, 64), TIMES, st.integers(1, 64), st.integers(0, 60_000_000_000))
def test_a_batch_never_waits_longer_than_the_window_after_its_first_row(rows, arrival_ns, rows_max, delay_ns):
    due_ns = take_at_ns(Window(rows_max, delay_ns), rows=rows, head_arrival_ns=arrival_ns)
    assert arrival_ns <= due_ns <= arrival_ns + delay_ns


@given(st.integers(0, 64), TIMES, st.integers(1, 64))
def test_without_a_window_nothing_waits(rows, arrival_ns, rows_max):
    assert take_at_ns(Window(rows_max, 0), rows=rows, head_arrival_ns=arrival_ns) == arrival_ns


def test_a_full_batch_goes_at_once_and_one_row_less_waits():
    window = Window(batch_rows_max=8, queue_delay_ns_max=500)
    assert take_at_ns(window, rows=8, head_arrival_ns=100) == 100
    assert take_at_ns(window, rows=7, head_arrival_ns=100) == 600


SIZES = ladder(64)
MS = 1e6


def curve_of(duration_ns, sizes=SIZES):
    times = ServiceTimes(sizes)
    for rows in sizes:
        times.observe(rows, duration_ns(rows), 0)
    return times.curve


AFFINE = curve_of(lambda rows: 1 * MS + 0.1 * MS * rows)
LINEAR = curve_of(lambda rows: 1 * MS * rows)
FLAT = curve_of(lambda rows: 5 * MS)
BOUNDS = Bounds(batch_rows_max=64, queue_rows_max=1000, instances=1, overhead_ns=0.0, fixed=False)
CALM = Snapshot(
    now_ns=1e9, rows=1, due_ns=[NEVER] * len(SIZES), last_due_ns=NEVER, idle=1, free_ns=NEVER, since_ns=1e9,
    rows_per_ns=0.0, came_ns=1e9, slack_ns=NEVER, used=0.0, missed=0.0, draining=False,
)  # fmt: skip


def waiting(slacks_ns, **rest):
    """A snapshot of a queue whose rows have so much time left, in its order."""
    due_ns = [CALM.now_ns + slack_ns for slack_ns in slacks_ns]
    on_ladder = [due_ns[rows - 1] if rows <= len(due_ns) else NEVER for rows in SIZES]
    return CALM._replace(rows=len(due_ns), due_ns=on_ladder, last_due_ns=due_ns[-1], **rest)


def test_nothing_is_taken_when_nothing_waits_or_nobody_is_idle():
    assert decide(BOUNDS, AFFINE, CALM._replace(rows=0)).reason is Reason.EMPTY
    assert decide(BOUNDS, AFFINE, CALM._replace(idle=0)).reason is Reason.GROWING


def test_a_lone_request_on_an_idle_server_never_waits():
    for curve in (AFFINE, LINEAR, FLAT):
        decision = decide(BOUNDS, curve, CALM._replace(rows_per_ns=1.0, slack_ns=3 * MS, missed=1.0))
        assert (decision.rows, decision.reason) == (1, Reason.IDLE)


def test_without_an_objective_a_busy_server_takes_all_that_waits_and_a_calm_one_may_split_it():
    assert decide(BOUNDS, AFFINE, CALM._replace(rows=40, used=0.9)).rows == 40
    assert decide(BOUNDS, AFFINE, CALM._replace(rows=40, used=0.1)).rows == 32, "8 rows later is sooner on average"
    assert decide(BOUNDS, AFFINE, CALM._replace(rows=500)) == Decision(64, 1e9, 0.0, Reason.FULL)


def test_a_model_for_which_batching_does_not_pay_runs_row_by_row():
    decision = decide(BOUNDS, LINEAR, CALM._replace(rows=40))
    assert (decision.rows, decision.reason) == (1, Reason.EFFICIENCY)


def test_what_is_spent_outside_of_runs_makes_larger_batches_pay():
    """Of 1 ms per row and 1 ms per batch, 40 rows in one batch cost 41 ms, and one by one 80."""
    decision = decide(BOUNDS._replace(overhead_ns=MS), LINEAR, CALM._replace(rows=40, used=1.0))
    assert decision.rows == 40


def test_a_batch_is_no_larger_than_the_first_row_has_time_for():
    decision = decide(BOUNDS, AFFINE, waiting([1.9 * MS] * 20))
    assert (decision.rows, decision.reason) == (8, Reason.DEADLINE)


def test_rows_that_would_make_a_much_better_batch_late_are_let_go():
    snapshot = waiting([1.2 * MS] * 2 + [30 * MS] * 60)
    decision = decide(BOUNDS, AFFINE, snapshot)
    assert decision.rows == 0
    assert decision.late_before_ns > snapshot.due_ns[0]
    assert decision.late_before_ns <= snapshot.now_ns + 30 * MS


def test_it_waits_when_rows_come_fast_and_time_is_short():
    busy = waiting([20 * MS], rows_per_ns=10 / MS, came_ns=1e9, slack_ns=8 * MS, used=0.9)
    decision = decide(BOUNDS, FLAT, busy)
    assert decision.reason is Reason.WAITING
    assert busy.now_ns < decision.at_ns <= busy.since_ns + 5 * MS


@pytest.mark.parametrize(
    "calm",
    [{"used": 0.2}, {"rows_per_ns": 0.1 / MS}, {"slack_ns": 1e9, "missed": 0.0}, {"draining": True}],
    ids=["hardly used", "slow arrivals", "time for all", "draining"],
)
def test_it_does_not_wait_without_need(calm):
    busy = waiting([20 * MS], rows_per_ns=10 / MS, slack_ns=8 * MS, used=0.9)._replace(**calm)
    assert decide(BOUNDS, FLAT, busy).rows == 1


def test_it_does_not_wait_for_what_saves_nothing():
    busy = waiting([20 * MS], rows_per_ns=10 / MS, slack_ns=1.5 * MS, used=1.0, missed=0.5)
    assert decide(BOUNDS, LINEAR, busy).rows == 1


def test_an_engine_of_fixed_sizes_pads_up_or_batches_down_by_cost():
    fixed = curve_of(lambda rows: {8: 8 * MS, 16: 9 * MS, 64: 60 * MS}[rows], sizes=(8, 16, 64))
    bounds = BOUNDS._replace(fixed=True)
    snapshot = CALM._replace(due_ns=[NEVER] * 3)
    assert run_ns(bounds, fixed, 9) == run_ns(bounds, fixed, 16) == pytest.approx(9 * MS, rel=0.05)
    assert decide(bounds, fixed, snapshot._replace(rows=12)).rows == 12, "padded to 16"
    assert decide(bounds, fixed, snapshot._replace(rows=17)).rows == 16, "47 rows of padding cost too much"


def test_a_newcomer_is_refused_when_the_backlog_leaves_it_no_time():
    newcomer = Newcomer(rows=1, due_ns=1e9 + 10 * MS, queued_rows=32, free_ns=1e9)
    assert retry_after_ns(BOUNDS, AFFINE, newcomer) == 0
    assert retry_after_ns(BOUNDS, LINEAR, newcomer) == pytest.approx(23 * MS)
    assert retry_after_ns(BOUNDS, LINEAR, newcomer._replace(due_ns=NEVER)) == 0


def test_a_full_queue_refuses_and_says_when_there_will_be_room():
    newcomer = Newcomer(rows=8, due_ns=NEVER, queued_rows=1000, free_ns=1e9)
    assert retry_after_ns(BOUNDS, LINEAR, newcomer) == pytest.approx(8 * MS)
    assert retry_after_ns(BOUNDS, ServiceTimes(SIZES).curve, newcomer) > 0


def test_late_rows_ride_along_only_where_that_is_cheap_and_makes_nobody_late():
    flat, dear = waiting([20 * MS] * 4), waiting([200 * MS] * 4)
    decision = Decision(4, 1e9, 0.0, Reason.IDLE)
    assert riders(BOUNDS, FLAT, flat, decision, 100) == 60
    assert riders(BOUNDS, LINEAR, dear, decision, 100) == 0
    assert riders(BOUNDS, FLAT, waiting([4 * MS] * 4), decision, 100) == 0


def test_the_queue_goes_by_priority_then_by_what_is_due_then_by_arrival():
    urgent, due, early, late = rank(0, NEVER, 9), rank(1, 5.0, 8), rank(1, NEVER, 1), rank(1, NEVER, 2)
    assert sorted([late, early, due, urgent]) == [urgent, due, early, late]


def test_a_window_takes_the_largest_preferred_batch_at_once():
    window = Window(64, 5_000_000, (8, 16))
    assert decide_in_window(window, CALM._replace(rows=20), 1_000_000_000).rows == 16
    assert decide_in_window(window, CALM._replace(rows=70), 1_000_000_000).rows == 64
    assert decide_in_window(window, CALM._replace(rows=7), 1_000_000_000).at_ns == 1e9 + 5 * MS
    assert decide_in_window(window, CALM._replace(rows=7, draining=True), 1_000_000_000).rows == 7
    assert decide_in_window(Window(1, 0), CALM._replace(rows=7), 1_000_000_000).rows == 1


@given(
    st.integers(1, 200),
    st.lists(st.floats(0.0, 100 * MS), min_size=8, max_size=8),
    st.sampled_from([AFFINE, LINEAR, FLAT]),
    st.floats(0.0, 1.0),
    st.integers(1, 3),
)
def test_every_decision_is_one_that_can_be_acted_on(rows, slacks_ns, curve, busy, idle):
    times_ns = sorted(slacks_ns)
    snapshot = waiting(
        [times_ns[row * 8 // rows] for row in range(rows)],
        rows_per_ns=busy / MS, slack_ns=times_ns[-1], used=busy, missed=busy, idle=idle, free_ns=1e9 + 3 * MS,
    )  # fmt: skip
    decision = decide(BOUNDS, curve, snapshot)
    if decision.rows:
        assert decision.rows <= min(rows, BOUNDS.batch_rows_max)
    elif decision.late_before_ns:
        assert decision.reason is Reason.LATE
        assert snapshot.due_ns[0] < decision.late_before_ns, "something goes, so asking again ends"
    else:
        assert decision.reason is Reason.WAITING
        assert snapshot.now_ns < decision.at_ns <= snapshot.since_ns + curve.fitted_ns[0]
        assert decision.at_ns + run_ns(BOUNDS, curve, rows) <= snapshot.due_ns[0] * (1 + 1e-12)


def test_however_fast_rows_come_the_first_one_waits_no_longer_than_a_run_of_its_own():
    busy = waiting([50 * MS] * 2, rows_per_ns=10 / MS, slack_ns=8 * MS, used=0.9)
    assert decide(BOUNDS, FLAT, busy._replace(since_ns=busy.now_ns - 4.9 * MS)).at_ns <= busy.now_ns + 0.1 * MS * 1.001
    assert decide(BOUNDS, FLAT, busy._replace(since_ns=busy.now_ns - 5.1 * MS)).rows == 2
