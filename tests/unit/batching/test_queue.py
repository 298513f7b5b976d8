"""The order in which entries wait, against a sorted list."""

from hypothesis import given
from hypothesis import strategies as st

from serving.batching.policy import NEVER
from serving.batching.queue import Queue, due_ns
from tests.support.sessions import queued


def order(queue):
    """Take everything out from the front."""
    entries = []
    while (head := queue.head) is not None:
        entries.append(head)
        queue.shrink(head, (head,))
    return entries


ENTRIES = st.lists(
    st.tuples(st.integers(0, 3), st.none() | st.integers(0, 50), st.integers(0, 20), st.integers(0, 3)), max_size=20
)


@given(ENTRIES, st.sampled_from([NEVER, 10.0]))
def test_priority_goes_before_the_moment_and_that_before_arrival(drawn, target_ns):
    queue, entries = Queue(target_ns), []
    for priority, deadline_ns, arrival_ns, rows in drawn:
        entry = queued(rows, deadline_ns=deadline_ns, arrival_ns=arrival_ns)
        entry.priority = priority
        entries.append(entry)
        queue.add(entry)
    assert queue.rows == sum(entry.rows for entry in entries)
    expected = sorted(entries, key=lambda one: (one.priority, due_ns(one, target_ns), one.arrival_ns))
    assert order(queue) == expected
    assert (queue.rows, queue.input_bytes, len(queue), queue.lanes) == (0, 0, 0, {})


def test_without_moments_the_queue_is_first_in_first_out():
    queue, entries = Queue(NEVER), [queued() for _ in range(5)]
    for entry in entries:
        queue.add(entry)
    assert order(queue) == entries


def test_a_lane_tells_when_its_rows_are_due():
    queue = Queue(NEVER)
    for rows, deadline_ns in ((3, 50), (2, 20), (4, None)):
        queue.add(queued(rows, deadline_ns=deadline_ns))
    (lane,) = queue.lanes.values()
    assert lane.due_ns((1, 2, 4, 8, 16), NEVER) == ([20, 20, 50, NEVER, NEVER], NEVER)


def test_what_was_set_aside_waits_on_and_is_no_longer_first():
    queue, late, other = Queue(10.0), queued(2), queued(3)
    queue.add(late)
    queue.add(other)
    queue.set_aside(late)
    (lane,) = queue.lanes.values()
    assert queue.head is other
    assert (queue.rows, queue.aside_rows, lane.rows, lane.aside_rows) == (5, 2, 3, 2)
    assert queue.oldest_aside is late
    assert late in queue
    queue.shrink(late, (late,))
    assert (queue.rows, queue.aside_rows, late in queue) == (3, 0, False)
