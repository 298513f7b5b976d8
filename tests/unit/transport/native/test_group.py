"""`RequestGroup` against a list of requests: what it takes, sifts and settles, and what it says of itself."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.batching.entries import Progress
from serving.errors import Cancelled, DeadlineExceeded, ModelFailed
from serving.wire.layout import NO_DEADLINE
from tests.support.groups import ROW_BYTES, Asked, Intake, Ledger, numbers, requests_of

NOW = 1_000
NEVER = NO_DEADLINE


class World:
    """A clock, a ledger and an intake; `group` makes groups whose requests it knows."""

    def __init__(self):
        self.now_ns = NOW
        self.ledger = Ledger(lambda: self.now_ns)
        self.intake = Intake(self.ledger)

    def group(self, *segments):
        """Make a group of one connection's requests after the other's."""
        return self.intake.group([(f"connection {k}", requests) for k, requests in enumerate(segments)])

    def answers(self):
        """What every request got, in order."""
        return [self.ledger.answers[number] for number in range(len(self.intake.asked))]


@pytest.fixture
def world():
    return World()


def outputs_of(part):
    """The outputs of a part: its own inputs."""
    return [array.copy() for array in part.inputs]


def values(answer):
    assert len(answer) == 1
    assert isinstance(answer[0], list)
    return answer[0][0][:, 0].tolist()


# ---- what it says of itself ----------------------------------------------------------------------------------------


def test_a_group_counts_the_requests_and_rows_of_all_connections(world):
    group = world.group([Asked(2), Asked(1)], [Asked(3)])
    assert (group.requests, group.rows, group.input_bytes, group.row) == (3, 6, 6 * ROW_BYTES, 0)
    assert group.arrivals == [(0, 2), (1, 1)]
    assert group.arrival_ns == 0
    assert [(part.connection, part.first, part.last) for part in group.segments()] == [
        ("connection 0", 0, 2),
        ("connection 1", 2, 3),
    ]


def test_a_group_has_the_earliest_deadline_of_its_requests(world):
    assert world.group([Asked()]).deadline_ns is None
    assert world.group([Asked(1, NOW + 5), Asked(1, NOW + 3)], [Asked(1, NOW + 9)]).deadline_ns == NOW + 3


def test_a_second_group_lies_behind_the_first(world):
    world.group([Asked(3)])
    second = world.group([Asked(2)], [Asked(1)])
    assert second.row == 3
    np.testing.assert_array_equal(second.inputs[0][:, 0], [1, 1, 2])


def test_a_part_in_the_middle_knows_whose_requests_it_holds(world):
    group = world.group([Asked(), Asked()], [Asked()], [Asked(), Asked()])
    group.take(1, 9)
    middle = group.take(3, 9)
    assert [(part.connection, part.last - part.first) for part in middle.segments()] == [
        ("connection 0", 1),
        ("connection 1", 1),
        ("connection 2", 1),
    ]
    assert middle.arrivals == [(0, 1), (1, 1), (2, 1)]


# ---- taking --------------------------------------------------------------------------------------------------------


def test_what_fits_is_taken_from_the_front(world):
    group = world.group([Asked(2), Asked(3), Asked(1)])
    part = group.take(5, 9)
    assert (numbers(part), part.rows, part.row, part.input_bytes) == ([0, 1], 5, 0, 5 * ROW_BYTES)
    assert (numbers(group), group.rows, group.row, group.input_bytes) == ([2], 1, 5, ROW_BYTES)


def test_a_request_is_never_split(world):
    group = world.group([Asked(3), Asked(1)])
    assert group.take(2, 9) is None
    assert (group.requests, group.rows) == (2, 4)


def test_requests_are_bounded_as_well_as_rows(world):
    group = world.group([Asked(), Asked(), Asked()])
    assert numbers(group.take(9, 1)) == [0]
    assert group.take(0, 9) is None


def test_a_group_that_fits_whole_is_taken_itself(world):
    group = world.group([Asked(2)], [Asked(3)])
    assert group.take(5, 2) is group


# ---- leaving -------------------------------------------------------------------------------------------------------


def test_expired_requests_leave_from_the_middle_and_the_others_stay(world):
    late = Asked(2, NOW)
    group = world.group([Asked(1), late, late, Asked(3)], [late])
    assert group.is_stale(NOW)
    over = group.sift(NOW)
    assert [(numbers(part), part.rows, type(error)) for part, error in over] == [
        ([1, 2], 4, DeadlineExceeded),
        ([4], 2, DeadlineExceeded),
    ]
    assert (numbers(group), group.requests, group.rows, group.deadline_ns) == ([0, 3], 2, 4, None)
    assert not group.is_stale(NOW)


def test_a_reset_stream_takes_its_request_along_and_is_not_told_that_it_is_late(world):
    group = world.group([Asked(1, NOW), Asked()])
    world.ledger.kill(0)
    ((part, error),) = group.sift(NOW)
    assert (numbers(part), type(error)) == ([0], Cancelled)


def test_a_row_that_has_a_new_owner_is_a_reset_one(world):
    group = world.group([Asked(), Asked()])
    world.ledger.streams[1, 2] += 1
    world.ledger.deaths += 1
    assert [numbers(part) for part, _ in group.sift(NOW)] == [[1]]


def test_a_batch_ends_where_somebody_has_left(world):
    group = world.group([Asked(), Asked(1, NOW), Asked(), Asked()])
    group.sift(NOW)
    assert numbers(group.take(9, 9)) == [0]
    rest = group.take(9, 9)
    assert rest is group
    assert (numbers(rest), rest.row) == ([2, 3], 2)


def test_a_death_elsewhere_is_looked_at_once(world):
    group = world.group([Asked()])
    world.ledger.deaths += 1
    assert group.is_stale(NOW)
    assert group.sift(NOW) == []
    assert not group.is_stale(NOW)


def finish(world, group):
    """Settle a group that has run, as a servable does."""
    for part, result in group.finished(outputs_of(group), world.now_ns):
        part.settle(result)


# ---- settling ------------------------------------------------------------------------------------------------------


def test_every_request_gets_its_rows(world):
    group = world.group([Asked(2), Asked(1)], [Asked(3)])
    group.settle(outputs_of(group))
    assert [values(answer) for answer in world.answers()] == [[0, 0], [1], [2, 2, 2]]


def test_settling_twice_does_nothing(world):
    group = world.group([Asked()])
    group.settle(outputs_of(group))
    group.settle(ModelFailed("it failed"))
    assert [len(answer) for answer in world.answers()] == [1]


def test_what_expired_while_it_ran_gets_an_error_and_its_batchmates_their_own_rows(world):
    deadlines = [NOW + 1, NEVER, NOW + 1, NOW + 9, NOW + 1]
    group = world.group([Asked(k + 1, deadline_ns) for k, deadline_ns in enumerate(deadlines)])
    group.progress = Progress.RUNNING
    world.now_ns = NOW + 1
    finish(world, group)
    answers = world.answers()
    assert [isinstance(answers[k][0], DeadlineExceeded) for k in range(5)] == [True, False, True, False, True]
    assert (values(answers[1]), values(answers[3])) == ([1, 1], [3, 3, 3, 3])
    assert group.origin.open_requests == 0


def test_all_may_have_expired_while_they_ran(world):
    group = world.group([Asked(1, NOW + 1), Asked(2, NOW + 1)])
    world.now_ns = NOW + 1
    finish(world, group)
    assert [type(answer[0]) for answer in world.answers()] == [DeadlineExceeded] * 2


def test_what_was_cancelled_while_it_ran_is_told_apart_from_what_is_answered(world):
    group = world.group([Asked(1), Asked(2), Asked(1)])
    group.progress = Progress.RUNNING
    world.ledger.kill(1)
    finished = group.finished(outputs_of(group), NOW)
    assert {number: type(result) for part, result in finished for number in numbers(part)} == {
        0: list, 1: Cancelled, 2: list,
    }  # fmt: skip
    for part, result in finished:
        part.settle(result)
    assert [type(answer[0]) for answer in world.answers()] == [list, Cancelled, list]
    assert group.origin.open_requests == 0


def test_singles_are_its_requests_one_by_one_where_they_lie(world):
    group = world.group([Asked(2), Asked(1)], [Asked(3)])
    group.progress = Progress.RUNNING
    singles = group.singles()
    assert [(numbers(one), one.row, one.rows, one.requests) for one in singles] == [
        ([0], 0, 2, 1),
        ([1], 2, 1, 1),
        ([2], 3, 3, 1),
    ]
    assert {one.progress for one in singles} == {Progress.RUNNING}
    for one in singles:
        one.settle(outputs_of(one))
    assert [values(answer) for answer in world.answers()] == [[0, 0], [1], [2, 2, 2]]


# ---- the model -----------------------------------------------------------------------------------------------------

ASKED = st.builds(Asked, st.integers(1, 4), st.sampled_from([NEVER, NEVER, NOW, NOW + 1, NOW + 2, NOW + 3]))
SEGMENTS = st.lists(st.lists(ASKED, min_size=1, max_size=6), min_size=1, max_size=4)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("take"), st.integers(0, 12), st.sampled_from([1, 2, 99])),
        st.tuples(st.just("kill"), st.integers(0, 23), st.none()),
        st.tuples(st.just("sift"), st.none(), st.none()),
        st.tuples(st.just("wait"), st.integers(1, 2), st.none()),
    ),
    max_size=12,
)


class Listed:
    """The list of requests that a group stands for."""

    def __init__(self, asked):
        self.asked = asked
        self.waiting = list(range(len(asked)))
        self.dead = set()

    def take(self, rows_max, requests_max):
        taken, rows = [], 0
        for number in self.waiting:
            rows += self.asked[number].rows
            beside = not taken or number == taken[-1] + 1
            if rows > rows_max or len(taken) == requests_max or not beside:
                break
            taken.append(number)
        self.waiting = [number for number in self.waiting if number not in taken]
        return taken

    def sift(self, now_ns):
        over = {}
        for number in self.waiting:
            if number in self.dead:
                over[number] = Cancelled
            elif self.asked[number].deadline_ns <= now_ns:
                over[number] = DeadlineExceeded
        self.waiting = [number for number in self.waiting if number not in over]
        return over

    def check(self, group):
        rows = [self.asked[number].rows for number in self.waiting]
        assert requests_of(group) == list(zip(self.waiting, rows, strict=True))
        assert (group.requests, group.rows, group.input_bytes) == (len(rows), sum(rows), sum(rows) * ROW_BYTES)
        assert sum(count for _, count in group.arrivals) == len(rows)


@settings(max_examples=300)
@given(SEGMENTS, STEPS)
def test_a_group_is_a_list_of_requests_and_each_leaves_it_once(segments, steps):
    world = World()
    group = world.group(*segments)
    listed = Listed(world.intake.asked)
    left = []
    for step, first, second in steps:
        if step == "kill":
            number = first % len(listed.asked)
            listed.dead.add(number)
            world.ledger.kill(number)
        elif step == "wait":
            world.now_ns += first
        elif step == "sift":
            over = group.sift(world.now_ns)
            assert {number: type(error) for part, error in over for number in numbers(part)} == listed.sift(
                world.now_ns
            )
            left += [part for part, _ in over]
            assert not group.is_stale(world.now_ns)
        elif group.requests:
            part = group.take(first, second)
            assert (numbers(part) if part else []) == listed.take(first, second)
            if part is group:
                break
            left += [part] if part else []
        listed.check(group)
    settle_all(world, listed, {*left, group})
    assert (group.origin.open_requests, group.origin.lease.held) == (0, 0)


def settle_all(world, listed, parts):
    """Settle parts: one run by its outputs, several by an error; every request has then one answer, the right one."""
    parts = [part for part in parts if part.requests]
    assert sum(count for part in parts for _, count in part.arrivals) == len(listed.asked)
    for part in parts:
        if len(part._runs) == 1:
            finish(world, part)
        else:
            part.settle(ModelFailed("it failed"))
    for number, answer in enumerate(world.answers()):
        assert len(answer) == 1
        if isinstance(answer[0], list):
            assert values(answer) == [number] * listed.asked[number].rows
