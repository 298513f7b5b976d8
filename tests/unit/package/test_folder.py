import os
import shutil

import pytest

from serving.errors import PackageError
from serving.package import read, write
from serving.package.folder import Folder, unpack
from serving.package.manifest import Config
from serving.types import Signature, TensorSpec
from tests.support.packages import AFFINE, blob_path, contents, manifest_of


@pytest.fixture
def unpacked(tmp_path):
    """A package with weights that its graph names, and its plain folder."""
    given = contents(model=b"graph of weights.bin and data/part", weights={"weights.bin": b"1", "data/part": b"2"})
    digest = write(given, tmp_path / "p")
    unpack(read(tmp_path / "p"), tmp_path / "plain")
    return digest, tmp_path / "plain"


def test_what_was_unpacked_packs_to_the_same_digest(unpacked, tmp_path):
    digest, plain = unpacked
    assert write(Folder.at(plain).contents(AFFINE), tmp_path / "again.tar") == digest


def test_every_part_is_a_file(unpacked):
    _, plain = unpacked
    files = sorted(str(path.relative_to(plain)) for path in plain.rglob("*") if path.is_file())
    assert files == [
        "LICENCE.txt", "data/part", "evaluation.json", "golden.npz", "lineage.json", "model.onnx", "package.json",
        "parity.json", "profile.npz", "weights.bin",
    ]  # fmt: skip


def test_files_that_the_graph_does_not_name_stay_behind(unpacked, tmp_path):
    digest, plain = unpacked
    (plain / "notes.md").write_text("x")
    (plain / "deep/er").mkdir(parents=True)
    (plain / "deep/er/file").write_text("x")
    folder = Folder.at(plain)
    assert folder.left_out == ("notes.md",)
    assert write(folder.contents(AFFINE), tmp_path / "again") == digest


@pytest.fixture
def with_files(tmp_path):
    """A package with files of a pipeline, one of a name that its graph holds too, and its plain folder."""
    files = {"labels.txt": b"a\nb\n", "text/tokenizer.json": b"{}"}
    digest = write(contents(model=b"graph of labels.txt", files=files), tmp_path / "p")
    unpack(read(tmp_path / "p"), tmp_path / "plain")
    return digest, tmp_path / "plain"


def test_files_of_a_pipeline_are_unpacked_and_packed_again(with_files, tmp_path):
    digest, plain = with_files
    assert (plain / "labels.txt").read_bytes() == b"a\nb\n"
    assert (plain / "text/tokenizer.json").read_bytes() == b"{}"
    folder = Folder.at(plain)
    assert (folder.weights, folder.left_out) == ((), ())
    assert write(folder.contents(AFFINE), tmp_path / "again.tar") == digest
    assert read(tmp_path / "again.tar").files == {"labels.txt": b"a\nb\n", "text/tokenizer.json": b"{}"}


def test_another_byte_in_a_file_of_a_pipeline_is_another_package(with_files, tmp_path):
    digest, plain = with_files
    (plain / "labels.txt").write_bytes(b"a\nc\n")
    assert write(Folder.at(plain).contents(AFFINE), tmp_path / "other") != digest


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("../secret", "is no file within the folder"),
        ("labels.txt", "is not there"),
        ("text", "is no file"),
        (None, "is not there"),
    ],
)
def test_a_file_of_a_pipeline_that_is_not_in_the_folder_is_not_packed(with_files, tmp_path, target, message):
    _, plain = with_files
    (tmp_path / "secret").write_text("x")
    (plain / "labels.txt").unlink()
    if target:
        (plain / "labels.txt").symlink_to(target)
    with pytest.raises(PackageError, match=f"{message}.*, and the pipeline needs it"):
        Folder.at(plain).contents(AFFINE)


def test_a_plain_folder_needs_what_the_graph_says(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"graph")
    (tmp_path / "LICENSE").write_text("MIT")
    folder = Folder.at(tmp_path)
    with pytest.raises(PackageError, match=r"has no package\.json"):
        folder.contents(AFFINE)
    made = folder.with_config(Config("m", AFFINE, {}, {}, ("slim",), ())).contents(AFFINE)
    assert (made.name, made.licence, made.passes, made.weights) == ("m", "MIT", ("slim",), {})


def test_a_package_json_that_contradicts_the_graph_is_refused(unpacked):
    _, plain = unpacked
    other = Signature((TensorSpec("z", AFFINE.inputs[0].datatype, (-1,)),), AFFINE.outputs, batchable=True)
    with pytest.raises(PackageError, match=r"package.json says inputs x FP32, the graph has z FP32"):
        Folder.at(plain).contents(other)


@pytest.mark.parametrize("name", ["package.json", "parity.json"])
def test_a_part_that_is_no_json_is_named(unpacked, name):
    _, plain = unpacked
    (plain / name).write_text("{")
    with pytest.raises(PackageError, match=f"{name} is not valid JSON"):
        Folder.at(plain).contents(AFFINE)


def test_a_folder_without_a_graph_is_refused(tmp_path):
    with pytest.raises(PackageError, match=r"holds no model\.onnx; name the folder of one version"):
        Folder.at(tmp_path)


def test_nothing_is_unpacked_over_what_is_there(unpacked, tmp_path):
    _, plain = unpacked
    with pytest.raises(PackageError, match="is there already"):
        unpack(read(tmp_path / "p"), plain)


def test_a_damaged_package_leaves_nothing(tmp_path):
    write(contents(), tmp_path / "p")
    blob = blob_path(tmp_path / "p", manifest_of(tmp_path / "p")["layers"][-1]["digest"])
    blob.write_bytes(b"x" * blob.stat().st_size)
    package = read(tmp_path / "p")
    with pytest.raises(PackageError, match="is damaged"):
        unpack(package, tmp_path / "plain")
    shutil.rmtree(tmp_path / "p")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("part", ["package.json", "parity.json", "LICENCE.txt"])
def test_a_pipe_or_a_broken_link_in_place_of_a_document_is_refused_at_once(unpacked, part):
    _, plain = unpacked
    for make in (os.mkfifo, lambda path: path.symlink_to("nowhere")):
        (plain / part).unlink()
        make(plain / part)
        with pytest.raises(PackageError, match=f"{part} is no plain file"):
            Folder.at(plain).contents(AFFINE)
