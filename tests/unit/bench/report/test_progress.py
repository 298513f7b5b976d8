import io

import pytest

from bench.report.progress import LIMITED, Progress
from bench.slices import ClosedLoop, Interval, OpenLoop, Slice
from tests.support.outcomes import interval

OPEN = Slice(load=OpenLoop(rate_per_s=1000.0, duration_s=20.0))


HIDDEN_CURSOR, SHOWN_CURSOR = "\x1b[?25l", "\x1b[?25h"


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


def lines(*intervals, slice_=OPEN):
    stream = io.StringIO()
    with Progress(stream) as progress:
        progress.stage("1,000/s", slice_)
        for item in intervals:
            progress.note(item)
    return stream.getvalue().splitlines()


def seconds(number, **figures):
    return [interval(index / 4, seed=index, **figures) for index in range(number * 4)]


def test_without_a_terminal_there_is_a_line_every_five_seconds():
    shown = lines(*seconds(20))
    assert shown[0] == "1,000/s"
    assert [line.split(":")[0].strip() for line in shown[1:]] == [f"{at}.0 / 20.0 s" for at in (5, 10, 15, 20)]
    assert "sent 1,000/s of 1,000/s, answered 1,000/s, p50 799 us" in shown[1]


def test_errors_are_counted_so_far():
    assert lines(*seconds(10, errors={"UNAVAILABLE": 1}))[-1].endswith("errors 40")


def test_a_limited_client_is_said_once():
    shown = lines(*seconds(20, busy=0.95))
    assert [line for line in shown if LIMITED in line] == [f"  warning: {LIMITED}"]


def test_lag_makes_the_client_the_limit():
    assert any(LIMITED in line for line in lines(*seconds(5, lag_us=500.0)))
    assert not any(LIMITED in line for line in lines(*seconds(5)))


def test_a_closed_loop_is_shown_with_its_concurrency():
    closed = Slice(load=ClosedLoop(concurrency=4, duration_s=20.0))
    assert "sent 1,000/s with 4 in flight" in lines(*seconds(5), slice_=closed)[1]


def test_a_slice_that_answers_nothing_shows_dashes():
    shown = lines(Interval(0.0, 5.0, sent=10))
    assert shown[1] == "  5.0 / 20.0 s: sent 2.00/s of 1,000/s, answered 0/s, p50 -, p99 -, errors 0"


def test_a_new_slice_begins_to_count_anew_even_without_a_stage():
    shown = lines(*seconds(5, errors={"UNAVAILABLE": 1}), *seconds(5))
    assert shown[1].endswith("errors 20")
    assert shown[2].endswith("errors 0")


def test_stages_are_lines_and_keep_the_last_slice():
    stream = io.StringIO()
    with Progress(stream) as progress:
        progress.stage("A, pair 1", OPEN)
        progress.stage("B, pair 1")
        progress.note(interval(0.0, length_s=5.0))
    assert stream.getvalue().splitlines()[:2] == ["A, pair 1", "B, pair 1"]
    assert "/ 20.0 s" in stream.getvalue()


def test_a_terminal_shows_the_figures_live():
    stream = Terminal()
    with Progress(stream) as progress:
        progress.stage("[red]1,000/s", OPEN)
        for item in seconds(1, busy=0.95):
            progress.note(item)
    text = stream.getvalue()
    assert "[red]1,000/s" in text
    assert "answered 1,000/s" in text
    assert "the client is the limit" in text


def test_stderr_is_the_stream_unless_another_is_named(capsys):
    with Progress() as progress:
        progress.stage("first")
    captured = capsys.readouterr()
    assert captured.err == "first\n"
    assert captured.out == ""


@pytest.mark.parametrize("terminal", [io.StringIO, Terminal])
def test_progress_ends_cleanly_after_an_error(terminal):
    def interrupted(progress):
        progress.stage("first", OPEN)
        progress.note(interval(0.0))
        raise KeyboardInterrupt

    stream = terminal()
    with pytest.raises(KeyboardInterrupt), Progress(stream) as progress:
        interrupted(progress)
    assert stream.getvalue().count(HIDDEN_CURSOR) == stream.getvalue().count(SHOWN_CURSOR)
