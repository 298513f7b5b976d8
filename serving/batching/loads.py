"""Whether a model is being loaded, which takes cores from those that serve: what they took meanwhile is no measure."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Loads:
    """Counts loads under way. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._under_way = 0

    @property
    def are_under_way(self) -> bool:
        """Whether there is one."""
        return self._under_way > 0

    @contextmanager
    def one(self) -> Iterator[None]:
        """Count a load for as long as the block runs."""
        with self._lock:
            self._under_way += 1
        try:
            yield
        finally:
            with self._lock:
                self._under_way -= 1
