"""Waiting for batches that wait for cores."""

import threading
import time

DEADLINE_S = 30


def wait_for_line(gate, batches: int) -> None:
    """Return when so many batches stand in a gate's line, which tells nobody."""
    until_s = time.monotonic() + DEADLINE_S
    while gate.waiting != batches:
        assert time.monotonic() < until_s, f"{gate.waiting} batches wait for cores, expected {batches}"
        threading.Event().wait(0.001)
