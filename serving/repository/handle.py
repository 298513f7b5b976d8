"""Counts who uses a servable, so that it is closed when the last one has left and never before."""

import threading
from collections.abc import Callable

from serving.model import Servable


class Handle:
    """A servable and the number of its users. Thread-safe."""

    def __init__(self, servable: Servable) -> None:
        self.servable = servable
        self._lock = threading.Lock()
        self._users = 0
        self._on_idle: Callable[[], None] | None = None

    def acquire(self) -> bool:
        """Begin to use the servable; False when it has been retired."""
        with self._lock:
            if self._on_idle is not None:
                return False
            self._users += 1
            return True

    def release(self) -> None:
        """End a use."""
        with self._lock:
            self._users -= 1
            assert self._users >= 0, "bug: a servable was released more often than acquired"
            on_idle = self._on_idle if self._users == 0 else None
        if on_idle is not None:
            on_idle()

    def retire(self, on_idle: Callable[[], None]) -> None:
        """Take no new users, and call `on_idle` once, on the thread of the last one to leave, when none is left."""
        with self._lock:
            assert self._on_idle is None, "bug: a servable was retired twice"
            self._on_idle = on_idle
            idle = self._users == 0
        if idle:
            on_idle()


def close_when_idle(handle: Handle, then: Callable[[], None] = lambda: None) -> threading.Event:
    """Retire a handle and close its servable, on a thread of its own, once nobody uses it. Returns what says so."""
    handle.servable.hurry()
    closed = threading.Event()

    def close() -> None:
        try:
            handle.servable.close()
            then()
        finally:
            closed.set()

    handle.retire(lambda: threading.Thread(target=close, name=f"close {handle.servable.name}", daemon=True).start())
    return closed
