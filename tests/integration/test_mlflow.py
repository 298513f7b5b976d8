"""A model that an MLflow user registered is served from there: a real MLflow server, a real user, a real client."""

import contextlib
import os
import re
import subprocess
import threading
from collections import deque
from pathlib import Path

import numpy as np
import pytest

from serving.transport.client import Client
from serving.types import Datatype
from tests.support.environments import environment
from tests.support.servers import server_process, server_thread

pytestmark = pytest.mark.slow

USER = Path(__file__).parents[1] / "support" / "mlflow_user.py"
ROWS = np.arange(128, dtype=np.float32).reshape(2, 64)
STARTED = re.compile(r"Uvicorn running on (http://127\.0\.0\.1:[1-9]\d*)")


@pytest.fixture(scope="module")
def python():
    try:
        return environment("mlflow>=3.1,<4", "onnx>=1.19,<2", "onnxruntime>=1.23,<2")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"mlflow cannot be installed here: {error}")


@contextlib.contextmanager
def process(*command, **options):
    variables = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    variables |= {"GIT_PYTHON_REFRESH": "quiet", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with subprocess.Popen(command, text=True, env=variables, **options) as started:
        try:
            yield started
        finally:
            started.terminate()


@contextlib.contextmanager
def mlflow_server(python, folder):
    """Run MLflow as its documentation says; yields its URL."""
    command = [python, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", "0", "--workers", "1"]
    stores = [
        "--backend-store-uri",
        f"sqlite:///{folder}/mlflow.sqlite",
        "--artifacts-destination",
        folder / "artifacts",
    ]
    with process(*command, *stores, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, cwd=folder) as server:
        lines = []
        for line in server.stderr:
            lines.append(line)
            if found := STARTED.search(line):
                break
        else:
            raise AssertionError("".join(lines))
        log = threading.Thread(target=deque, args=(server.stderr, 0))  # it logs every request, and waits for a reader
        log.start()
        yield found[1]
        server.terminate()
        log.join()


class User:
    """An MLflow user at work."""

    def __init__(self, started):
        self._process = started

    def does(self, line):
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        while not (said := self._process.stdout.readline()).startswith("done"):
            assert said, f"'{line}' was not done"


@pytest.fixture(scope="module")
def mlflow(python, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mlflow")
    with mlflow_server(python, folder) as url:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        with process(python, USER, url, cwd=folder, **pipes) as started:
            user = User(started)
            user.does("models")
            yield url, user


@pytest.fixture
def options(mlflow, tmp_path):
    return {"registry": f"mlflow+{mlflow[0]}", "registry_cache": str(tmp_path / "cache"), "registry_interval_s": 0.05,
            "model": ("models:/affine@production",)}  # fmt: skip


def scale_of(client):
    response, outputs = client.infer("affine", {"x": (Datatype.FP32, ROWS)})
    scale = float((outputs["y"][1, 3] - 1) / ROWS[1, 3])
    np.testing.assert_array_equal(outputs["y"], scale * ROWS + 1)
    return scale, response.model_version


def wait_for(client, expected):
    for _ in range(100_000):
        if scale_of(client) == expected:
            return
    raise AssertionError(f"{expected} never came")


def test_an_alias_of_mlflow_is_served_and_followed(mlflow, tmp_path, options):
    _, user = mlflow
    user.does("alias affine production 1")
    with server_thread(tmp_path / "none", **options) as server, Client(server.address) as client:
        assert scale_of(client) == (1, "1")
        user.does("alias affine production 2")
        wait_for(client, (2, "2"))
        assert client.metadata("affine").versions == ["1", "2"], "the one before stays warm"
        user.does("alias affine production 1")
        wait_for(client, (1, "1"))


def test_a_model_of_pickles_is_refused_with_the_reason(mlflow, tmp_path, options, caplog):
    mlflow[1].does("alias pickled production 1")
    with server_thread(tmp_path / "none", **{**options, "model": ("pickled@production",)}) as server:
        assert server.call(server.server.why_not_ready) == "no model has a ready version"
    assert "pickled/1 of MLflow has the flavours 'python_function'; only onnx is served" in caplog.text


def test_the_command_serves_what_mlflow_calls_a_model(mlflow, tmp_path):
    url, user = mlflow
    user.does("alias affine production 1")
    arguments = ["--registry", f"mlflow+{url}", "--model", "models:/affine@production"]
    with server_process(tmp_path / "none", *arguments, "--registry-cache", str(tmp_path / "cache")) as server:
        assert server.wait_for_log(r"affine@production: serving package 1, sha256:")
        with Client(server.address) as client:
            assert scale_of(client) == (1, "1")
