"""Stock grpcio with asyncio, on each transport."""

import sys

import pytest

from tests.support.stock_clients import CLIENTS, ROOT, run_session


@pytest.fixture(scope="module")
def facts(stock_server):
    script = CLIENTS / "grpcio_aio_session.py"
    found = run_session(sys.executable, "-W", "error", script, stock_server.address, PYTHONPATH=str(ROOT))
    stock_server.wait_until(lambda: stock_server.in_flight == 0)
    return found


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
