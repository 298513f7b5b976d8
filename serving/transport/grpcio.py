"""The `grpcio` transport: grpc.aio on the I/O thread's event loop, handlers that see only bytes.

grpc.aio on uvloop was measured against grpcio's threaded server with the same services behind it and is the faster of
the two (bench/grpcio_variants.py). HTTP/2, compression, message limits and broken framing are grpcio's to answer.
"""

import asyncio
import ipaddress
import logging
import urllib.parse
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

import grpc
import grpc.aio

from serving.clock import Clock
from serving.config import ServerConfig
from serving.errors import BrokenCall, ConfigError, InternalError, ServingError
from serving.repository.handle import Handle
from serving.repository.routing import ROUTE_HEADER, Routing, key_of
from serving.transport.calls import STREAM_MESSAGES_MAX, Message, Methods, StreamMethod, StreamReceiver, UnaryMethod
from serving.transport.status import GRPC_CODES, details, trailing_metadata
from serving.transport.tls import Certificates, Identity

_log = logging.getLogger(__name__)

_KEEPALIVE_TIME_MS = 60_000  # a silent connection is pinged, so that one whose peer died without a word is noticed
_KEEPALIVE_TIMEOUT_MS = 20_000


class GrpcioTransport:
    """A gRPC server on one port, encrypted when it has certificates. Lives on the event loop's thread."""

    def __init__(
        self, methods: Methods, clock: Clock, config: ServerConfig, certificates: Certificates | None, *, calls_max: int
    ) -> None:
        options = [
            ("grpc.max_allowed_incoming_connections", config.connections_max),
            ("grpc.server_handshake_timeout_ms", int(config.handshake_timeout_s * 1_000)),
            ("grpc.keepalive_time_ms", _KEEPALIVE_TIME_MS),
            ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
            ("grpc.max_receive_message_length", config.max_message_mib << 20),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_metadata_size", config.header_list_bytes_max),
            ("grpc.max_concurrent_streams", config.streams_per_connection_max),
            ("grpc.so_reuseport", 0),  # otherwise a port that is in use is shared in silence
        ]
        self._server = grpc.aio.server(options=options, maximum_concurrent_rpcs=calls_max)
        self._server.add_generic_rpc_handlers((_Handlers(methods, clock),))
        self._certificates = certificates

    async def start(self, host: str, port: int) -> int:
        """Listen; return the port, which is a free one for 0. Raises ConfigError when it cannot be had.

        Certificates must have been loaded.
        """
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            if self._certificates is None:
                bound = self._server.add_insecure_port(address)
            else:
                bound = self._server.add_secure_port(address, _server_credentials(self._certificates))
        except RuntimeError:
            bound = 0
        if not bound:
            raise ConfigError(f"cannot listen on {address} for gRPC: it is in use, or not an address of this machine")
        await self._server.start()
        return int(bound)

    def follow(self, handles: Sequence[Handle], routings: Sequence[Routing] = ()) -> None:
        """See `Transport`; this one asks for a servable by name at every call."""

    def begin_drain(self) -> None:
        """See `Transport`; grpcio says so itself when it stops."""

    def refusals(self) -> Mapping[str, int]:
        """See `Transport`; grpcio does not tell."""
        return {}

    @property
    def connections(self) -> int | None:
        """See `Transport`; grpcio does not tell."""
        return None

    @property
    def streams(self) -> int | None:
        """See `Transport`; grpcio does not tell."""
        return None

    async def stop(self, grace_s: float) -> None:
        """Take no new calls, let those in flight end for `grace_s`, then cut the rest off."""
        await self._server.stop(grace_s)


