"""Which core a load generator runs on, so that it leaves the others to the server.

A process that is started inherits the cores of the one that starts it. So a bench starts the server, moves itself to
the generator's core, and starts the generator there. The server may use all cores: its I/O thread shares one with the
generator when its instances need the others.
"""

import contextlib
import os
from collections.abc import Iterator

Cores = frozenset[int]


def for_generator() -> Cores:
    """Return the last core of those that this process may use."""
    return Cores({max(os.sched_getaffinity(0))})


@contextlib.contextmanager
def running_on(cores: Cores) -> Iterator[None]:
    """Run this thread, and what it starts meanwhile, on some cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
