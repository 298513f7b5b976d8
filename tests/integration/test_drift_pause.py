"""Counting for drift, paused and resumed by an operator, on the real server."""

import json
import subprocess
import sys
import urllib.request

import numpy as np
import pytest

from serving.errors import RemoteError
from serving.pb import penstock_pb2 as pb
from serving.transport.client import Client
from serving.transport.monitor import MONITOR_SERVICE
from serving.types import Datatype
from tests.support import graphs
from tests.support.servers import TRANSPORTS, server_thread

REFERENCE_ROWS = 100


def publish(folder, name, **drift):
    graphs.write_model(folder, name, graphs.affine())
    table = {"reference_rows": REFERENCE_ROWS, "overhead_max": 1.0} | drift
    lines = "\n".join(f"{key} = {str(value).lower()}" for key, value in table.items())
    (folder / name / "model.toml").write_text(f"[drift]\n{lines}\n")


def send(server, rows, model="affine"):
    with Client(server.address) as client:
        client.infer(model, {"x": (Datatype.FP32, np.random.default_rng(0).normal(size=(rows, 4)).astype(np.float32))})


def pause(server, pause_s, name="affine", version=""):
    request = pb.DriftPauseRequest(name=name, version=version, pause_s=pause_s)
    with Client(server.address) as client:
        return client.call("DriftPause", request, pb.DriftPauseResponse, service=MONITOR_SERVICE).versions


def report_of(server, version="1"):
    with Client(server.address) as client:
        request = pb.DriftReportRequest(name="affine", version=version)
        answer = client.call("DriftReport", request, pb.DriftReportResponse, service=MONITOR_SERVICE)
    (servable,) = answer.servables
    return servable


def shown_as_paused(server):
    with urllib.request.urlopen(f"{server.http}/metrics") as page:
        (line,) = [line for line in page.read().decode().splitlines() if line.startswith("penstock_drift_paused{")]
    return float(line.split()[-1])


def drift(server, command, *arguments):
    command = [sys.executable, "-m", "serving", "drift", command, "--address", server.address, "--model", "affine"]
    result = subprocess.run([*command, *arguments], capture_output=True, text=True, check=True)
    return result.stdout


@pytest.fixture
def served(repository):
    publish(repository, "affine")
    publish(repository, "unwatched", enabled=False)
    graphs.write_model(repository, "broken", graphs.affine())
    (repository / "broken" / "1" / "model.onnx").write_bytes(b"no graph")
    with server_thread(repository) as server:
        send(server, REFERENCE_ROWS)
        assert report_of(server).phase == "watching"
        yield server


@pytest.mark.parametrize("transport", TRANSPORTS.values(), ids=TRANSPORTS)
def test_no_rows_are_counted_until_somebody_resumes(repository, transport):
    publish(repository, "affine")
    with server_thread(repository, **transport) as server:
        send(server, REFERENCE_ROWS)
        before = report_of(server)
        assert drift(server, "pause", "--for-s", "600") == "affine/1: rows are not counted for the next 600 s\n"
        send(server, 50)
        paused = report_of(server)
        assert (paused.rows, paused.rows_seen) == (before.rows, before.rows_seen)
        assert 500 < paused.paused_s <= 600
        assert "; paused: no rows are counted for " in drift(server, "report")
        assert shown_as_paused(server) == 1
        assert drift(server, "resume") == "affine/1: rows are counted again\n"
        send(server, 50)
        after = report_of(server)
        assert (after.rows, after.rows_seen, after.paused_s) == (before.rows + 50, before.rows_seen + 50, 0)
        assert shown_as_paused(server) == 0


def test_one_version_can_be_paused_and_all_can_be_resumed(repository):
    publish(repository, "affine")
    graphs.write_model(repository, "affine", graphs.affine(), version=2)
    table = repository / "affine" / "model.toml"
    table.write_text(f'version_policy = "all"\n{table.read_text()}')
    with server_thread(repository) as server:
        paused = json.loads(drift(server, "pause", "--version", "1", "--for-s", "600", "--json", "-"))
        assert paused == {"model": "affine", "versions": ["1"], "paused_s": 600}
        assert [report_of(server, version=version).paused_s > 0 for version in ("1", "2")] == [True, False]
        resumed = json.loads(drift(server, "resume", "--json", "-"))
        assert resumed == {"model": "affine", "versions": ["1", "2"], "paused_s": 0}
        assert [report_of(server, version=version).paused_s for version in ("1", "2")] == [0, 0]


def test_rows_count_again_when_the_time_is_over(served):
    before = report_of(served).rows
    assert pause(served, 600) == ["1"]
    send(served, 10)
    assert report_of(served).rows == before
    assert pause(served, 1e-9) == ["1"]
    send(served, 20)
    assert report_of(served).rows == before + 20


def test_a_reference_is_not_made_of_rows_that_come_while_it_is_paused(repository):
    publish(repository, "affine")
    with server_thread(repository) as server:
        pause(server, 60)
        assert shown_as_paused(server) == 1
        send(server, REFERENCE_ROWS)
        assert report_of(server).phase == "collecting"
        pause(server, 0)
        send(server, REFERENCE_ROWS)
        assert report_of(server).phase == "watching"


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"pause_s": -1}, "INVALID_ARGUMENT: pause_s is -1.0, expected 0 to 86400; 0 goes on counting"),
        ({"pause_s": float("nan")}, "INVALID_ARGUMENT: pause_s is nan"),
        ({"pause_s": float("inf")}, "INVALID_ARGUMENT: pause_s is inf"),
        ({"pause_s": 86_400.01}, "INVALID_ARGUMENT: pause_s is 86400.01, expected"),
        ({"name": ""}, "INVALID_ARGUMENT: name is empty"),
        ({"name": "nobody"}, "NOT_FOUND: unknown model 'nobody'"),
        ({"version": "7"}, "NOT_FOUND"),
        ({"name": "unwatched"}, "INVALID_ARGUMENT: model 'unwatched' is not watched for drift; its .drift. table"),
        ({"name": "broken"}, "UNAVAILABLE: model 'broken' has no ready version; version 1: .*model.onnx"),
    ],
)
def test_a_pause_that_cannot_be_is_one_clear_line(served, asked, message):
    with pytest.raises(RemoteError, match=message):
        pause(served, **({"pause_s": 60} | asked))
    assert report_of(served).paused_s == 0


def test_a_pause_is_for_those_who_may_load_models(repository):
    publish(repository, "affine")
    with server_thread(repository, control_plane="off") as server:
        with pytest.raises(RemoteError, match="PERMISSION_DENIED: the control plane of this server is open to nobody"):
            pause(server, 60)
        assert report_of(server).paused_s == 0
