"""A request whose time is over is answered at once, and costs no run of the model."""

import grpc
import numpy as np
import pytest

from tests.support.metrics import counter
from tests.support.sessions import DEADLINE_S

ROWS = np.ones((5, 4), np.float32)


def test_a_timeout_parameter_expires_while_the_instance_is_busy(busy):
    server, client, session, first = busy
    future = client.send(ROWS, timeout_us=20_000)
    with pytest.raises(grpc.RpcError) as caught:
        future.result(DEADLINE_S)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert "the deadline passed" in caught.value.details()
    assert server.call(lambda: (server.queued_rows, server.in_flight)) == (0, 1)
    session.let_go()
    first.result(DEADLINE_S)
    assert session.served == [1]
    assert counter(server, "penstock_batches_total", model="affine") == 1
    assert counter(server, "penstock_requests_total", code="DEADLINE_EXCEEDED", reason="deadline") == 1


def test_the_deadline_of_the_call_counts_too(busy):
    server, client, session, first = busy
    future = client.send(ROWS, deadline_s=0.5)
    server.wait_until(lambda: server.queued_rows == 5)
    with pytest.raises(grpc.RpcError) as caught:
        future.result(DEADLINE_S)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    server.wait_until(lambda: server.queued_rows == 0)
    session.let_go()
    first.result(DEADLINE_S)
    assert session.served == [1]


def test_a_request_that_expires_while_it_runs_leaves_its_batchmates_alone(busy):
    server, client, session, _ = busy
    late, timely = client.send(ROWS, timeout_us=500_000), client.send(ROWS)
    server.wait_until(lambda: server.queued_rows == 10)
    session.let_one_go()
    session.wait_until_running()
    with pytest.raises(grpc.RpcError) as caught:
        late.result(DEADLINE_S)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    session.let_go()
    np.testing.assert_array_equal(client.read(timely.result(DEADLINE_S)), 2 * ROWS + 1)
