"""A model that does not load is unavailable with one clear line, and others serve."""

import numpy as np
import pytest

from serving.pb import open_inference_pb2 as pb
from serving.transport.client import Client
from serving.types import Datatype
from tests.support import graphs
from tests.support.servers import server_thread

TENTHS = range(10)


def index_of(client):
    answer = client.call("RepositoryIndex", pb.RepositoryIndexRequest(), pb.RepositoryIndexResponse)
    return {entry.name: (entry.state, entry.reason) for entry in answer.models}


def write_raw(repository, name, content):
    folder = repository / name / "1"
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(content)


@pytest.fixture
def broken(repository):
    """A repository with one good model, and the same one broken in many ways."""
    whole = graphs.affine()
    graphs.write_model(repository, "good", whole)
    for tenth in TENTHS:
        write_raw(repository, f"cut_at_{tenth}", whole[: len(whole) * tenth // 10])
    rng = np.random.default_rng(3)
    write_raw(repository, "noise", rng.bytes(len(whole)))
    write_raw(repository, "text", b"<html>404 not found</html>")
    write_raw(repository, "pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    (repository / "folder" / "1" / "model.onnx").mkdir(parents=True)
    return repository


def test_broken_files_are_unavailable_with_one_line_while_a_good_one_serves(broken, caplog):
    with server_thread(broken) as server, Client(server.address) as client:
        _, outputs = client.infer("good", {"x": (Datatype.FP32, np.ones((1, 4), np.float32))})
        index = index_of(client)
    assert outputs["y"].tolist() == [[3, 3, 3, 3]]
    assert index.pop("good") == ("READY", "")
    assert len(index) == len(TENTHS) + 4
    for name, (state, reason) in index.items():
        assert state == "UNAVAILABLE", name
        assert reason, name
        assert "\n" not in reason
        assert f"{name}/1: not loaded: {reason}" in caplog.text
        assert "Traceback" not in reason


def test_a_model_is_served_again_once_its_file_is_mended(broken):
    with server_thread(broken, poll_interval_s=0.05) as server, Client(server.address) as client:
        assert index_of(client)["cut_at_5"][0] == "UNAVAILABLE"
        draft = broken / "cut_at_5" / ".draft"
        draft.write_bytes(graphs.affine())
        draft.replace(broken / "cut_at_5" / "1" / "model.onnx")
        server.wait_until(lambda: server.server._repository.ready_versions("cut_at_5") == [1])
        _, outputs = client.infer("cut_at_5", {"x": (Datatype.FP32, np.ones((1, 4), np.float32))})
    assert outputs["y"].tolist() == [[3, 3, 3, 3]]
