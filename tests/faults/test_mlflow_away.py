"""A server that follows an alias of MLflow outlives it: MLflow wrong, down, and with a model that does not load."""

import numpy as np
import pytest

from serving.errors import ConfigError
from serving.transport.client import Client
from serving.types import Datatype
from tests.support import graphs
from tests.support.mlflow_answers import answering, mlmodel
from tests.support.servers import server_thread

ROWS = np.arange(8, dtype=np.float32).reshape(2, 4)


@pytest.fixture
def answers():
    with answering() as started:
        for number in (1, 2, 3):
            graph = graphs.affine(scale=float(number)) if number < 3 else b"not a graph"
            started.register("affine", number, {"MLmodel": mlmodel(), "model.onnx": graph})
        started.aliases["affine", "production"] = "1"
        yield started


@pytest.fixture
def options(answers, tmp_path):
    return {"registry": answers.uri, "registry_cache": str(tmp_path / "cache"), "registry_interval_s": 0.0,
            "model": ("models:/affine@production",)}  # fmt: skip


def scale_of(client):
    response, outputs = client.infer("affine", {"x": (Datatype.FP32, ROWS)})
    scale = float((outputs["y"][1, 3] - 1) / ROWS[1, 3])
    assert str(int(scale)) == response.model_version
    return scale


def look(server):
    server.complete(server.server._look_at_aliases(server.server._aliases))


def test_what_serves_goes_on_serving_whatever_mlflow_does(answers, tmp_path, options, caplog):
    with server_thread(tmp_path / "none", **options) as server, Client(server.address) as client:
        assert scale_of(client) == 1
        answers.answers["mlflow/"] = (500, {}, b"")
        look(server)
        assert scale_of(client) == 1
        assert "answers 500; what serves goes on serving" in caplog.text
        answers.answers.clear()
        answers.aliases["affine", "production"] = "3"
        look(server)
        assert scale_of(client) == 1
        assert "affine/3 of MLflow cannot be served" in caplog.text
        answers.aliases["affine", "production"] = "2"
        look(server)
        assert scale_of(client) == 2
        answers.aliases.clear()
        look(server)
        assert scale_of(client) == 2


def test_a_server_that_starts_while_mlflow_is_down_serves_from_its_cache(answers, tmp_path, options):
    with server_thread(tmp_path / "none", **options) as server, Client(server.address) as client:
        assert scale_of(client) == 1
    answers.answers[""] = (503, {}, b"")
    with server_thread(tmp_path / "none", **options) as server, Client(server.address) as client:
        assert scale_of(client) == 1


def test_another_mlflow_server_has_a_cache_of_its_own(answers, tmp_path, options):
    with server_thread(tmp_path / "none", **options):
        pass
    with server_thread(tmp_path / "none", **{**options, "registry": f"{answers.uri}/other"}) as server:
        assert server.call(server.server.why_not_ready) == "no model has a ready version"


def test_a_damaged_copy_is_fetched_again(answers, tmp_path, options):
    with server_thread(tmp_path / "none", **options):
        pass
    (copy,) = (tmp_path / "cache").glob("*/affine@production/1-*")
    (copy / "index.json").write_text("{}")
    with server_thread(tmp_path / "none", **options) as server, Client(server.address) as client:
        look(server)
        assert scale_of(client) == 1


def test_a_uri_that_names_no_server_is_refused_at_the_start(tmp_path, options):
    with (
        pytest.raises(ConfigError, match="credentials"),
        server_thread(tmp_path / "none", **{**options, "registry": "mlflow+http://ada:x@host"}),
    ):
        pass
