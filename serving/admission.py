"""The door: how many requests the server holds at a time, and whether it takes any at all. Lives on the I/O thread."""

from collections.abc import Callable

from serving.errors import Draining, Overloaded, ServingError

_RETRY_AFTER_MS = 100


class Admission:
    """Counts the requests in flight. Bound: `requests_in_flight_max`, beyond which `admit` raises Overloaded."""

    def __init__(self, requests_in_flight_max: int) -> None:
        self._requests_in_flight_max = requests_in_flight_max
        self.in_flight = 0
        self.draining = False
        self._on_idle: Callable[[], None] | None = None

    @property
    def room(self) -> int:
        """How many requests would be let in now."""
        return 0 if self.draining else self._requests_in_flight_max - self.in_flight

    def admit(self) -> None:
        """Let one request in; `release` must follow, once."""
        _, error = self.admit_many(1)
        if error is not None:
            raise error

    def admit_many(self, requests: int) -> tuple[int, ServingError | None]:
        """Let in as many of so many requests as there is room for; return how many, and why not all."""
        if self.draining:
            return 0, Draining("the server is shutting down; send the request to another one")
        admitted = min(requests, self._requests_in_flight_max - self.in_flight)
        self.in_flight += admitted
        if admitted == requests:
            return admitted, None
        return admitted, Overloaded(
            f"the server holds requests_in_flight_max = {self._requests_in_flight_max} requests; try again later",
            retry_after_ms=_RETRY_AFTER_MS,
        )

    def release(self, requests: int = 1) -> None:
        """Let requests out."""
        assert self.in_flight >= requests, "bug: a request left that was never admitted"
        self.in_flight -= requests
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
