"""The HTTP port: /metrics for Prometheus, /livez and /readyz for an orchestrator. On the I/O thread, with aiohttp."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from aiohttp import web
from aiohttp.typedefs import Handler

from serving.errors import ConfigError

_log = logging.getLogger(__name__)

_CONNECTIONS_MAX = 128
_FIRST_REQUEST_S = 10.0
_KEEPALIVE_S = 75.0
_LINE_BYTES_MAX = 4096


class HttpServer:
    """Serves three small pages.

    Bounds: at most 128 connections, and a connection that has sent no complete request within 10 s is closed.
    """

    def __init__(
        self, render_metrics: Callable[[], Awaitable[bytes]], metrics_type: str, why_not_ready: Callable[[], str]
    ) -> None:
        self._render_metrics = render_metrics
        self._metrics_type = metrics_type
        self._why_not_ready = why_not_ready
        self._silent: dict[object, asyncio.TimerHandle] = {}  # connections that have sent no request yet
        app = web.Application(middlewares=[self._note_request])
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/livez", self._livez)
        app.router.add_get("/readyz", self._readyz)
        self._runner = web.AppRunner(
            app,
            access_log=None,
            handle_signals=False,
            keepalive_timeout=_KEEPALIVE_S,
            max_line_size=_LINE_BYTES_MAX,
            max_field_size=_LINE_BYTES_MAX,
        )
        self._listener: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen; return the port, which is a free one for 0. Raises ConfigError when it cannot be had."""
        await self._runner.setup()
        try:
            self._listener = await asyncio.get_running_loop().create_server(self._protocol, host, port)
        except OSError as error:
            reason = error.strerror or str(error)
            raise ConfigError(f"cannot listen on {host}:{port} for HTTP: {reason}") from error
        bound: int = self._listener.sockets[0].getsockname()[1]
        return bound

    async def stop(self) -> None:
        """Close the port and its connections."""
        if self._listener is not None:
            self._listener.close()
        await self._runner.cleanup()

    def _protocol(self) -> asyncio.Protocol:
        """Make aiohttp's protocol for a new connection, with the bounds that aiohttp leaves to us."""
        server, loop = self._runner.server, asyncio.get_running_loop()
        assert server is not None, "bug: a connection came before the runner was set up"
        protocol = server()
        self._silent[protocol] = loop.call_later(_FIRST_REQUEST_S, self._close_silent, protocol)
        loop.call_soon(loop.call_soon, self._close_if_too_many, protocol)  # after connection_made, which comes next
        return protocol

    def _close_if_too_many(self, protocol: web.RequestHandler) -> None:
        server = self._runner.server
        if server is not None and len(server.connections) > _CONNECTIONS_MAX and protocol.transport is not None:
            protocol.transport.abort()

    def _close_silent(self, protocol: web.RequestHandler) -> None:
        del self._silent[protocol]
        if protocol.transport is not None:
            protocol.transport.abort()

    @web.middleware
    async def _note_request(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if (timer := self._silent.pop(request.protocol, None)) is not None:
            timer.cancel()
        try:
            return await handler(request)
        except web.HTTPException:
            raise
        except Exception:  # noqa: BLE001 - logged, and answered
            _log.exception("an HTTP page could not be made")
            return web.Response(text="the server made a mistake\n", status=500)

    async def _metrics(self, _request: web.Request) -> web.Response:
        return web.Response(body=await self._render_metrics(), headers={"Content-Type": self._metrics_type})

    async def _livez(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, _request: web.Request) -> web.Response:
        reason = self._why_not_ready()
        return web.Response(text=f"{reason or 'ok'}\n", status=503 if reason else 200)
