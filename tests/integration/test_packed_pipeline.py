"""Packages that hold the files of a pipeline: packed from a model repository, served verified, refused when damaged."""

import shutil

import numpy as np
import pytest

from serving.errors import RemoteError
from serving.package import read
from serving.pb import open_inference_pb2 as pb
from serving.transport.client import Client
from serving.types import Datatype
from tests.support import graphs
from tests.support.command_line import run
from tests.support.packages import blob_path, manifest_of, write_key_pair
from tests.support.servers import server_thread

CONFIG = """
[[pipeline.preprocess]]
step = "user"
input = "raw"
output = "x"
file = "steps/double.py"
function = "double"

[[pipeline.inputs]]
name = "raw"
datatype = "FP32"
shape = [-1, 4]

[[pipeline.postprocess]]
step = "argmax"
input = "y"
output = "label"
labels_file = "labels.txt"
"""
STEPS = """
def double(raw, out):
    for row in range(raw.shape[0]):
        for column in range(raw.shape[1]):
            out[row, column] = 2 * raw[row, column]
"""
NAMES = ["steps/double.py", "labels.txt"]


@pytest.fixture
def plain(tmp_path):
    """A version in a model repository, whose pipeline needs two files."""
    version = graphs.write_model(tmp_path / "models", "affine", graphs.affine(), config=CONFIG)
    (version / "steps").mkdir()
    (version / "steps/double.py").write_text(STEPS)
    (version / "labels.txt").write_text("one\ntwo\nthree\nfour\n")
    (version / "notes.md").write_text("x")
    return version


@pytest.fixture
def served(plain, tmp_path):
    """A model repository with the package of that version alone."""
    models = tmp_path / "served"
    (models / "affine").mkdir(parents=True)
    (models / "affine/model.toml").write_text(CONFIG)
    assert run("pack", str(plain), "--out", str(models / "affine/1.tar")) == 0
    return models


def ask(server):
    with Client(server.address) as client:
        rows = np.array([[1, 5, 2, 3], [9, 0, 0, 0]], np.float32)
        return client.infer("affine", {"raw": (Datatype.FP32, rows)})[1]["label"].tolist()


def why_not(server):
    with Client(server.address) as client:
        answer = client.call("RepositoryIndex", pb.RepositoryIndexRequest(), pb.RepositoryIndexResponse)
        return next(entry.reason for entry in answer.models if entry.name == "affine")


def test_pack_takes_the_files_that_model_toml_names_and_says_what_it_leaves(plain, tmp_path, capsys):
    assert run("pack", str(plain), "--out", str(tmp_path / "p")) == 0
    assert sorted(read(tmp_path / "p").files) == sorted(NAMES)
    said = capsys.readouterr().err
    assert "notes.md is no part of a package and is left out" in said
    assert "labels.txt" not in said
    assert run("unpack", str(tmp_path / "p"), "--out", str(tmp_path / "elsewhere")) == 0
    assert run("pack", str(tmp_path / "elsewhere"), "--out", str(tmp_path / "again")) == 0
    assert read(tmp_path / "again").digest == read(tmp_path / "p").digest


def test_files_may_be_named_where_no_model_toml_does(plain, tmp_path):
    shutil.copytree(plain, tmp_path / "bare")
    options = [text for name in NAMES for text in ("--file", name)]
    assert run("pack", str(tmp_path / "bare"), "--name", "affine", "--out", str(tmp_path / "p"), *options) == 0
    assert sorted(read(tmp_path / "p").files) == sorted(NAMES)


@pytest.mark.parametrize("name", ["none.txt", "../model.toml", "/etc/passwd", ".hidden", "a/b/c"])
def test_a_file_that_is_none_of_the_versions_is_not_packed(plain, tmp_path, name, capsys):
    assert run("pack", str(plain), "--out", str(tmp_path / "p"), "--file", name) == 1
    assert not (tmp_path / "p").exists()
    assert len(capsys.readouterr().err.splitlines()) <= 2  # of which one is about notes.md


def test_a_package_is_served_with_its_files(served, transport):
    with server_thread(served, user_code="on", **transport) as server:
        assert ask(server) == ["two", "one"]


def test_code_in_a_package_runs_only_where_the_operator_allows_it(served, tmp_path):
    private, public = write_key_pair(tmp_path)
    signed = served / "affine/2.tar"
    assert run("pack", str(served / "affine/1.tar"), "--out", str(signed), "--sign-key", str(private)) == 0
    (served / "affine/1.tar").unlink()
    with server_thread(served, package_keys=public.parent) as server:
        assert "which this server does not allow; start it with --user-code on" in why_not(server)
    with server_thread(served, package_keys=public.parent, user_code="on") as server:
        assert ask(server) == ["two", "one"]


def test_a_package_without_a_file_that_its_pipeline_needs_is_not_loaded(plain, served):
    (plain.parent / "model.toml").unlink()
    (served / "affine/1.tar").unlink()
    assert run("pack", str(plain), "--out", str(served / "affine/1"), "--file", "labels.txt") == 0
    with server_thread(served, user_code="on") as server:
        assert "'steps/double.py' is not in the package; known: labels.txt" in why_not(server)


def test_a_file_beside_a_package_is_not_read(plain, served):
    """Only what is verified counts."""
    (plain.parent / "model.toml").unlink()
    (served / "affine/1.tar").unlink()
    assert run("pack", str(plain), "--out", str(served / "affine/1"), "--file", "steps/double.py") == 0
    shutil.copy(plain / "labels.txt", served / "affine/1/labels.txt")
    with server_thread(served, user_code="on") as server:
        assert "'labels.txt' is not in the package" in why_not(server)


@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_file_keeps_a_package_from_being_loaded(plain, served, name):
    (served / "affine/1.tar").unlink()
    package = served / "affine/1"
    assert run("pack", str(plain), "--out", str(package)) == 0
    layer = next(item for item in manifest_of(package)["layers"] if name in item["annotations"].values())
    blob = blob_path(package, layer["digest"])
    blob.write_bytes(blob.read_bytes()[:-1] + b"#")
    with server_thread(served, user_code="on") as server:
        assert name in why_not(server)
        with Client(server.address) as client, pytest.raises(RemoteError):
            client.infer("affine", {"raw": (Datatype.FP32, np.zeros((1, 4), np.float32))})
