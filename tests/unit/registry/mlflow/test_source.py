import json
import os

import pytest

from serving import package
from serving.aliased import pack_graph
from serving.errors import RegistryAway, RegistryDamaged, RegistryError
from serving.registry.mlflow.server import MlflowServer
from serving.registry.mlflow.source import MlflowRegistry
from serving.registry.names import Alias, Version
from tests.support import graphs
from tests.support.mlflow_answers import ARTIFACTS, answering, mlmodel

PRODUCTION = Alias("affine", "production")
REQUIREMENTS = b"mlflow\n"


@pytest.fixture
def answers():
    with answering() as started:
        for number in (1, 2):
            graph = graphs.affine(scale=float(number))
            started.register("affine", number, {"MLmodel": mlmodel(), "model.onnx": graph,
                                                "requirements.txt": REQUIREMENTS})  # fmt: skip
        started.aliases["affine", "production"] = "1"
        yield started


@pytest.fixture
def registry(answers, tmp_path):
    return MlflowRegistry(MlflowServer(answers.uri, {}), tmp_path / "place", pack_graph)


def downloads(answers):
    return [path.rpartition("/")[2] for path in answers.asked if path.startswith(f"{ARTIFACTS}/")]


def test_a_version_is_pulled_as_a_package_of_the_digest_that_was_told(registry, answers, tmp_path):
    with registry:
        pushed = registry.resolve(PRODUCTION)
        assert registry.pull(pushed.version, tmp_path / "pulled") == pushed
    pulled = package.verify(tmp_path / "pulled")
    assert (pulled.digest, pulled.name) == (pushed.digest, "affine")
    assert [spec.name for spec in pulled.signature.inputs] == ["x"]
    assert pulled.lineage["mlflow"] == {"server": answers.uri.removeprefix("mlflow+"), "model": "affine", "version": 1,
                                        "source": "models:/m-1", "run_id": "run"}  # fmt: skip


def test_only_the_graph_is_fetched_and_only_once(registry, answers, tmp_path):
    for _ in range(3):
        pushed = registry.resolve(PRODUCTION)
    registry.pull(pushed.version, tmp_path / "pulled")
    assert downloads(answers) == ["MLmodel", "model.onnx"]
    assert [entry.suffix for entry in (tmp_path / "place").iterdir()] == [".json"], "nothing is left but a note"


def test_weights_that_the_graph_names_come_with_it(registry, answers, tmp_path):
    import onnx

    graph = onnx.load_from_string(graphs.heavy(width=16, layers=1))
    onnx.save_model(graph, tmp_path / "model.onnx", save_as_external_data=True, location="b2f-7", size_threshold=0)
    files = {"model.onnx": (tmp_path / "model.onnx").read_bytes(), "b2f-7": (tmp_path / "b2f-7").read_bytes()}
    answers.register("affine", 1, {"MLmodel": mlmodel(), "conda.yaml": b"", **files})
    registry.pull(registry.resolve(PRODUCTION).version, tmp_path / "pulled")
    blobs = {blob.title for blob in package.verify(tmp_path / "pulled").blobs}
    assert {"model.onnx", "b2f-7"} <= blobs
    assert "conda.yaml" not in blobs


def test_a_moved_alias_is_another_package(registry, answers):
    first = registry.resolve(PRODUCTION)
    answers.aliases["affine", "production"] = "2"
    second = registry.resolve(PRODUCTION)
    assert (first.sequence, second.sequence) == (1, 2)
    assert first.digest != second.digest


