import pytest

from serving.batching.inline import InlineRuns, Left
from tests.support.clocks import FakeClock

US = 1_000


class Work:
    """A servable with some batches left, each of which takes its time."""

    def __init__(self, clock, log, name, batches, batch_us):
        self.clock, self.log, self.name, self.batches, self.batch_us = clock, log, name, batches, batch_us

    def run_inline(self, budget_ns):
        assert budget_ns > 0
        self.log.append(self.name)
        self.clock.advance(self.batch_us * US)
        self.batches -= 1
        return Left.MORE if self.batches > 0 else Left.NOTHING


def runs(budget_us, *works):
    clock, log, wakes = FakeClock(), [], []
    inline = InlineRuns(clock, budget_us=budget_us, wake=lambda: wakes.append(1))
    for name, batches, batch_us in works:
        inline.add(Work(clock, log, name, batches, batch_us))
    assert len(wakes) == len(works)
    return inline, log


def test_servables_take_turns_within_one_budget():
    inline, log = runs(100, ("a", 3, 30), ("b", 3, 30))
    assert inline.run()
    assert log == ["a", "b", "a", "b"]
    assert not inline.run()
    assert log == ["a", "b", "a", "b", "a", "b"]


def test_nothing_is_left_when_all_has_run():
    inline, log = runs(1_000, ("a", 2, 30))
    assert not inline.run()
    assert log == ["a", "a"]


def test_a_budget_of_nothing_runs_nothing():
    inline, log = runs(0, ("a", 1, 1))
    assert inline.run()
    assert log == []


def test_a_servable_whose_run_fails_by_our_mistake_has_its_turn_again():
    inline, log = runs(100, ("a", 1, 30))

    class Failing:
        def run_inline(self, budget_ns):
            log.append("failing")
            if log.count("failing") == 1:
                raise ZeroDivisionError
            return Left.NOTHING

    inline.add(Failing())
    with pytest.raises(ZeroDivisionError):
        inline.run()
    assert not inline.run()
    assert log == ["a", "failing", "failing"]
