"""Takes the alarms that servers post to a webhook, for a command that waits for them.

The other end of `transport.webhook`. Knows what an alarm looks like on the wire, not what it means.
"""

import asyncio
import hmac
import json
import queue
import re
import threading
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from serving.clock import Clock, MonotonicClock
from serving.errors import ConfigError
from serving.transport.webhook import SIGNATURE_HEADER, sign

BODY_BYTES_MAX = 1 << 20
WAITING_MAX = 16
"""Alarms that wait to be taken; further ones are answered with 503, and posted again by the server."""
AGE_S_MAX = 300
"""A signature is refused when it is so much older, or younger, than now."""
_SIGNATURE = re.compile(r"t=(\d{1,12}),v1=([0-9a-f]{64})")


class AlarmListener:
    """Listens at HOST:PORT for POSTs of JSON objects. Use it in a `with`; `wait` is for the thread that entered it.

    With a key, what it has not signed is refused. A thread of its own runs the event loop.
    """

    def __init__(self, host: str, port: int, *, key: bytes = b"", clock: Clock | None = None) -> None:
        self._host, self._port, self._key = host, port, key
        self._clock = clock or MonotonicClock()
        self._alarms: queue.Queue[dict[str, Any]] = queue.Queue(WAITING_MAX)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="alarms", daemon=True)
        self._runner: web.AppRunner | None = None
        self.address = ""

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()
        except OSError as error:
            self._stop()
            raise ConfigError(f"cannot listen at {self._host}:{self._port}: {error.strerror}") from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def wait(self, timeout_s: float) -> dict[str, Any] | None:
        """Return the next alarm, None when none has come in this time."""
        try:
            return self._alarms.get(timeout=timeout_s)
        except queue.Empty:
            return None

    async def _start(self) -> None:
        application = web.Application(client_max_size=BODY_BYTES_MAX)
        application.router.add_post("/", self._take)
        self._runner = web.AppRunner(application, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, self._port)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.address = f"{host}:{port}"

    async def _take(self, request: web.Request) -> web.Response:
        body = await request.read()
        if self._key and not self._is_signed(request.headers.get(SIGNATURE_HEADER, ""), body):
            return web.Response(status=401, text=f"{SIGNATURE_HEADER} is missing, old, or of another key\n")
        try:
            facts = json.loads(body)
        except (ValueError, RecursionError):
            facts = None
        if not isinstance(facts, dict):
            return web.Response(status=400, text="expected a JSON object, as a server posts it\n")
        try:
            self._alarms.put_nowait(facts)
        except queue.Full:
            return web.Response(status=503, text="too many alarms wait\n")
        return web.Response(status=202)

    def _is_signed(self, header: str, body: bytes) -> bool:
        match = _SIGNATURE.fullmatch(header)
        if match is None or abs(self._clock.wall_ns() // 1_000_000_000 - int(match[1])) > AGE_S_MAX:
            return False
        return hmac.compare_digest(header, sign(self._key, int(match[1]), body))

    def _stop(self) -> None:
        if self._runner is not None:
            asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
