"""What listens for alarms takes what a server posts with the same key, and nothing else."""

import asyncio
import io
import json

import aiohttp
import pytest

from serving.errors import ConfigError
from serving.transport import alarm_listener
from serving.transport.alarm_listener import AlarmListener
from serving.transport.webhook import SIGNATURE_HEADER, Webhook, sign
from tests.support.clocks import FakeClock

KEY = b"a key of sixteen bytes"
NOW_S = 1_800_000_000


def post(listener, body, **headers):
    async def run():
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"http://{listener.address}/", data=io.BytesIO(body), headers=headers) as answer,
        ):
            return answer.status

    return asyncio.run(run())


@pytest.fixture
def listener():
    with AlarmListener("127.0.0.1", 0) as listening:
        yield listening


def test_what_the_servers_own_webhook_posts_is_taken():
    with AlarmListener("127.0.0.1", 0, key=KEY) as listening:

        async def deliver():
            webhook = Webhook(f"http://{listening.address}/", KEY)
            webhook.send({"model": "m"})
            task = asyncio.create_task(webhook.run())
            await asyncio.to_thread(lambda: received.append(listening.wait(60)))
            task.cancel()

        received = []
        asyncio.run(deliver())
    assert received[0]["model"] == "m"


@pytest.mark.parametrize(
    "header",
    [
        "",
        "t=1",
        sign(b"another key of sixteen", NOW_S, b"{}"),
        sign(KEY, NOW_S - 301, b"{}"),
        sign(KEY, NOW_S, b"[]"),
        "t=é",
    ],
)
def test_what_the_key_has_not_signed_lately_is_refused(header):
    clock = FakeClock()
    clock.wall_ns = lambda: NOW_S * 1_000_000_000
    with AlarmListener("127.0.0.1", 0, key=KEY, clock=clock) as listening:
        assert post(listening, b"{}", **{SIGNATURE_HEADER: header}) == 401
        assert listening.wait(0) is None
        assert post(listening, b"{}", **{SIGNATURE_HEADER: sign(KEY, NOW_S - 299, b"{}")}) == 202


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff", b"[" * 100_000])
def test_what_is_no_object_is_refused(listener, body):
    assert post(listener, body) == 400


def test_a_body_and_a_queue_are_bounded(listener):
    assert post(listener, b"x" * (alarm_listener.BODY_BYTES_MAX + 1)) == 413
    statuses = [post(listener, json.dumps({"n": n}).encode()) for n in range(alarm_listener.WAITING_MAX + 1)]
    assert statuses == [202] * alarm_listener.WAITING_MAX + [503]
    assert listener.wait(0) == {"n": 0}


def test_a_port_that_is_taken_is_one_clear_error(listener):
    host, _, port = listener.address.rpartition(":")
    with pytest.raises(ConfigError, match="cannot listen at"), AlarmListener(host, int(port)):
        pass
