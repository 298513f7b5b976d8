"""Stock @grpc/grpc-js, which shares no code with grpcio, on each transport."""

import shutil

import grpc
import pytest

from tests.support.environments import Missing, node_modules
from tests.support.stock_clients import CLIENTS, ROOT, run_session

PACKAGES = "@grpc/grpc-js@^1.13.0", "@grpc/proto-loader@^0.8.0"


@pytest.fixture(scope="module")
def facts(stock_server, tmp_path_factory):
    try:
        modules = node_modules(*PACKAGES)
    except Missing as reason:
        pytest.skip(str(reason))
    folder = tmp_path_factory.mktemp("protos")
    shutil.copytree(ROOT / "protos", folder / "serving" / "pb")
    script = CLIENTS / "grpc_js_session.js"
    found = run_session("node", script, stock_server.address, folder, NODE_PATH=str(modules), no_proxy="*")
    stock_server.wait_until(lambda: stock_server.in_flight == 0)
    return found


def test_many_requests_over_several_connections_get_their_own_answers(facts):
    assert facts["many"] == 1000


def test_a_stream_answers_every_request(facts):
    assert sorted(facts["stream"]) == [2.0 * k + 1 for k in range(100)]


def test_compressed_and_large_messages_are_read(facts):
    assert (facts["gzip"], facts["deflate"]) == (15.0, 15.0)
    assert facts["large"]


def test_metadata_is_taken_up_to_its_bound(facts):
    assert (facts["metadata"], facts["large metadata"]) == (15.0, 15.0)
    assert facts["too large metadata"] == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]


def test_deadlines_mistakes_and_cancellation_end_as_they_should(facts):
    assert facts["deadline"] == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
    code, message = facts["mistake"]
    assert code == grpc.StatusCode.NOT_FOUND.value[0]
    assert "unknown model 'nobody'" in message
    assert facts["cancelled"] == [grpc.StatusCode.CANCELLED.value[0]] * 10
    assert facts["after"] == 15.0
