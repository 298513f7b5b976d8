"""The door: how many requests the server holds at a time, and whether it takes any at all. Lives on the I/O thread."""

from collections.abc import Callable

from serving.errors import Draining, Overloaded

_RETRY_AFTER_MS = 100


class Admission:
    """Counts the requests in flight. Bound: `requests_in_flight_max`, beyond which `admit` raises Overloaded."""

    def __init__(self, requests_in_flight_max: int) -> None:
        self._requests_in_flight_max = requests_in_flight_max
        self.in_flight = 0
        self.draining = False
        self._on_idle: Callable[[], None] | None = None

    def admit(self) -> None:
        """Let one request in; `release` must follow, once."""
        if self.draining:
            raise Draining("the server is shutting down; send the request to another one")
        if self.in_flight >= self._requests_in_flight_max:
            raise Overloaded(
                f"the server holds requests_in_flight_max = {self._requests_in_flight_max} requests; try again later",
                retry_after_ms=_RETRY_AFTER_MS,
            )
        self.in_flight += 1

    def release(self) -> None:
        """Let one request out."""
        assert self.in_flight > 0, "bug: a request left that was never admitted"
        self.in_flight -= 1
        self._tell_idle()

    def drain(self, on_idle: Callable[[], None]) -> None:
        """Admit nothing from now on, and call `on_idle` once nothing is in flight."""
        self.draining = True
        self._on_idle = on_idle
        self._tell_idle()

    def _tell_idle(self) -> None:
        if self._on_idle is not None and self.in_flight == 0:
            on_idle, self._on_idle = self._on_idle, None
            on_idle()
