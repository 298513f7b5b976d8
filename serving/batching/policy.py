"""When an idle instance should take the waiting rows. Pure.

Natural batching: while every instance is busy the batch grows by itself, so an idle instance takes what is there at
once. Only a window (`queue_delay_us_max`) makes it wait, and never longer than that after the first row arrived.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Window:
    """The bounds of one batch."""

    batch_rows_max: int
    queue_delay_ns_max: int


def take_at_ns(window: Window, *, rows: int, head_arrival_ns: int) -> int:
    """Return the time from which an idle instance may take a batch of `rows` whose first row came at `head_arrival_ns`.

    A time in the past means now.
    """
    if rows >= window.batch_rows_max:
        return head_arrival_ns
    return head_arrival_ns + window.queue_delay_ns_max
