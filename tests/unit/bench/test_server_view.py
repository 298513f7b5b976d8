from concurrent import futures

import grpc
import numpy as np
import pytest

from bench.server_view import STAGES, ServerView, Snapshot, figures
from bench.slices import ServerFigures
from serving.errors import ConfigError, RemoteError
from serving.pb import open_inference_pb2 as pb
from serving.transport.client import Client
from serving.types import Datatype
from tests.support import graphs
from tests.support.servers import server_thread


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    models = tmp_path_factory.mktemp("models")
    graphs.write_model(models, "affine", graphs.affine())
    with server_thread(models, transport="grpcio") as running:
        yield running


@pytest.fixture
def client(server):
    with Client(server.address) as connected:
        yield connected


def statistics(version="1", *, requests=0, rows=0, batches=(), queue_ns=0):
    """Return ModelStatistics of so many requests, run in (rows, count) batches."""
    entry = pb.ModelStatistics(name="m", version=version, inference_count=rows)
    entry.inference_stats.success.count = requests
    entry.inference_stats.queue.count, entry.inference_stats.queue.ns = requests, queue_ns
    for batch_rows, count in batches:
        entry.execution_count += count
        entry.batch_stats.add(batch_size=batch_rows).compute_infer.count = count
    return entry


def snapshot(*entries, cpu_s=None):
    return Snapshot({entry.version: entry for entry in entries}, cpu_s)


def test_metadata_says_what_the_model_takes(client):
    assert [tensor.name for tensor in ServerView(client, "affine").metadata().inputs] == ["x"]


def test_an_unknown_model_is_refused_with_the_nearest_known(client):
    with pytest.raises(ConfigError, match="no model 'afine'; did you mean 'affine'"):
        ServerView(client, "afine").metadata()


def test_an_unknown_version_is_refused(client):
    with pytest.raises(ConfigError, match="does not serve version '9' of model 'affine'"):
        ServerView(client, "affine", version="9").metadata()


def test_a_server_that_is_not_there_is_said_so():
    with Client("127.0.0.1:1") as client, pytest.raises(RemoteError, match="no server answers"):
        ServerView(client, "affine").metadata()


def test_figures_are_of_the_requests_between_two_snapshots(server, client):
    view = ServerView(client, "affine", host="127.0.0.1", port=server.server.grpc_port)
    assert view.is_local
    rows = {"x": (Datatype.FP32, np.ones((3, 4), np.float32))}
    client.infer("affine", rows)
    before = view.snapshot()
    for _ in range(5):
        client.infer("affine", rows)
    after = view.snapshot()
    result = figures(before, after, requests=5)
    assert (result.mean_batch_rows, result.batch_rows) == (3, {3: 5})
    assert result.stages_us.keys() == set(STAGES)
    assert all(mean_us >= 0 for mean_us in result.stages_us.values())
    assert result.cpu_us_per_request >= 0


def test_stages_are_means_per_request():
    before = snapshot(statistics(requests=10, queue_ns=10_000_000))
    after = snapshot(statistics(requests=14, queue_ns=10_008_000))
    assert figures(before, after, requests=4).stages_us == {"queue": 2.0}


def test_batches_are_counted_by_their_rows():
    before = snapshot(statistics(rows=40, batches=[(1, 8), (32, 1)]))
    after = snapshot(statistics(rows=106, batches=[(1, 10), (32, 3)]))
    result = figures(before, after, requests=1)
    assert (result.batch_rows, result.mean_batch_rows) == ({1: 2, 32: 2}, 66 / 4)


def test_versions_are_added_up_and_one_that_was_loaded_anew_counts_from_0():
    before = snapshot(statistics("1", requests=100, rows=100, batches=[(1, 100)]))
    after = snapshot(statistics("1", requests=4, rows=4, batches=[(1, 4)]),
                     statistics("2", requests=2, rows=4, batches=[(2, 2)]))  # fmt: skip
    assert figures(before, after, requests=6).batch_rows == {1: 4, 2: 2}


def test_cpu_time_is_divided_by_what_the_server_has_counted_or_else_by_what_was_sent():
    before, after = snapshot(statistics(requests=0), cpu_s=1.0), snapshot(statistics(requests=4), cpu_s=1.2)
    assert figures(before, after, requests=100).cpu_us_per_request == pytest.approx(50_000)
    silent = figures(Snapshot(None, 1.0), Snapshot(None, 1.2), requests=100)
    assert silent.cpu_us_per_request == pytest.approx(2000)
    assert figures(Snapshot(None, 1.0), Snapshot(None, None), requests=100) == ServerFigures()


class Bare(grpc.GenericRpcHandler):
    """A server without a single method."""

    def service(self, handler_call_details):
        return None


def test_a_server_without_statistics_tells_nothing():
    server = grpc.server(futures.ThreadPoolExecutor(1), handlers=[Bare()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with Client(f"127.0.0.1:{port}") as client:
            view = ServerView(client, "m")
            assert view.snapshot() == Snapshot(None, None)
            assert figures(view.snapshot(), view.snapshot(), requests=1) == ServerFigures()
            with pytest.raises(RemoteError, match="UNIMPLEMENTED"):
                view.metadata()
    finally:
        server.stop(None).wait()


def test_a_server_that_is_gone_tells_nothing():
    with Client("127.0.0.1:1") as client:
        assert ServerView(client, "m", host="127.0.0.1", port=1).snapshot() == Snapshot(None, None)
