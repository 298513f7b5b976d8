import pytest

from serving.errors import ConfigError, RegistryAway, RegistryDamaged, RegistryError
from serving.registry.mlflow import server as module
from serving.registry.mlflow.server import MlflowServer
from serving.registry.names import Alias, Version
from tests.support.mlflow_answers import ARTIFACTS, answering, mlmodel

PRODUCTION = Alias("fraud", "production")
FOLDER = "1/models/fraud-3/artifacts"


@pytest.fixture
def answers():
    with answering() as started:
        started.register("fraud", 3, {"MLmodel": mlmodel(), "model.onnx": b"graph"})
        started.aliases["fraud", "production"] = "3"
        yield started


@pytest.fixture
def server(answers):
    return MlflowServer(answers.uri, {})


def test_an_alias_leads_to_a_version_and_to_its_files(server, tmp_path):
    version = server.named_by(PRODUCTION)
    assert (version.model, version.number, version.source) == ("fraud", 3, "models:/m-3")
    assert server.version(Version("fraud", 3)) == version
    assert server.folder(version) == FOLDER
    assert server.files(FOLDER) == {"MLmodel": len(mlmodel()), "model.onnx": 5}
    assert server.read(f"{FOLDER}/MLmodel", 1000) == mlmodel()
    server.download(f"{FOLDER}/model.onnx", tmp_path / "model.onnx", 5)
    assert (tmp_path / "model.onnx").read_bytes() == b"graph"


def test_a_version_that_was_made_again_has_another_key(server, answers):
    before = server.named_by(PRODUCTION)
    answers.register("fraud", 3, {}, creation_timestamp=7)
    assert server.named_by(PRODUCTION).key != before.key


@pytest.mark.parametrize(
    ("variables", "header"),
    [
        ({}, None),
        ({"MLFLOW_TRACKING_USERNAME": "ada", "MLFLOW_TRACKING_PASSWORD": "x:y"}, "Basic YWRhOng6eQ=="),
        ({"MLFLOW_TRACKING_TOKEN": "abc"}, "Bearer abc"),
    ],
)
def test_credentials_are_those_that_mlflows_client_reads(answers, variables, header):
    MlflowServer(answers.uri, variables).named_by(PRODUCTION)
    assert answers.headers.get("Authorization") == header


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        ((200, {}, b"<html>"), RegistryAway, "does not answer as MLflow does: b'<html>'"),
        ((200, {}, b"[]"), RegistryAway, "does not answer as MLflow does"),
        ((200, {}, b"[" * 100_000), RegistryAway, "does not answer as MLflow does"),
        ((200, {}, b"{}"), RegistryAway, "asked for 'fraud' and does not answer with a version of it"),
        ((200, {}, b'{"model_version": {"name": "other", "version": "1"}}'), RegistryAway, "asked for 'fraud'"),
        ((200, {}, b'{"model_version": {"name": "fraud", "version": "0"}}'), RegistryAway, "asked for 'fraud'"),
        ((200, {}, b'{"model_version": {"name": "fraud", "version": 1}}'), RegistryAway, "asked for 'fraud'"),
        ((200, {}, b'{"model_version": {"name": "fraud", "version": "1", "status": "PENDING"}}'), RegistryError,
         "'PENDING', expected READY"),
        ((200, {}, b" " * (module.ANSWER_BYTES_MAX + 1)), RegistryAway, "more than 4194304 bytes"),
        ((404, {}, b'{"message": "no such\\nmodel"}'), RegistryError, r"'no such\\nmodel'"),
        ((404, {}, b"nothing here"), RegistryAway, "answers 404"),
        ((401, {}, b""), RegistryAway, "answers 401; set MLFLOW_TRACKING_USERNAME"),
        ((302, {"Location": "http://elsewhere/"}, b""), RegistryAway, "sends on to 'http://elsewhere/'"),
        ((500, {}, b'{"message": "boom"}'), RegistryAway, "answers 500"),
        ((200, {"Content-Length": "100"}, b'{"model_version"'), RegistryAway, "does not answer as MLflow does"),
    ],
)  # fmt: skip
def test_a_wrong_answer_is_one_clear_error(server, answers, answer, error, message):
    answers.answers["mlflow/registered-models"] = answer
    with pytest.raises(error, match=message) as raised:
        server.named_by(PRODUCTION)
    assert type(raised.value) is error
    assert str(raised.value).isprintable()


