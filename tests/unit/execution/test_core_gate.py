"""Batches of several servables and the cores that they share. A test waits on events, never on time."""

import threading

import pytest

from serving.execution.core_gate import CoreGate
from tests.support.cores import wait_for_line

LONG_NS = 60e9


class Run:
    """A batch on a thread of its own, which holds its cores until it is told to end."""

    def __init__(self, gate, cores, patience_ns=LONG_NS):
        self.began, self._ends = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, args=(gate, cores, patience_ns))
        self._thread.start()

    def _run(self, gate, cores, patience_ns):
        with gate.use(cores, patience_ns):
            self.began.set()
            self._ends.wait(20)

    def end(self):
        self._ends.set()
        self._thread.join(20)


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    monkeypatch.setattr("serving.execution.core_gate.PATIENCE_NS_MAX", LONG_NS)


def test_batches_for_which_there_are_cores_run_side_by_side():
    gate = CoreGate(4)
    runs = [Run(gate, 2), Run(gate, 2)]
    assert all(run.began.wait(20) for run in runs)
    assert gate.free == 0
    for run in runs:
        run.end()
    assert gate.free == 4


def test_a_batch_for_which_there_are_no_cores_runs_when_another_one_is_done():
    gate = CoreGate(2)
    first = Run(gate, 2)
    assert first.began.wait(20)
    second = Run(gate, 2)
    wait_for_line(gate, 1)
    assert not second.began.is_set()
    first.end()
    assert second.began.wait(20)
    assert gate.free == 0
    second.end()


def test_who_waits_longest_is_next_also_when_a_smaller_batch_would_find_room():
    gate = CoreGate(2)
    first = Run(gate, 1)
    assert first.began.wait(20)
    large = Run(gate, 2)
    wait_for_line(gate, 1)
    small = Run(gate, 1)
    wait_for_line(gate, 2)
    first.end()
    assert large.began.wait(20)
    assert not small.began.is_set()
    large.end()
    assert small.began.wait(20)
    small.end()


def test_a_batch_whose_patience_is_over_runs_beside_the_others():
    gate = CoreGate(1)
    heavy = Run(gate, 1)
    assert heavy.began.wait(20)
    with gate.use(1, 1.0):
        assert gate.free == -1
    assert gate.free == 0
    heavy.end()
    assert gate.free == 1


def test_a_batch_that_fails_gives_its_cores_back():
    gate = CoreGate(2)
    with pytest.raises(ZeroDivisionError), gate.use(2, 0.0):
        _ = 1 / 0
    assert gate.free == 2


@pytest.mark.parametrize(
    ("threads", "instances", "share"), [(2, 1, 2), (1, 2, 1), (8, 1, 4), (4, 2, 2), (1, 8, 0), (1, 1, 1)]
)
def test_a_servable_told_to_use_more_than_there_is_gets_in_its_own_way_no_more_than_told(threads, instances, share):
    assert CoreGate(4).share(threads, instances) == share


def test_a_servable_that_counts_for_no_cores_never_waits():
    gate = CoreGate(1)
    with gate.use(1, 0.0), gate.use(0, LONG_NS):
        assert gate.free == 0