def test_a_version_whose_files_change_is_refused(registry, answers, tmp_path):
    pushed = registry.resolve(PRODUCTION)
    registry.pull(pushed.version, tmp_path / "pulled")
    answers.files["1/models/affine-1/artifacts"]["model.onnx"] = graphs.affine(scale=9.0)
    with pytest.raises(RegistryDamaged, match=r"affine/1 of MLflow was sha256:\w+ and is sha256:\w+ now"):
        registry.pull(pushed.version, tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_what_cannot_be_served_is_told_and_not_fetched_at_every_look(registry, answers):
    for model in ("affine", "bad"):
        answers.register(model, 1, {"MLmodel": mlmodel(), "model.onnx": b"not a graph"})
        answers.aliases[model, "production"] = "1"
    for model in ("affine", "bad") * 3:
        with pytest.raises(RegistryError, match=f"{model}/1 of MLflow cannot be served"):
            registry.resolve(Alias(model, "production"))
    assert downloads(answers) == ["MLmodel", "model.onnx"] * 2


def test_no_evidence_is_taken_from_mlflow(registry, answers, tmp_path):
    import onnx

    graph = onnx.load_from_string(graphs.affine())
    graph.doc_string = "see parity.json and golden.npz"
    answers.register("affine", 1, {"MLmodel": mlmodel(), "model.onnx": graph.SerializeToString(), "parity.json": b"{}",
                                   "golden.npz": b""})  # fmt: skip
    registry.pull(registry.resolve(PRODUCTION).version, tmp_path / "pulled")
    assert package.verify(tmp_path / "pulled").parity is None
    assert downloads(answers) == ["MLmodel", "model.onnx"]


def test_a_package_that_was_damaged_while_it_waited_is_made_again(registry, tmp_path):
    pushed = registry.resolve(PRODUCTION)
    (waiting,) = (entry for entry in (tmp_path / "place").iterdir() if entry.is_dir())
    (waiting / "index.json").unlink()
    registry.pull(pushed.version, tmp_path / "pulled")
    assert package.verify(tmp_path / "pulled").digest == pushed.digest


def test_a_model_of_pickles_is_refused_before_any_of_them_is_fetched(registry, answers):
    answers.files["1/models/affine-1/artifacts"]["MLmodel"] = mlmodel({"sklearn": {"pickled_model": "model.pkl"}})
    with pytest.raises(RegistryError, match="the flavours 'sklearn'; only onnx is served"):
        registry.resolve(PRODUCTION)
    assert downloads(answers) == ["MLmodel"]


def test_a_file_that_is_named_and_not_there_is_an_error(registry, answers):
    answers.answers[f"{ARTIFACTS}/1/models/affine-1/artifacts/model.onnx"] = (
        404,
        {},
        b'{"message": "No such artifact"}',
    )
    with pytest.raises(RegistryError, match="No such artifact"):
        registry.resolve(PRODUCTION)


def test_a_download_that_breaks_off_leaves_nothing_and_is_tried_again(registry, answers, tmp_path):
    path = f"{ARTIFACTS}/1/models/affine-1/artifacts/model.onnx"
    answers.answers[path] = (200, {"Content-Length": "99999"}, b"half")
    with pytest.raises((RegistryDamaged, RegistryAway)):
        registry.resolve(PRODUCTION)
    assert list((tmp_path / "place").iterdir()) == []
    del answers.answers[path]
    assert registry.resolve(PRODUCTION).sequence == 1


@pytest.mark.parametrize("note", ["", "{", "[]", '{"package": "../x"}', '{"package": 7}'])
def test_a_note_that_cannot_be_read_is_made_again(registry, tmp_path, note):
    digest = registry.resolve(PRODUCTION).digest
    (file,) = (tmp_path / "place").glob("*.json")
    file.write_text(note)
    assert registry.resolve(PRODUCTION).digest == digest
    assert json.loads(file.read_text()) == {"package": digest}


def test_half_a_package_that_a_dead_process_left_is_made_again(registry, answers, tmp_path):
    digest = registry.resolve(PRODUCTION).digest
    (file,) = (tmp_path / "place").glob("*.json")
    (file.with_suffix("") / "index.json").unlink()
    file.unlink()
    old = tmp_path / "place" / "draft-dead"
    old.mkdir()
    os.utime(old, (0, 0))
    pushed = registry.resolve(PRODUCTION)
    assert pushed.digest == digest
    assert not old.exists()
    registry.pull(Version("affine", 1), tmp_path / "pulled")
    assert package.verify(tmp_path / "pulled").digest == digest
