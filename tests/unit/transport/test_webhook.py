"""Alarms reach a real HTTP server, signed; a server that fails gets them again, for a while."""

import asyncio
import hashlib
import hmac
import json
import logging

import pytest
from aiohttp import web

from serving.config import ServerConfig
from serving.errors import ConfigError
from serving.transport.webhook import PAUSES_S, SIGNATURE_HEADER, WAITING_MAX, Webhook
from tests.support.clocks import FakeClock

KEY = b"a secret of 16 or more bytes"


class Receiver:
    """An HTTP server that answers with these statuses, one after the other, and then with 200."""

    def __init__(self, *statuses):
        self.statuses, self.bodies, self.signatures, self.pauses = list(statuses), [], [], []
        self.answered = asyncio.Event()

    async def handle(self, request):
        self.bodies.append(await request.read())
        self.signatures.append(request.headers.get(SIGNATURE_HEADER))
        status = self.statuses.pop(0) if self.statuses else 200
        if status == 200:
            self.answered.set()
        return web.Response(status=status)

    async def sleep(self, seconds):
        self.pauses.append(seconds)
        if len(self.pauses) == len(PAUSES_S):
            self.answered.set()


def deliver(receiver_of, *alarms, key=KEY):
    """Send alarms through a webhook to a receiver until it has taken one, or the webhook gives up."""

    async def run():
        receiver = receiver_of()
        app = web.Application()
        app.router.add_post("/alarm", receiver.handle)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = site._server.sockets[0].getsockname()[1]
        webhook = Webhook(f"http://127.0.0.1:{port}/alarm", key, clock=FakeClock(), sleep=receiver.sleep)
        task = asyncio.create_task(webhook.run())
        for alarm in alarms:
            webhook.send(alarm)
        await asyncio.wait_for(receiver.answered.wait(), 30)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await runner.cleanup()
        return receiver

    return asyncio.run(run())


def test_an_alarm_is_posted_as_json_with_a_signature_that_the_receiver_can_check():
    receiver = deliver(Receiver, {"model": "m"})
    assert json.loads(receiver.bodies[0])["model"] == "m"
    stamp, digest = (part.partition("=")[2] for part in receiver.signatures[0].split(","))
    expected = hmac.new(KEY, stamp.encode() + b"." + receiver.bodies[0], hashlib.sha256).hexdigest()
    assert digest == expected
    assert json.loads(receiver.bodies[0])["sent_s"] == int(stamp)


def test_without_a_key_nothing_is_signed():
    assert deliver(Receiver, {}, key=b"").signatures == [None]


def test_a_receiver_that_fails_gets_the_same_body_again_later():
    receiver = deliver(lambda: Receiver(500, 302), {"model": "m"})
    assert len(set(receiver.bodies)) == 1
    assert len(receiver.bodies) == 3
    assert receiver.pauses == list(PAUSES_S[:2])


def test_an_alarm_that_nobody_takes_is_given_up():
    receiver = deliver(lambda: Receiver(*[503] * 50), {"model": "m"})
    assert receiver.pauses == list(PAUSES_S)


def test_alarms_that_wait_are_bounded(caplog):
    async def run():
        webhook = Webhook("http://127.0.0.1:1/", b"")
        for _ in range(WAITING_MAX + 1):
            webhook.send({})

    with caplog.at_level(logging.ERROR):
        asyncio.run(run())
    assert "is not posted" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"drift_webhook": "ftp://x"}, "expected an http or https URL"),
        ({"drift_webhook": "http://x", "drift_webhook_key": "/nowhere"}, "cannot be read"),
    ],
)
def test_options_that_cannot_be_used_are_refused_at_the_start(options, message):
    with pytest.raises(ConfigError, match=message):
        Webhook.of(ServerConfig(**options))


def test_a_short_key_is_refused(tmp_path):
    (tmp_path / "key").write_text("short")
    with pytest.raises(ConfigError, match="expected 16 to"):
        Webhook.of(ServerConfig(drift_webhook="http://x", drift_webhook_key=str(tmp_path / "key")))
