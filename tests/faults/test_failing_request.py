"""A request that the model cannot compute fails alone, in a batch with others."""

import grpc
import numpy as np
import pytest

from tests.support import graphs
from tests.support.servers import server_thread
from tests.support.sessions import DEADLINE_S, NATURAL


@pytest.mark.parametrize("bad", [0, 3, 6])
def test_an_index_beyond_the_table_fails_its_own_request_only(repository, held, calls, bad, transport):
    graphs.write_model(repository, "lookup", graphs.lookup(), config=NATURAL)
    with server_thread(repository, inline_us_max=0, **transport) as server:
        (session,) = held
        client = calls(server.address)

        def send(index):
            return client.send(np.array([index]), name="index", datatype="INT64", model="lookup")

        session.hold()
        first = send(0)
        session.wait_until_running()
        futures = [send(10**6 if index == bad else index) for index in range(7)]
        server.wait_until(lambda: server.queued_rows == 7)
        session.let_go()
        table = np.arange(40, dtype=np.float32).reshape(10, 4)
        first.result(DEADLINE_S)
        for index, future in enumerate(futures):
            if index == bad:
                error = future.exception(DEADLINE_S)
                assert error.code() is grpc.StatusCode.INTERNAL
                assert error.details() == "model 'lookup' failed to compute this request"
            else:
                np.testing.assert_array_equal(client.read(future.result(DEADLINE_S)), table[index : index + 1])
        busy, together, *again = session.served
        assert (busy, together) == (1, 7)
        assert len(again) <= 2 * 3 + 2