@pytest.mark.parametrize(
    "uri",
    [
        "file:///etc",
        "/etc",
        "s3://bucket/model",
        "mlflow-artifacts://other:80/1/models",
        "models:/m-1",
        "http://[",
        7,
        "mlflow-artifacts:/\ud800",
    ],
)
def test_files_that_the_server_does_not_hand_out_itself_are_refused(server, answers, uri):
    import json

    version = server.named_by(PRODUCTION)
    answers.answers["mlflow/model-versions/get-download-uri"] = (200, {}, json.dumps({"artifact_uri": uri}).encode())
    with pytest.raises(RegistryError, match="only files that the MLflow server itself hands out"):
        server.folder(version)


@pytest.mark.parametrize(("said", "header"), [(9, "5"), (3, "5"), (None, "9")])
def test_a_file_of_another_length_than_was_said_is_refused(server, answers, tmp_path, said, header):
    answers.answers[f"{ARTIFACTS}/{FOLDER}/model.onnx"] = (200, {"Content-Length": header}, b"graph")
    with pytest.raises((RegistryDamaged, RegistryAway)):
        server.download(f"{FOLDER}/model.onnx", tmp_path / "model.onnx", said)


@pytest.mark.parametrize(("said", "header"), [(6, "5"), (None, "6")])
def test_a_file_that_is_too_long_is_refused_before_any_of_it_is_written(
    server, answers, tmp_path, monkeypatch, said, header
):
    monkeypatch.setattr(module, "BLOB_BYTES_MAX", 5)
    answers.answers[f"{ARTIFACTS}/{FOLDER}/model.onnx"] = (200, {"Content-Length": header}, b"graph!")
    with pytest.raises(RegistryError, match="has 6 bytes, at most 5"):
        server.download(f"{FOLDER}/model.onnx", tmp_path / "model.onnx", said)
    assert not (tmp_path / "model.onnx").exists()


@pytest.mark.parametrize("header", ["\xb2", "9" * 5000, "-1"])
def test_a_length_that_is_no_number_is_no_length(server, answers, tmp_path, header):
    answers.answers[f"{ARTIFACTS}/{FOLDER}/model.onnx"] = (200, {"Content-Length": header}, b"graph")
    server.download(f"{FOLDER}/model.onnx", tmp_path / "model.onnx", None)
    assert (tmp_path / "model.onnx").read_bytes() == b"graph"


def test_what_comes_is_given_up_when_the_server_stops(answers, tmp_path):
    server = MlflowServer(answers.uri, {}, stopping=lambda: True)
    with pytest.raises(RegistryAway, match="the server is stopping"):
        server.download(f"{FOLDER}/model.onnx", tmp_path / "model.onnx", 5)


def test_a_server_that_says_nothing_is_away_after_a_while(monkeypatch):
    import socket

    monkeypatch.setattr(module, "TIMEOUT_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        server = MlflowServer(f"mlflow+http://127.0.0.1:{silent.getsockname()[1]}", {})
        with pytest.raises(RegistryAway, match="cannot be asked: timed out"):
            server.named_by(PRODUCTION)


def test_an_answer_that_trickles_is_given_up(server, monkeypatch):
    monkeypatch.setattr(module, "ANSWER_S_MAX", -1.0)
    with pytest.raises(RegistryAway, match="which is no such answer"):
        server.named_by(PRODUCTION)


def test_a_server_that_is_not_there_is_away():
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(RegistryAway, match="Connection refused"):
        MlflowServer(f"mlflow+http://127.0.0.1:{port}", {}).named_by(PRODUCTION)


@pytest.mark.parametrize(
    ("uri", "variables", "message"),
    [
        ("mlflow+http://", {}, "expected mlflow"),
        ("mlflow+http://[", {}, "expected mlflow"),
        ("mlflow+http://host:port", {}, "expected mlflow"),
        ("mlflow+ftp://host", {}, "expected mlflow"),
        ("mlflow+http://höst", {}, "expected mlflow"),
        ("mlflow+http://host/a b", {}, "expected mlflow"),
        ("mlflow+http://ada:secret@host", {}, "credentials do not belong into the URI"),
        ("mlflow+http://host/?x=1", {}, "expected nothing after"),
        ("mlflow+https://host", {"MLFLOW_TRACKING_SERVER_CERT_PATH": "/none"}, "CERT_PATH = /none: No such file"),
        ("mlflow+http://host", {"MLFLOW_TRACKING_TOKEN": "a\nX-Evil: 1"}, "is no token"),
    ],
)
def test_what_names_no_server_is_refused(uri, variables, message):
    with pytest.raises(ConfigError, match=message) as raised:
        MlflowServer(uri, variables)
    assert "secret" not in str(raised.value)
