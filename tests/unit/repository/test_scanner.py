import os

import pytest

from serving.errors import ConfigError
from serving.repository import scanner
from serving.repository.scanner import VERSION_MAX, is_version, scan, scan_model


def write(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"graph")


def test_models_and_versions_are_found(tmp_path):
    write(tmp_path, "a/1/model.onnx", "a/10/model.onnx", "a/model.toml", "b/0/model.onnx", "readme.txt")
    models = scan(tmp_path)
    assert {name: sorted(model.versions) for name, model in models.items()} == {"a": [1, 10], "b": [0]}
    assert models["a"].versions[10].path == tmp_path / "a/10/model.onnx"
    assert models["a"].config_path == tmp_path / "a/model.toml"
    assert models["a"].config_fingerprint != models["b"].config_fingerprint == ()


def test_names_with_a_dot_in_front_are_invisible(tmp_path):
    write(tmp_path, ".git/1/model.onnx", "a/.2/model.onnx", "a/1/model.onnx")
    assert list(scan(tmp_path)) == ["a"]
    assert list(scan_model(tmp_path / "a").versions) == [1]


@pytest.mark.parametrize(
    "name", ["v1", "1.0", "-1", "+1", "01", "\u0661", "\u00b2", "9223372036854775808", " 1", "1_0"]
)
def test_a_folder_that_is_no_version_is_a_problem_beside_those_that_are(tmp_path, name):
    write(tmp_path, f"a/{name}/model.onnx", "a/1/model.onnx")
    model = scan_model(tmp_path / "a")
    assert list(model.versions) == [1]
    assert model.problems == (f"folder '{name}' is not a version, expected an integer such as 1",)


@pytest.mark.parametrize("name", ["0", "1", "42", str(VERSION_MAX)])
def test_a_version_is_an_integer_from_zero(name):
    assert is_version(name)


def test_a_version_of_thousands_of_digits_is_none():
    assert not is_version("1" * 5000)


def test_an_empty_version_folder_has_a_problem(tmp_path):
    (tmp_path / "a/3").mkdir(parents=True)
    assert scan_model(tmp_path / "a").versions[3].problem == "no model.onnx in version 3, and no package"


def test_an_empty_model_folder_says_what_was_expected(tmp_path):
    (tmp_path / "a").mkdir()
    assert scan_model(tmp_path / "a").problems == ("no versions, expected a/1/model.onnx",)


@pytest.mark.parametrize("missing", ["nowhere", "file"])
def test_a_repository_that_is_no_folder_is_refused(tmp_path, missing):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=f"^model repository {tmp_path}/{missing}: "):
        scan(tmp_path / missing)


def test_a_folder_that_went_away_during_the_scan_is_a_problem(tmp_path):
    assert scan_model(tmp_path / "gone").problems == ("cannot be read: No such file or directory",)


def test_a_link_to_nothing_counts_for_nothing(tmp_path):
    write(tmp_path, "a/1/model.onnx", "a/2/model.onnx")
    (tmp_path / "a/2/weights").symlink_to(tmp_path / "gone")
    (tmp_path / "round").symlink_to(tmp_path / "round")
    versions = scan(tmp_path)["a"].versions
    assert versions[1].problem is versions[2].problem is None
    assert list(scan(tmp_path)) == ["a"]


@pytest.mark.parametrize("name", ["two\nlines", "caf\udce9", ".hidden"])
def test_a_folder_whose_name_is_no_text_for_a_line_is_no_model(tmp_path, name):
    write(tmp_path, "a/1/model.onnx", f"{name}/1/model.onnx")
    assert list(scan(tmp_path)) == ["a"]


def test_too_many_files_are_no_version(tmp_path, monkeypatch):
    monkeypatch.setattr(scanner, "FILES_PER_VERSION_MAX", 2)
    write(tmp_path, "a/1/model.onnx", "a/1/b", "a/2/model.onnx", "a/2/b", "a/2/c")
    versions = scan_model(tmp_path / "a").versions
    assert versions[1].problem is None
    assert versions[2].problem == "more than 2 files"


# ---- what a fingerprint notices ------------------------------------------------------------------------------------


def fingerprint(folder):
    model = scan_model(folder)
    return model.config_fingerprint, model.versions[1].fingerprint


def replace_by_equal_file(path):
    facts = path.stat()
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    os.utime(other, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    other.replace(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "1/model.onnx").write_bytes(b"longer graph"),
        lambda folder: os.utime(folder / "1/model.onnx", ns=(0, 1)),
        lambda folder: replace_by_equal_file(folder / "1/model.onnx"),
        lambda folder: (folder / "1/weights.bin").write_bytes(b""),
        lambda folder: write(folder, "1/weights/part"),
        lambda folder: (folder / "model.toml").write_text("version_policy = 'all'"),
    ],
    ids=["length", "time", "inode", "new_file", "new_nested_file", "config"],
)
def test_a_change_is_noticed(tmp_path, change):
    write(tmp_path, "a/1/model.onnx")
    before = fingerprint(tmp_path / "a")
    assert fingerprint(tmp_path / "a") == before
    change(tmp_path / "a")
    assert fingerprint(tmp_path / "a") != before


# ---- packages ------------------------------------------------------------------------------------------------------


def test_a_package_may_be_the_folder_of_a_version_or_a_tar_beside_such_folders(tmp_path):
    write(tmp_path, "a/1/index.json", "a/1/oci-layout", "a/1/blobs/sha256/0", "a/2.tar", "a/3/model.onnx")
    versions = scan_model(tmp_path / "a").versions
    assert {number: version.path for number, version in versions.items()} == {
        1: tmp_path / "a/1", 2: tmp_path / "a/2.tar", 3: tmp_path / "a/3/model.onnx"
    }  # fmt: skip
    assert [version.problem for version in versions.values()] == [None] * 3


def test_an_index_beside_a_graph_makes_no_package(tmp_path):
    write(tmp_path, "a/1/index.json", "a/1/model.onnx")
    assert scan_model(tmp_path / "a").versions[1].path == tmp_path / "a/1/model.onnx"


def test_two_of_one_version_are_a_problem(tmp_path):
    write(tmp_path, "a/1/oci-layout", "a/1/model.onnx", "a/2/model.onnx", "a/2.tar")
    versions = scan_model(tmp_path / "a").versions
    assert versions[1].problem == "holds both model.onnx and a package; keep one of them"
    assert versions[2].problem == "there is a folder and a tar of this version; keep one of them"


@pytest.mark.parametrize("name", ["old.tar", ".1.tar", "01.tar", "1.tar.gz", "1.tar.part"])
def test_another_file_beside_the_versions_is_no_version(tmp_path, name):
    write(tmp_path, f"a/{name}", "a/1/model.onnx")
    model = scan_model(tmp_path / "a")
    assert list(model.versions) == [1]
    assert model.problems == ()


def test_a_blob_that_arrives_is_noticed(tmp_path):
    write(tmp_path, "a/1/oci-layout", "a/1/blobs/sha256/0", "a/2.tar")
    before = scan_model(tmp_path / "a")
    write(tmp_path, "a/1/blobs/sha256/1")
    (tmp_path / "a/2.tar").write_bytes(b"more of it")
    after = scan_model(tmp_path / "a")
    for number in (1, 2):
        assert before.versions[number].fingerprint != after.versions[number].fingerprint
