"""The load generator on the real server: both count the same."""

import numpy as np
import pytest

from bench.generator import Generator
from bench.slices import ClosedLoop, OpenLoop, Slice, Target
from serving.pb import open_inference_pb2 as pb
from serving.transport.client import Client, infer_message
from serving.types import Datatype
from tests.support import graphs
from tests.support.servers import TRANSPORTS, server_process


def statistics(address: str) -> tuple[int, int]:
    """Rows answered, and requests failed, as the server counts them."""
    with Client(address) as client:
        answer = client.call("ModelStatistics", pb.ModelStatisticsRequest(), pb.ModelStatisticsResponse)
    (model,) = answer.model_stats
    return model.inference_stats.success.count, model.inference_stats.fail.count


def row(width: int) -> bytes:
    return infer_message("affine", {"x": (Datatype.FP32, np.ones((1, width), np.float32))}).SerializeToString()


@pytest.mark.parametrize("client", ["native", "grpcio"])
@pytest.mark.parametrize("transport", sorted(TRANSPORTS))
def test_generator_and_server_count_the_same(tmp_path, transport, client):
    graphs.write_model(tmp_path, "affine", graphs.affine())
    with server_process(tmp_path, **TRANSPORTS[transport]) as server:
        host, _, port = server.address.rpartition(":")
        with Generator(
            [Target(host, int(port))], [[row(4), row(4), row(5)]], client=client, connections=3
        ) as generator:
            opened = generator.run(Slice(load=OpenLoop(rate_per_s=300, duration_s=1.0)), lambda _: None)
            after_opened = statistics(server.address)
            closed = generator.run(Slice(load=ClosedLoop(concurrency=7, duration_s=0.5)), lambda _: None)
        after_closed = statistics(server.address)
    for recording in (opened, closed):
        total = recording.total
        assert (recording.failure, recording.unanswered, recording.unsent) == (None, 0, 0)
        assert total.sent == total.answered + total.errors["INVALID_ARGUMENT"]
        # The order of the messages is seeded: the one of a wrong width is the first, second or last of three.
        assert total.errors["INVALID_ARGUMENT"] in {total.sent // 3, total.sent // 3 + 1}
    assert opened.total.answered == after_opened[0]
    assert closed.total.answered == after_closed[0] - after_opened[0]
