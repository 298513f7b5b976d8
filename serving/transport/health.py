"""The gRPC health service: Check, and Watch that sends every change. Lives on the I/O thread.

The empty name and the inference service stand for the whole server, which is serving when it has loaded its
models, one of them is ready if there are any, and it is not draining. Source: grpc/doc/health-checking.md.
"""

from collections.abc import Callable

from grpc_health.v1 import health_pb2

from serving.errors import ServingError, UnknownService
from serving.transport.calls import SERVICE, Call, Stream, StreamMethod, UnaryMethod
from serving.transport.codec import parse

HEALTH_SERVICE = "grpc.health.v1.Health"
_SERVICES = frozenset({"", SERVICE})
_Response = health_pb2.HealthCheckResponse


class HealthService:
    """Answers whether the server is serving. `refresh` must be called whenever `is_serving` may have changed."""

    def __init__(self, is_serving: Callable[[], bool]) -> None:
        self._is_serving = is_serving
        self._watchers: set[Watcher] = set()

    def unary(self) -> dict[str, UnaryMethod]:
        """Return the unary methods by path."""
        return {f"/{HEALTH_SERVICE}/Check": self._check}

    def streaming(self) -> dict[str, StreamMethod]:
        """Return the streaming methods by path."""
        return {f"/{HEALTH_SERVICE}/Watch": lambda stream: Watcher(self, stream)}

    def refresh(self) -> None:
        """Tell every watcher whose status has changed."""
        for watcher in list(self._watchers):
            watcher.tell()

    def status(self, service: str) -> int:
        """Return the status of a service, SERVICE_UNKNOWN for one that is not served here."""
        if service not in _SERVICES:
            return int(_Response.SERVICE_UNKNOWN)
        return int(_Response.SERVING if self._is_serving() else _Response.NOT_SERVING)

    def add(self, watcher: "Watcher") -> None:
        """Keep a watcher informed."""
        self._watchers.add(watcher)

    def remove(self, watcher: "Watcher") -> None:
        """Stop informing a watcher."""
        self._watchers.discard(watcher)

    def _check(self, data: bytes, call: Call) -> None:
        answer: bytes | ServingError
        try:
            service = parse(health_pb2.HealthCheckRequest, data).service
            status = self.status(service)
            if status == _Response.SERVICE_UNKNOWN:
                answer = UnknownService(f"unknown service '{service}'")
            else:
                answer = _Response(status=status).SerializeToString()
        except ServingError as error:
            answer = error
        call.settle(answer)


class Watcher:
    """One Watch call: sends the status at once and whenever it changes, until the client goes away."""

    def __init__(self, health: HealthService, stream: Stream) -> None:
        self._health = health
        self._stream = stream
        self._service: str | None = None
        self._told: int | None = None

    def message(self, data: bytes) -> None:
        """Begin to watch the service that the client names."""
        try:
            self._service = parse(health_pb2.HealthCheckRequest, data).service
        except ServingError as error:
            self._stream.finish(error)
            return
        self._health.add(self)
        self.tell()

    def half_closed(self) -> None:
        """Nothing more will come, which is how every Watch begins."""

    def cancelled(self) -> None:
        """The client went away."""
        self._health.remove(self)

    def tell(self) -> None:
        """Send the status if it is not the one that was sent last."""
        assert self._service is not None, "bug: told a watcher that has named no service"
        status = self._health.status(self._service)
        if status != self._told:
            self._told = status
            self._stream.send(_Response(status=status).SerializeToString())