class _Handlers(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Finds a method by its path; grpcio answers UNIMPLEMENTED for the others."""

    def __init__(self, methods: Methods, clock: Clock) -> None:
        self._handlers: dict[str, grpc.RpcMethodHandler] = {}
        for path, unary in methods.unary.items():
            self._handlers[path] = grpc.stream_unary_rpc_method_handler(_unary_handler(unary, clock))
        for path, streaming in methods.streaming.items():
            self._handlers[path] = grpc.stream_stream_rpc_method_handler(_stream_handler(streaming, clock))

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        """See grpc.GenericRpcHandler."""
        return self._handlers.get(handler_call_details.method)


class _AioCall:
    """A unary call of grpc.aio as `calls.Call`."""

    __slots__ = ("_clock", "_context", "future", "on_cancel")

    takes_pieces = False

    def __init__(self, context: Any, clock: Clock, future: "asyncio.Future[Message | ServingError]") -> None:
        self._context = context
        self._clock = clock
        self.future = future
        self.on_cancel: Callable[[], None] | None = None

    @property
    def peer_host(self) -> str | None:
        return _peer_host(self._context.peer())

    @property
    def peer_names(self) -> Sequence[str]:
        return _peer_names(self._context.auth_context())

    @property
    def deadline_ns(self) -> int | None:
        return _deadline_ns(self._context, self._clock)

    @property
    def traceparent(self) -> str:
        values = [value for name, value in self._context.invocation_metadata() or () if name == "traceparent"]
        return str(values[0]) if len(values) == 1 else ""

    @property
    def route(self) -> int:
        return _route(self._context)

    def settle(self, answer: Message | ServingError) -> None:
        if not self.future.done():
            self.future.set_result(answer)


def _unary_handler(method: UnaryMethod, clock: Clock) -> Any:
    """Serve a unary method as if its client streamed: grpcio never answers a unary call that brings no message."""

    async def handle(_requests: Any, context: Any) -> bytes:
        data = await context.read()
        if data is grpc.aio.EOF or await context.read() is not grpc.aio.EOF:
            await _abort(context, BrokenCall("a unary call carries exactly one message"))
        call = _AioCall(context, clock, asyncio.get_running_loop().create_future())
        try:
            method(data, call)
        except Exception:  # noqa: BLE001 - logged, and answered
            _log.exception("a method failed")
            call.settle(InternalError())
        try:
            answer = await call.future
        except asyncio.CancelledError:
            if call.on_cancel is not None:
                call.on_cancel()
            raise
        if isinstance(answer, ServingError):
            await _abort(context, answer)  # raises
            return b""
        return answer if isinstance(answer, bytes) else b"".join(answer)

    return handle


class _AioStream:
    """A streaming call of grpc.aio as `calls.Stream`: a queue of answers, and a gate in front of the reader."""

    def __init__(self, context: Any, clock: Clock) -> None:
        self._context = context
        self._clock = clock
        self._unsent: deque[bytes] = deque()
        self._finished = False
        self._error: ServingError | None = None
        self._to_send = asyncio.Event()
        self._may_read = asyncio.Event()
        self._may_read.set()
        self._paused = False

    @property
    def deadline_ns(self) -> int | None:
        return _deadline_ns(self._context, self._clock)

    @property
    def route(self) -> int:
        return _route(self._context)

    def send(self, message: bytes) -> None:
        self._unsent.append(message)
        self._to_send.set()
        self._set_gate()

    def finish(self, error: ServingError | None = None) -> None:
        if self._finished:
            return
        self._finished = True
        self._error = error
        self._to_send.set()

    def keep(self, octets: int) -> Callable[[], None]:  # noqa: ARG002 - there is no bound to count against
        return _nothing

    def pause(self) -> None:
        self._paused = True
        self._set_gate()

    def resume(self) -> None:
        self._paused = False
        self._set_gate()

    async def read_into(self, receiver: StreamReceiver) -> None:
        """Hand every message to the receiver, as fast as answers are taken away."""
        while True:
            await self._may_read.wait()
            data = await self._context.read()
            try:
                if data is grpc.aio.EOF:
                    receiver.half_closed()
                    return
                receiver.message(data)
            except Exception:  # noqa: BLE001 - logged, and answered
                _log.exception("a streaming method failed")
                self.finish(InternalError())
                return

    async def write_all(self) -> None:
        """Write answers until the stream is finished."""
        while True:
            await self._to_send.wait()
            self._to_send.clear()
            while self._unsent:
                await self._context.write(self._unsent.popleft())
                self._set_gate()
            if self._finished:
                if self._error is not None:
                    await _abort(self._context, self._error)
                return

    def _set_gate(self) -> None:
        if self._paused or len(self._unsent) >= STREAM_MESSAGES_MAX:
            self._may_read.clear()
        else:
            self._may_read.set()


def _stream_handler(method: StreamMethod, clock: Clock) -> Any:
    async def handle(_requests: Any, context: Any) -> None:
        stream = _AioStream(context, clock)
        receiver = method(stream)
        reading = asyncio.ensure_future(stream.read_into(receiver))
        try:
            await stream.write_all()
        finally:
            reading.cancel()
            receiver.cancelled()

    return handle


def _nothing() -> None:
    """There is nothing to let go of."""


def _abort(context: Any, error: ServingError) -> Awaitable[None]:
    aborting: Awaitable[None] = context.abort(GRPC_CODES[error.code], details(error), trailing_metadata(error))
    return aborting


def _deadline_ns(context: Any, clock: Clock) -> int | None:
    remaining_s = context.time_remaining()
    if remaining_s is None or remaining_s > 1e9:
        return None
    return clock.now_ns() + int(remaining_s * 1e9)


def _route(context: Any) -> int:
    """Return the key of the call's route header; of several, the last one counts."""
    key = 0
    for name, value in context.invocation_metadata() or ():
        if name == ROUTE_HEADER:
            key = key_of(value.encode() if isinstance(value, str) else value)
    return key


class _ChangedIdentity:
    """What grpcio asks before every handshake, on a thread of its own: a configuration that is new to it, or None."""

    def __init__(self, certificates: Certificates) -> None:
        self._certificates = certificates
        self.given = certificates.current

    def __call__(self) -> grpc.ServerCertificateConfiguration | None:
        newest = self._certificates.current
        if newest is self.given:
            return None
        self.given = newest
        return _configuration(newest)


def _server_credentials(certificates: Certificates) -> grpc.ServerCredentials:
    changed = _ChangedIdentity(certificates)
    return grpc.dynamic_ssl_server_credentials(
        _configuration(changed.given),
        changed,
        require_client_authentication=certificates.requires_client_certificate,
    )


def _configuration(identity: Identity) -> grpc.ServerCertificateConfiguration:
    contents = identity.contents
    return grpc.ssl_server_certificate_configuration([(contents.pair.key, contents.pair.chain)], contents.client_ca)


def _peer_names(authentication: Mapping[str, Iterable[bytes]]) -> tuple[str, ...]:
    """Read the names out of a verified certificate: the subject's common name, then DNS names."""
    names = (*authentication.get("x509_common_name", ()), *authentication.get("peer_dns", ()))
    return tuple(name.decode(errors="replace") for name in names)


def _peer_host(peer: str) -> str | None:
    """Read the IP address out of `ipv4:1.2.3.4:5` or `ipv6:%5B::1%5D:5`."""
    family, _, rest = urllib.parse.unquote(peer).partition(":")
    if family not in {"ipv4", "ipv6"}:
        return None
    host = rest.rpartition(":")[0].strip("[]").partition("%")[0]
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return None
