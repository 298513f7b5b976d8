"""The seam between transports and services.

A transport receives messages as bytes, finds the method by its path, and hands over a `Call` or a `Stream`. A service
answers through it, now or later, on the I/O thread. Neither side knows what is behind the other.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from serving.errors import ServingError

SERVICE = "inference.GRPCInferenceService"

STREAM_MESSAGES_MAX = 64
"""Requests of one stream in work, and answers waiting to be sent, each; beyond it the transport stops reading."""


class Call(Protocol):
    """One unary call. Lives on the I/O thread.

    `peer_host` is the peer's IP address, None when it is not known. `deadline_ns` is on the monotonic clock.
    `on_cancel` is set by the service, and called by the transport when the client goes away before the answer.
    """

    on_cancel: Callable[[], None] | None

    @property
    def peer_host(self) -> str | None:
        """The peer's IP address."""

    @property
    def deadline_ns(self) -> int | None:
        """When nobody waits for the answer any more."""

    def settle(self, answer: bytes | ServingError) -> None:
        """Give the one and only answer. Harmless when the client has gone."""


class Stream(Protocol):
    """The sending side of one streaming call. Lives on the I/O thread."""

    @property
    def deadline_ns(self) -> int | None:
        """When nobody waits for answers any more."""

    def send(self, message: bytes) -> None:
        """Send one message, in the order of the calls."""

    def finish(self, error: ServingError | None = None) -> None:
        """End the call after the messages sent so far."""

    def pause(self) -> None:
        """Ask the transport for no further messages until `resume`."""

    def resume(self) -> None:
        """Take messages again."""


class StreamReceiver(Protocol):
    """The receiving side of one streaming call."""

    def message(self, data: bytes) -> None:
        """One message came."""

    def half_closed(self) -> None:
        """The client will send no more."""

    def cancelled(self) -> None:
        """The call is over; nothing can be sent any more."""


UnaryMethod = Callable[[bytes, Call], None]
StreamMethod = Callable[[Stream], StreamReceiver]


@dataclass(frozen=True, slots=True)
class Methods:
    """Every method that the server offers, by path (`/package.Service/Method`)."""

    unary: Mapping[str, UnaryMethod]
    streaming: Mapping[str, StreamMethod]
