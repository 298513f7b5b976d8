import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.batching.arena import KEPT_BYTES, ROWS_STEP, Arena, Staging
from serving.batching.entries import QueuedRequest
from serving.types import DYNAMIC, Datatype, Signature, TensorSpec

TWO = Signature(
    (TensorSpec("a", Datatype.FP32, (DYNAMIC, 3)), TensorSpec("b", Datatype.INT8, (DYNAMIC,))),
    (TensorSpec("y", Datatype.FP32, (DYNAMIC,)),),
    batchable=True,
)
ONE_SHAPE = Signature(
    (TensorSpec("a", Datatype.FP32, (2, 3)),), (TensorSpec("y", Datatype.FP32, (2,)),), batchable=False
)


class Placed:
    """An entry whose rows lie in an arena."""

    def __init__(self, arena, row, rows):
        self.arena, self.row, self.rows = arena, row, rows

    @property
    def inputs(self):
        return self.arena.inputs(self.row, self.row + self.rows)


def own(rows, value):
    inputs = [np.full((rows, 3), value, np.float32), np.full(rows, value, np.int8)]
    return QueuedRequest(
        inputs, rows=rows, lane=(), input_bytes=0, arrival_ns=0, deadline_ns=None, settle=lambda _: None
    )


def leased(arena, rows):
    lease = arena.lease(rows)
    assert lease is not None
    arena.end(lease, lease.begin + rows)
    return lease


def test_inputs_lie_one_behind_the_other_at_the_capacity_times_their_bytes_per_row():
    arena = Arena(TWO, 65)
    assert arena.capacity == 2 * ROWS_STEP
    a, b = arena.inputs(0, arena.capacity)
    a[:], b[:] = 1.5, 7
    assert (arena.octets[: arena.capacity * 12].view(np.float32) == 1.5).all()
    assert (arena.octets[arena.capacity * 12 :] == 7).all()


def test_a_model_that_is_not_batchable_gets_the_tensors_of_one_row():
    (a,) = Arena(ONE_SHAPE, 1).inputs(5, 6)
    assert a.shape == (2, 3)


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 40), st.integers(0, 9)), max_size=60))
def test_rows_in_use_are_never_given_out_and_all_come_back(steps):
    arena = Arena(TWO, 100)
    held = []
    for takes, rows, which in steps:
        if takes:
            lease = arena.lease(rows)
            if lease is None:
                continue
            assert arena.room(lease) - lease.begin >= rows
            arena.end(lease, lease.begin + rows)
            held.append((lease, lease.begin, rows))
        elif held:
            lease, _, its_rows = held.pop(which % len(held))
            arena.give_back(lease, its_rows)
        used = sorted((begin, begin + rows) for _, begin, rows in held)
        assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(used))
        assert all(end <= arena.capacity for _, end in used)
    for lease, _, rows in held:
        arena.give_back(lease, rows)
    assert arena.lease(arena.capacity) is not None


def test_a_lease_that_grows_is_not_given_back_before_it_ends():
    arena = Arena(TWO, 64)
    first = leased(arena, 8)
    growing = arena.lease(1)
    arena.give_back(first, 8)
    arena.end(growing, growing.begin + 4)
    assert arena.lease(64) is None


def test_rows_are_used_round_the_ring():
    arena = Arena(TWO, 64)
    first, second = leased(arena, 40), leased(arena, 20)
    assert arena.lease(8) is None  # 4 rows are left at the end, and 40 are still in use at the beginning
    arena.give_back(first, 40)
    third = arena.lease(8)
    assert (third.begin, arena.room(third)) == (0, second.begin)


def test_memory_that_a_backlog_has_used_is_given_back():
    wide = Signature((TensorSpec("a", Datatype.UINT8, (DYNAMIC, 1 << 20)),), TWO.outputs, batchable=True)
    arena = Arena(wide, 64)
    octets = arena.octets
    few = leased(arena, 1)
    arena.give_back(few, 1)
    assert arena.octets is octets
    many = leased(arena, 1 + (KEPT_BYTES >> 20))
    arena.give_back(many, 1 + (KEPT_BYTES >> 20))
    assert arena.octets is not octets


def test_entries_that_follow_each_other_run_in_place():
    arena = Arena(TWO, 64)
    inputs = Staging(TWO).gather([Placed(arena, 3, 2), Placed(arena, 5, 4)])
    assert [array.shape for array in inputs] == [(6, 3), (6,)]
    assert all(np.shares_memory(array, arena.octets) for array in inputs)


@pytest.mark.parametrize("second", [6, 1])
def test_entries_with_something_between_them_are_gathered(second):
    arena = Arena(TWO, 64)
    a, b = arena.inputs(0, 64)
    a[:], b[:] = np.arange(64)[:, None], np.arange(64)
    inputs = Staging(TWO).gather([Placed(arena, 3, 2), Placed(arena, second, 2)])
    assert not any(np.shares_memory(array, arena.octets) for array in inputs)
    assert inputs[1].tolist() == [3, 4, second, second + 1]
    assert inputs[0][:, 2].tolist() == [3, 4, second, second + 1]


def test_rows_of_an_arena_and_of_their_own_are_gathered_in_order():
    arena = Arena(TWO, 64)
    arena.inputs(0, 64)[1][:] = 9
    inputs = Staging(TWO).gather([own(1, 1), Placed(arena, 0, 2), own(3, 2)])
    assert inputs[1].tolist() == [1, 9, 9, 2, 2, 2]


def test_a_lone_request_whose_tensors_lie_unaligned_is_aligned():
    octets = np.zeros(64, np.uint8)
    crooked = np.frombuffer(octets[1:49].data, np.float32).reshape(4, 3)
    request = own(4, 1)
    request.inputs = [crooked, np.zeros(4, np.int8)]
    straight, other = Staging(TWO).gather([request])
    assert straight.flags.aligned
    assert not crooked.flags.aligned
    assert other is request.inputs[1]
