"""A client that goes away costs nobody else an answer."""

import grpc
import numpy as np
import pytest

from tests.support.sessions import DEADLINE_S


def rows(value, count=1):
    return np.full((count, 4), value, np.float32)


def test_a_request_cancelled_while_it_waits_is_never_run(busy):
    server, client, session, first = busy
    futures = [client.send(rows(value)) for value in (1, 2, 3)]
    server.wait_until(lambda: server.queued_rows == 3)
    futures[1].cancel()
    server.wait_until(lambda: server.queued_rows == 2)
    session.let_go()
    for value, future in ((0, first), (1, futures[0]), (3, futures[2])):
        np.testing.assert_array_equal(client.read(future.result(DEADLINE_S)), 2 * rows(value) + 1)
    assert session.served == [1, 2]


def test_a_cancelled_request_does_not_disturb_its_batchmates(busy):
    server, client, session, first = busy
    futures = [client.send(rows(value, value)) for value in (1, 2, 3)]
    server.wait_until(lambda: server.queued_rows == 6)
    session.let_one_go()
    session.wait_until_running()  # all three are in the batch that runs now
    futures[1].cancel()
    server.wait_until(lambda: server.has_noted_a_cancel(in_flight=2))
    session.let_go()
    for value, future in ((1, futures[0]), (3, futures[2])):
        np.testing.assert_array_equal(client.read(future.result(DEADLINE_S)), 2 * rows(value, value) + 1)
    assert session.served == [1, 6]
    assert first.code() is grpc.StatusCode.OK


def test_a_connection_that_closes_takes_its_requests_along(busy, calls):
    server, client, session, _ = busy
    leaving = calls(server.address)
    lost = [leaving.send(rows(value)) for value in (1, 2)]
    server.wait_until(lambda: server.queued_rows == 2)
    stays = client.send(rows(3))
    server.wait_until(lambda: server.queued_rows == 3)
    leaving.close()
    server.wait_until(lambda: server.queued_rows == 1)
    session.let_go()
    np.testing.assert_array_equal(client.read(stays.result(DEADLINE_S)), 2 * rows(3) + 1)
    assert session.served == [1, 1]
    assert all(future.done() for future in lost)


@pytest.mark.parametrize("count", [1, 100])
def test_a_stream_that_is_cancelled_takes_its_requests_along(busy, count):
    server, client, session, first = busy
    stream = client.stream(iter([client.message(rows(value)) for value in range(count)]))
    server.wait_until(lambda: server.queued_rows == min(count, 64))
    stream.cancel()
    server.wait_until(lambda: server.in_flight == 1)
    assert server.call(lambda: server.queued_rows) == 0
    session.let_go()
    assert first.result(DEADLINE_S)
