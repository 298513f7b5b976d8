"""Posts alarms to a URL that the operator names, signed, and again for a while when nobody takes them."""

import asyncio
import hashlib
import hmac
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Self

import aiohttp

from serving.clock import Clock, MonotonicClock
from serving.config import ServerConfig
from serving.errors import ConfigError

SIGNATURE_HEADER = "X-Penstock-Signature"
WAITING_MAX = 64
"""Alarms that wait to be posted; of further ones only the log tells."""
PAUSES_S = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Between attempts; after the last one an alarm is given up."""
_TIMEOUT_S = 10.0
_KEY_BYTES_MAX = 4096
_log = logging.getLogger(__name__)

Sleep = Callable[[float], Awaitable[None]]


def sign(key: bytes, sent_s: int, body: bytes) -> str:
    """Return the header's value: when it was signed, and the HMAC-SHA256 of that, a point and the body."""
    digest = hmac.new(key, f"{sent_s}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={sent_s},v1={digest}"


class Webhook:
    """One URL. `send` never waits; `run` posts one alarm after the other. Lives on the I/O thread."""

    def __init__(
        self, url: str, key: bytes, *, clock: Clock | None = None, sleep: Sleep = asyncio.sleep
    ) -> None:  # fmt: skip
        self._url = url
        self._key = key
        self._clock = clock or MonotonicClock()
        self._sleep = sleep
        self._waiting: asyncio.Queue[bytes] = asyncio.Queue(WAITING_MAX)

    @classmethod
    def of(cls, config: ServerConfig) -> Self:
        """Make the webhook that the configuration names, or one that posts nothing. Raises ConfigError."""
        if config.drift_webhook and not config.drift_webhook.startswith(("http://", "https://")):
            raise ConfigError(f"drift_webhook = {config.drift_webhook!r}, expected an http or https URL")
        return cls(
            config.drift_webhook,
            read_key(Path(config.drift_webhook_key), "drift_webhook_key") if config.drift_webhook_key else b"",
        )

    def send(self, facts: Mapping[str, Any]) -> None:
        """Have an alarm posted."""
        if not self._url:
            return
        body = json.dumps({**facts, "sent_s": self._clock.wall_ns() // 1_000_000_000}).encode()
        try:
            self._waiting.put_nowait(body)
        except asyncio.QueueFull:
            _log.error("%d alarms wait for the webhook already; this one is not posted", WAITING_MAX)

    async def run(self) -> None:
        """Post what was sent until cancelled."""
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            while True:
                await self._deliver(session, await self._waiting.get())

    async def _deliver(self, session: aiohttp.ClientSession, body: bytes) -> None:
        failure = await self._post(session, body)
        for pause_s in PAUSES_S:
            if not failure:
                return
            await self._sleep(pause_s)
            failure = await self._post(session, body)
        if failure:
            _log.error("an alarm could not be posted to the webhook: %s", failure)

    async def _post(self, session: aiohttp.ClientSession, body: bytes) -> str:
        """Post once; return why it was not taken, nothing when it was."""
        headers = {"Content-Type": "application/json"}
        if self._key:  # signed anew each time, so that a receiver can refuse what is old
            headers[SIGNATURE_HEADER] = sign(self._key, self._clock.wall_ns() // 1_000_000_000, body)
        try:
            async with session.post(self._url, data=body, headers=headers, allow_redirects=False) as answer:
                return "" if 200 <= answer.status < 300 else f"status {answer.status}"
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            return f"{type(error).__name__}: {error}"


def read_key(place: Path, option: str) -> bytes:
    """Read the secret that signs alarms; `option` is what named it. Raises ConfigError."""
    try:
        with place.open("rb") as file:
            key = file.read(_KEY_BYTES_MAX + 1).strip()
    except OSError as error:
        raise ConfigError(f"{option} {place} cannot be read: {error.strerror}") from None
    if not 16 <= len(key) <= _KEY_BYTES_MAX:
        raise ConfigError(f"{option} {place} holds {len(key)} bytes, expected 16 to {_KEY_BYTES_MAX}")
    return key
