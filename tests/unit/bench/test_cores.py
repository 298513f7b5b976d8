import os

from bench import cores


def test_what_runs_on_a_core_is_back_on_all_of_them_afterwards():
    before = os.sched_getaffinity(0)
    with cores.running_on(cores.for_generator()):
        assert os.sched_getaffinity(0) == {max(before)}
    assert os.sched_getaffinity(0) == before
