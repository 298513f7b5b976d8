"""Since when a look at the registry waits for it, and not for a package that loads."""

import contextlib
from collections.abc import Iterator

from serving.clock import Clock


class Waiting:
    """One look at a time begins, works in between, and ends; any thread may ask for how long it has waited."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._since_ns: int | None = None

    @property
    def seconds(self) -> float:
        """For how long the look under way waits by now; 0 when it does not."""
        since_ns = self._since_ns
        return 0.0 if since_ns is None else (self._clock.now_ns() - since_ns) / 1e9

    @contextlib.contextmanager
    def look(self) -> Iterator[None]:
        """A look at the registry."""
        self._since_ns = self._clock.now_ns()
        try:
            yield
        finally:
            self._since_ns = None

    @contextlib.contextmanager
    def work(self) -> Iterator[None]:
        """What a look does without the registry."""
        self._since_ns = None
        try:
            yield
        finally:
            self._since_ns = self._clock.now_ns()
