"""Ctrl-C: the first one ends a slice in order, the second one everything."""

import signal

import pytest

from bench.interrupt import Interrupt


@pytest.fixture(autouse=True)
def from_a_terminal():
    """Ctrl-C as Python has it, also where a shell has started pytest in its background and ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def ctrl_c():
    signal.raise_signal(signal.SIGINT)


def test_the_first_ends_what_is_measured_and_the_second_everything():
    ended = []
    with Interrupt() as interrupt, interrupt.ends(lambda: ended.append(True)):
        ctrl_c()
        assert (ended, interrupt.is_set) == ([True], True)
        with pytest.raises(KeyboardInterrupt):
            ctrl_c()
    assert ended == [True]


def test_while_nothing_is_measured_it_is_pythons():
    with Interrupt() as interrupt:
        with interrupt.ends(lambda: None):
            pass
        with pytest.raises(KeyboardInterrupt):
            ctrl_c()
    assert interrupt.is_set


def test_what_was_before_is_put_back():
    with Interrupt():
        assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_process_in_the_background_goes_on_ignoring_it():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Interrupt() as interrupt:
        ctrl_c()
    assert not interrupt.is_set
