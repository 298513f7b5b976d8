"""The threads of a servable. Each runs the same loop until the work it serves is over."""

import threading
from collections.abc import Callable

INSTANCE_THREADS = "instance "
"""How the names of these threads begin."""


class InstanceGroup:
    """Threads that run `serve` side by side; it returns when there will be no more work."""

    def __init__(self, name: str, count: int, serve: Callable[[], None]) -> None:
        names = [f"{INSTANCE_THREADS}{name}#{index}" for index in range(count)]
        self._threads = [threading.Thread(target=serve, name=name, daemon=True) for name in names]
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        """Wait until every `serve` has returned."""
        for thread in self._threads:
            thread.join()
