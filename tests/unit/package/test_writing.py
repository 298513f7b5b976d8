import json
import os

import pytest

from serving.errors import PackageError
from serving.package import Part, assemble, export, read, verify, write
from serving.package import writing as module
from serving.package.parts import digest_of
from tests.support.packages import contents


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_contents_give_the_same_bytes(tmp_path):
    first = write(contents(), tmp_path / "a")
    second = write(contents(), tmp_path / "b")
    assert first == second
    assert files(tmp_path / "a") == files(tmp_path / "b")


@pytest.mark.parametrize(
    "change",
    [{"model": b"other"}, {"name": "b"}, {"passes": ()}, {"parity": None}, {"columns": {}}, {"licence": "MIT"}],
    ids=lambda change: next(iter(change)),
)
def test_other_contents_give_another_digest(tmp_path, change):
    assert write(contents(), tmp_path / "a") != write(contents(**change), tmp_path / "b")


def test_a_tar_holds_the_same_package_and_has_the_same_bytes_each_time(tmp_path):
    digest = write(contents(), tmp_path / "a")
    assert write(contents(), tmp_path / "one.tar") == write(contents(), tmp_path / "two.tar") == digest
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()
    assert verify(tmp_path / "one.tar").digest == digest


def test_what_was_written_is_read(tmp_path):
    given = contents()
    package = read(tmp_path / "a") if write(given, tmp_path / "a") else None
    for name in ("name", "signature", "columns", "labels", "passes", "waivers", "model", "profile", "golden"):
        assert getattr(package, name) == getattr(given, name), name
    for name in ("parity", "evaluation", "lineage", "licence"):
        assert getattr(package, name) == getattr(given, name), name


def test_parts_that_are_not_there_are_none(tmp_path):
    parts = ("profile", "golden", "parity", "evaluation", "lineage", "licence")
    write(contents(**dict.fromkeys(parts)), tmp_path / "a")
    package = read(tmp_path / "a")
    assert [getattr(package, part) for part in parts] == [None] * len(parts)
    assert package.find(Part.PARITY) is None


def test_a_blob_can_come_from_a_file(tmp_path):
    (tmp_path / "graph").write_bytes(contents().model)
    assert write(contents(model=tmp_path / "graph"), tmp_path / "a") == write(contents(), tmp_path / "b")


def test_weights_keep_the_names_that_the_graph_uses(tmp_path):
    weights = {"weights.bin": b"1", "data/part": b"2"}
    write(contents(weights=weights), tmp_path / "a")
    assert read(tmp_path / "a").weights == weights


@pytest.mark.parametrize(
    "title", ["../up", "/root", "a/b/c", "a//b", ".hidden", "a/.b", "model.onnx", "a\\b", "x\n", ""]
)
def test_weights_that_would_lead_elsewhere_are_refused(tmp_path, title):
    with pytest.raises(PackageError, match=r"^weights are called "):
        write(contents(weights={title: b""}), tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def nested(levels):
    return [nested(levels - 1)] if levels else 0


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), object(), "\ud800", nested(100)],
    ids=["NaN", "infinity", "object", "surrogate", "deep"],
)
def test_what_json_cannot_hold_is_refused_by_the_parts_name(tmp_path, value):
    with pytest.raises(PackageError, match=r"^parity.json cannot be written as JSON"):
        write(contents(parity={"a": value}), tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a", "a.tar"])
def test_writing_the_same_package_again_changes_nothing(tmp_path, name):
    write(contents(), tmp_path / name)
    before = (tmp_path / name).stat()
    write(contents(), tmp_path / name)
    assert (tmp_path / name).stat().st_ino == before.st_ino


@pytest.mark.parametrize("name", ["a", "a.tar"])
def test_another_package_is_not_overwritten(tmp_path, name):
    digest = write(contents(), tmp_path / name)
    with pytest.raises(PackageError, match="already, which is not"):
        write(contents(name="b"), tmp_path / name)
    assert read(tmp_path / name).digest == digest
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_folder_that_is_no_package_is_not_overwritten(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(PackageError, match="is there already and is no package; name another place"):
        write(contents(), tmp_path / "a")


@pytest.mark.parametrize("name", ["a", "a.tar"])
def test_a_failure_on_the_way_leaves_nothing(tmp_path, name, monkeypatch):
    def fail(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(PackageError, match=r"cannot be written: .*No space left on device"):
        write(contents(), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_visible_before_the_end(tmp_path, monkeypatch):
    seen = []
    flush = module._flush_folder

    def look(folder):
        seen.append([path.name for path in tmp_path.iterdir() if not path.name.startswith(".")])
        flush(folder)

    monkeypatch.setattr(module, "_flush_folder", look)
    write(contents(), tmp_path / "a")
    assert seen[:-1] == [[]] * 3
    assert seen[-1] == ["a"]


def test_a_package_is_assembled_from_its_manifest_and_blobs(tmp_path):
    digest = write(contents(weights={"w": b"123"}), tmp_path / "a.tar")
    package = read(tmp_path / "a.tar")
    store = {blob.digest: package.read_blob(blob) for blob in package.blobs}
    assert digest_of(package.manifest_bytes) == digest
    made = assemble(package.manifest_bytes, lambda blob: [store[blob.digest]], tmp_path / "b")
    assert made == digest
    write(contents(weights={"w": b"123"}), tmp_path / "c")
    assert files(tmp_path / "b") == files(tmp_path / "c")


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (lambda data: data[:-1], "ends 1 bytes early"),
        (lambda data: data + b"x", "is longer than its"),
        (lambda data: bytes([data[0] ^ 1]) + data[1:], "is damaged"),
    ],
    ids=["short", "long", "flipped"],
)
def test_a_blob_that_arrives_damaged_is_refused(tmp_path, tamper, message):
    write(contents(), tmp_path / "a")
    package = read(tmp_path / "a")
    with pytest.raises(PackageError, match=message):
        assemble(package.manifest_bytes, lambda blob: [tamper(package.read_blob(blob))], tmp_path / "b")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_copy_is_the_same_package(tmp_path):
    digest = write(contents(), tmp_path / "a")
    assert export(read(tmp_path / "a"), tmp_path / "b.tar") == digest
    assert export(read(tmp_path / "b.tar"), tmp_path / "c") == digest
    assert files(tmp_path / "a") == files(tmp_path / "c")


def test_a_manifest_that_gives_one_blob_two_lengths_is_refused(tmp_path):
    write(contents(weights={"a": b"123", "b": b"123"}), tmp_path / "a")
    package = read(tmp_path / "a")
    manifest = json.loads(package.manifest_bytes)
    next(layer for layer in manifest["layers"] if "b" in layer["annotations"].values())["size"] = 2
    store = {blob.digest: package.read_blob(blob) for blob in package.blobs}
    with pytest.raises(PackageError, match="is named with two lengths"):
        assemble(json.dumps(manifest).encode(), lambda blob: [store[blob.digest]], tmp_path / "b")


def test_a_licence_that_is_no_text_is_refused(tmp_path):
    with pytest.raises(PackageError, match=r"LICENCE\.txt is not valid text"):
        write(contents(licence="\ud800"), tmp_path / "a")


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(PackageError, match=r"cannot be written: .*No such file or directory: '.*gone'"):
        write(contents(model=tmp_path / "gone"), tmp_path / "a")
    assert list(tmp_path.iterdir()) == []
