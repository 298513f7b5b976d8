import pytest

from serving.batching.exploration import PAUSE_NS, PAUSE_RUNS, Exploration
from serving.batching.service_time import ServiceTimes, ladder

SIZES = ladder(64)
MS = 1_000_000


def explored(*sizes, ns_per_row=MS // 10):
    """What has heard of some sizes at moment 0, and the curve of what they take."""
    times, exploration = ServiceTimes(SIZES), Exploration(len(SIZES))
    for rows in sizes:
        times.observe(rows, rows * ns_per_row, 0)
        exploration.note(times.curve, rows, 0)
    return exploration, times.curve


def test_nothing_is_tried_while_no_more_rows_wait_than_are_taken():
    exploration, curve = explored(*SIZES)
    assert exploration.rows_to_try(curve, 16, 16, 100 * PAUSE_NS) == 0


def test_the_size_above_the_largest_known_is_tried_when_that_is_chosen():
    exploration, curve = explored(1, 2, 4)
    assert exploration.rows_to_try(curve, 4, 8, 0) == 8
    assert exploration.rows_to_try(curve, 4, 7, 0) == 0
    assert exploration.rows_to_try(curve, 2, 8, 0) == 0


def test_growth_can_be_forbidden():
    exploration, curve = explored(1, 2, 4)
    exploration.forbid_growth()
    exploration.note(curve, 4, 0)
    assert exploration.rows_to_try(curve, 4, 8, 0) == 0


@pytest.mark.parametrize(("ns_per_row", "pause_ns"), [(MS // 10, PAUSE_NS), (MS, PAUSE_RUNS * 32 * MS)])
def test_a_larger_size_is_tried_once_more_when_nothing_was_heard_of_it_for_long(ns_per_row, pause_ns):
    exploration, curve = explored(*SIZES, ns_per_row=ns_per_row)
    exploration.note(curve, 64, int(pause_ns))
    assert exploration.rows_to_try(curve, 16, 100, int(pause_ns) - 1) == 0
    assert exploration.rows_to_try(curve, 16, 100, int(pause_ns)) == 32
    exploration.note(curve, 32, int(pause_ns))
    assert exploration.rows_to_try(curve, 16, 100, int(pause_ns)) == 0


def test_of_several_larger_sizes_the_one_that_was_heard_of_least_lately_is_tried():
    exploration, curve = explored(*SIZES)
    exploration.note(curve, 32, 5)
    assert exploration.rows_to_try(curve, 16, 100, 2 * PAUSE_NS) == 64
    assert exploration.rows_to_try(curve, 16, 63, 2 * PAUSE_NS) == 32


def test_a_batch_that_does_not_nearly_fill_a_size_tells_nothing_of_it():
    exploration, curve = explored(*SIZES)
    exploration.note(curve, 40, PAUSE_NS)
    assert exploration.rows_to_try(curve, 32, 64, PAUSE_NS) == 64
    exploration.note(curve, 50, PAUSE_NS)
    assert exploration.rows_to_try(curve, 32, 64, PAUSE_NS) == 0
