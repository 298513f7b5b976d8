"""The seam between transports and services.

A transport receives messages as bytes, finds the method by its path, and hands over a `Call` or a `Stream`. A service
answers through it, now or later, on the I/O thread. Neither side knows what is behind the other.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from serving.errors import ServingError
from serving.repository.handle import Handle
from serving.repository.routing import Routing
from serving.types import InferRequest

SERVICE = "inference.GRPCInferenceService"

STREAM_MESSAGES_MAX = 64
"""Requests of one stream in work, and answers waiting to be sent, each; beyond it the transport stops reading."""


Message = bytes | Sequence[bytes | memoryview]
"""An encoded message, whole or in pieces that never change any more, so that large tensors need not be copied."""


class Call(Protocol):
    """One unary call. Lives on the I/O thread.

    `peer_host` is the peer's IP address, None when it is not known. `peer_names` are the common name and the DNS names
    of the certificate that the peer has shown and the transport has verified; empty without mTLS. `deadline_ns` is on
    the monotonic clock.
    `on_cancel` is set by the service, and called by the transport when the client goes away before the answer.
    `traceparent` is the caller's header of this name, empty where a transport does not keep it.
    `takes_pieces` says that an answer in pieces is sent without joining it on the I/O thread.
    """

    on_cancel: Callable[[], None] | None

    @property
    def takes_pieces(self) -> bool:
        """Whether a large answer may come in pieces."""

    @property
    def peer_host(self) -> str | None:
        """The peer's IP address."""

    @property
    def peer_names(self) -> Sequence[str]:
        """The names in the peer's verified certificate."""

    @property
    def deadline_ns(self) -> int | None:
        """When nobody waits for the answer any more."""

    @property
    def traceparent(self) -> str:
        """The caller's W3C trace context."""

    @property
    def route(self) -> int:
        """The key of the metadata by which the call is routed, see `repository.routing`; 0 when there is none."""

    def settle(self, answer: Message | ServingError) -> None:
        """Give the one and only answer. Harmless when the client has gone."""


class Stream(Protocol):
    """The sending side of one streaming call. Lives on the I/O thread."""

    @property
    def deadline_ns(self) -> int | None:
        """When nobody waits for answers any more."""

    @property
    def route(self) -> int:
        """See `Call`; of all requests of the stream."""

    def send(self, message: bytes) -> None:
        """Send one message, in the order of the calls."""

    def finish(self, error: ServingError | None = None) -> None:
        """End the call after the messages sent so far."""

    def keep(self, octets: int) -> Callable[[], None]:
        """Count bytes of a message that a receiver keeps beyond its `message`.

        Returns what is to be called, once, when it keeps them no longer, even if the call is over by then.
        """

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


class Answer(Protocol):
    """A message that can be written."""

    def SerializeToString(self) -> bytes:  # noqa: N802 - protobuf's name
        """Return the message's bytes."""


def immediate(answer: Callable[[bytes], Answer]) -> UnaryMethod:
    """Make a method of a function that has its answer, or raises a ServingError, at once."""

    def method(data: bytes, call: Call) -> None:
        try:
            result: bytes | ServingError = answer(data).SerializeToString()
        except ServingError as error:
            result = error
        call.settle(result)

    return method


@dataclass(frozen=True, slots=True)
class Methods:
    """Every method that the server offers, by path (`/package.Service/Method`)."""

    unary: Mapping[str, UnaryMethod]
    streaming: Mapping[str, StreamMethod]
    infer: Callable[[InferRequest, Call], None]
    """ModelInfer, for a transport that has decoded the request itself."""


class Transport(Protocol):
    """What receives calls for `Methods` on a port. Lives on the event loop's thread."""

    async def start(self, host: str, port: int) -> int:
        """Listen; return the port, which is a free one for 0. Raises ConfigError when it cannot be had."""

    def follow(self, handles: Sequence[Handle], routings: Sequence[Routing] = ()) -> None:
        """Note what serves now, and how the requests of some models are spread."""

    def begin_drain(self) -> None:
        """Tell peers that the server goes, if there is a way to do so before it refuses them."""

    async def stop(self, grace_s: float) -> None:
        """Take no new calls, let those in flight end for `grace_s`, then cut the rest off."""

    def refusals(self) -> Mapping[str, int]:
        """Return how often a peer was cut off or refused, by reason."""

    @property
    def connections(self) -> int | None:
        """How many connections there are, None when that is not known."""

    @property
    def streams(self) -> int | None:
        """How many calls are open on them, None when that is not known."""
