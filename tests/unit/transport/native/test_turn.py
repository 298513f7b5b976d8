"""A turn of the event loop, and the ordinary calls that it runs."""

from collections import deque

import pytest

from serving.transport.native.ordinary import TURN_NS, OrdinaryWork
from serving.transport.native.turn import RETRY_S, Turn
from tests.support.clocks import FakeClock
from tests.support.wired import FakeLoop


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def loop(clock):
    return FakeLoop(clock)


@pytest.fixture
def turn(loop):
    return Turn(loop)


# ---- turns ---------------------------------------------------------------------------------------------------------


def test_phases_run_in_order_once_however_often_somebody_asked(turn, loop):
    log = []
    for name in "abc":
        turn.add(lambda name=name: log.append(name))
    for _ in range(3):
        turn.wake()
        turn.wake_for_later_phase()
    loop.run()
    assert log == ["a", "b", "c"]
    loop.run()
    assert log == ["a", "b", "c"]


def test_a_phase_that_has_left_something_gets_another_turn(turn, loop):
    left, log = [3, 2, 1, 0], []

    def phase():
        log.append(left.pop(0))
        return log[-1] > 0

    turn.add(phase)
    turn.wake()
    loop.run()
    assert log == [3, 2, 1, 0]


def test_a_phase_that_fails_does_not_keep_the_others_from_their_work(turn, loop, caplog):
    log = []
    turn.add(lambda: log.append("before"))
    turn.add(lambda: 1 // 0)
    turn.add(lambda: log.append("behind"))
    turn.wake()
    loop.run()
    assert log == ["before", "behind"]
    assert "a phase of the event loop's turn failed" in caplog.text
    assert not turn.is_running
    turn.wake()
    loop.run()
    assert log == ["before", "behind"] * 2


def test_what_a_failing_phase_may_have_left_is_looked_at_later_and_not_at_once(turn, loop, clock):
    fails, log = [True, True, False], []

    def phase():
        log.append(fails[0])
        return 1 // 0 if fails.pop(0) else False

    turn.add(phase)
    for _ in range(2):
        turn.wake()
        loop.run()
    assert log == [True, True]
    for _ in range(2):  # the second time nothing is left to look at
        clock.advance(int(RETRY_S * 1e9))
        loop.run()
        assert log == [True, True, False]


def test_work_for_a_later_phase_of_this_turn_needs_no_other_turn_and_new_work_does(turn, loop):
    log, wakes = [], [turn.wake, turn.wake_for_later_phase]

    def first():
        log.append("first")
        if wakes:
            wakes.pop()()

    turn.add(first)
    turn.add(lambda: log.append("second"))
    turn.wake()
    loop.run()
    assert log == ["first", "second"]
    turn.wake()
    loop.run()
    assert log == ["first", "second"] * 3


# ---- ordinary calls ------------------------------------------------------------------------------------------------


class Peer:
    """A connection, as far as its calls wait."""

    def __init__(self):
        self.waiting_work = deque()


class Work:
    """A call that takes its time."""

    def __init__(self, connection, name, clock, log, duration_ns=0):
        self.connection, self.name, self.clock, self.log, self.duration_ns = connection, name, clock, log, duration_ns

    def run(self):
        self.log.append(self.name)
        self.clock.advance(self.duration_ns)


class Clocked:
    """A core, as far as it knows the time."""

    def __init__(self, clock):
        self.now_ns = clock.now_ns


def test_connections_take_turns_and_each_ones_calls_keep_their_order(clock, turn, loop):
    work, log, (a, b, c) = OrdinaryWork(Clocked(clock), turn), [], (Peer(), Peer(), Peer())
    turn.add(work.run)
    for connection, name in [(a, "a1"), (a, "a2"), (a, "a3"), (b, "b1"), (c, "c1"), (b, "b2")]:
        work.add(Work(connection, name, clock, log))
    loop.run()
    assert log == ["a1", "b1", "c1", "a2", "b2", "a3"]
    assert not any(connection.waiting_work for connection in (a, b, c))


def test_a_turn_ends_when_its_time_is_over_and_the_next_goes_on_with_the_next_connection(clock, turn):
    work, log, (a, b) = OrdinaryWork(Clocked(clock), turn), [], (Peer(), Peer())
    for connection, name in [(a, "a1"), (a, "a2"), (b, "b1")]:
        work.add(Work(connection, name, clock, log, TURN_NS))
    assert work.run()
    assert log == ["a1"]
    assert work.run()
    assert log == ["a1", "b1"]
    assert not work.run()
    assert log == ["a1", "b1", "a2"]
    assert not work.run()


def test_work_that_brings_more_work_does_not_keep_the_turn(clock, turn):
    work, log, peer = OrdinaryWork(Clocked(clock), turn), [], Peer()

    class Again(Work):
        def run(self):
            super().run()
            if len(self.log) < 5:
                work.add(self)

    work.add(Again(peer, "again", clock, log, TURN_NS // 2))
    assert work.run()
    assert len(log) == 2
    while work.run():
        pass
    assert len(log) == 5
