"""A look waits from its beginning to its end, but for the time in which it loads packages."""

import pytest

from serving.aliased.waiting import Waiting
from tests.support.clocks import FakeClock


def test_only_a_look_under_way_waits_and_not_while_it_works():
    clock = FakeClock()
    waiting = Waiting(clock)

    def seconds_after(seconds):
        clock.advance(int(seconds * 1e9))
        return waiting.seconds

    assert seconds_after(5) == 0
    with waiting.look():
        assert seconds_after(5) == 5
        with waiting.work():
            assert seconds_after(50) == 0
        assert seconds_after(5) == 5
    assert seconds_after(5) == 0


def test_a_look_that_fails_is_over():
    clock = FakeClock()
    waiting = Waiting(clock)
    with pytest.raises(ZeroDivisionError), waiting.look():
        raise ZeroDivisionError
    clock.advance(1)
    assert waiting.seconds == 0
