from hypothesis import given
from hypothesis import strategies as st

from serving.batching.policy import Window, take_at_ns

TIMES = st.integers(0, 2**62)


@given(st.integers(0, 64), TIMES, st.integers(1, 64), st.integers(0, 60_000_000_000))
def test_a_batch_never_waits_longer_than_the_window_after_its_first_row(rows, arrival_ns, rows_max, delay_ns):
    due_ns = take_at_ns(Window(rows_max, delay_ns), rows=rows, head_arrival_ns=arrival_ns)
    assert arrival_ns <= due_ns <= arrival_ns + delay_ns


@given(st.integers(0, 64), TIMES, st.integers(1, 64))
def test_without_a_window_nothing_waits(rows, arrival_ns, rows_max):
    assert take_at_ns(Window(rows_max, 0), rows=rows, head_arrival_ns=arrival_ns) == arrival_ns


def test_a_full_batch_goes_at_once_and_one_row_less_waits():
    window = Window(batch_rows_max=8, queue_delay_ns_max=500)
    assert take_at_ns(window, rows=8, head_arrival_ns=100) == 100
    assert take_at_ns(window, rows=7, head_arrival_ns=100) == 600
