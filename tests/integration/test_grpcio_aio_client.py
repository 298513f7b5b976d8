"""Stock grpcio with asyncio, on each transport."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).parent / "clients" / "grpcio_aio_session.py"
SESSION_TIMEOUT_S = 240


@pytest.fixture(scope="module")
def facts(stock_server):
    done = subprocess.run(
        [sys.executable, "-W", "error", str(SCRIPT), stock_server.address],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=SESSION_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    stock_server.wait_until(lambda: stock_server.in_flight == 0)
    return json.loads(done.stdout)


def test_many_requests_over_several_connections_get_their_own_answers(facts):
    assert facts["many"] == 1000


def test_streams_answer_every_request(facts):
    assert facts["stream"] == [2.0 * k + 1 for k in range(100)]
    assert facts["interleaved stream"] == [*(2.0 * k + 1 for k in range(20)), True]


def test_large_and_compressed_messages_are_read(facts):
    assert facts["large"]
    assert facts["compressed"] == [15.0] * 3


def test_deadlines_mistakes_and_cancellation_end_as_they_should(facts):
    assert facts["deadline"] == "DEADLINE_EXCEEDED"
    assert facts["mistake"] == "NOT_FOUND"
    assert facts["cancelled"] == ["CANCELLED"] * 10
    assert facts["after"] == [3.0] * 4
