"""At `requests_in_flight_max` inference is refused with a time to come back, and everything else still answers."""

import grpc

from serving.pb import open_inference_pb2 as pb
from serving.transport.client import Client
from serving.transport.status import RETRY_PUSHBACK
from tests.faults.conftest import DEADLINE_S, rows
from tests.support import graphs
from tests.support.servers import server_thread


def test_inference_is_refused_with_a_reason_and_health_still_answers(repository, held, calls, transport):
    graphs.write_model(repository, "affine", graphs.affine())
    with server_thread(repository, requests_in_flight_max=1, inline_us_max=0, **transport) as server:
        (session,) = held
        client = calls(server.address)
        session.hold()
        first = client.send(rows(1))
        session.wait_until_running()
        refused = client.send(rows(2)).exception(DEADLINE_S)
        assert refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "requests_in_flight_max = 1" in refused.details()
        assert int(dict(refused.trailing_metadata())[RETRY_PUSHBACK]) >= 1
        with Client(server.address) as other:
            assert other.call("ServerLive", pb.ServerLiveRequest(), pb.ServerLiveResponse).live
        session.let_go()
        assert client.read(first.result(DEADLINE_S)).tolist() == [[3.0] * 4]
