import os

import pytest

from serving.config import PipelineConfig
from serving.pipeline import files
from serving.pipeline.files import FolderFiles, PackedFiles, UnreadableFileError, files_named


@pytest.fixture
def folder(tmp_path):
    version = tmp_path / "1"
    (version / "deep").mkdir(parents=True)
    (version / "labels.txt").write_text("a\nb\n")
    (version / "deep" / "tokenizer.json").write_text("{}")
    (version / "inside").symlink_to("labels.txt")
    (version / "outside").symlink_to(tmp_path / "secret")
    (version / "round").symlink_to("round")
    (tmp_path / "secret").write_text("x")
    os.mkfifo(version / "pipe")
    return version


def test_files_are_read_by_the_names_that_steps_give_them(folder):
    found = FolderFiles(folder)
    assert found.read("labels.txt") == found.read("inside") == b"a\nb\n"
    assert found.read("deep/tokenizer.json") == b"{}"


WRONG = [
    ("../secret", "lies outside of the version's folder 1/"),
    ("/etc/hostname", "lies outside"),
    ("outside", "lies outside"),
    ("deep/../../secret", "lies outside"),
    ("deep", "cannot be read: Is a directory|is no file"),
    ("pipe", "is no file"),
    ("none", "cannot be read: No such file"),
    ("round", "cannot be read: "),
    ("a\0b", "cannot be read: embedded null byte"),
    ("a" * 5_000, "cannot be read: File name too long"),
]


@pytest.mark.parametrize(("name", "message"), WRONG)
def test_what_is_no_file_in_the_folder_is_refused(folder, name, message):
    with pytest.raises(UnreadableFileError, match=message):
        FolderFiles(folder).read(name)


def test_a_file_that_is_too_long_is_not_read_whole(folder, monkeypatch):
    monkeypatch.setattr(files, "FILE_BYTES_MAX", 3)
    with pytest.raises(UnreadableFileError, match=r"'labels\.txt' is longer than 3 bytes"):
        FolderFiles(folder).read("labels.txt")


def test_a_package_gives_what_it_holds_and_nothing_else():
    found = PackedFiles({"labels.txt": b"a"})
    assert found.read("labels.txt") == b"a"
    with pytest.raises(UnreadableFileError, match=r"'label.txt' is not in the package; did you mean 'labels.txt'\?"):
        found.read("label.txt")
    with pytest.raises(UnreadableFileError, match="'a' is not in the package, which holds no files of steps"):
        PackedFiles().read("a")


def test_the_files_of_a_pipeline_are_named_once_each():
    before = ({"step": "tokenise", "file": "t.json"}, {"step": "cast"}, {"step": "user", "file": 3})
    after = ({"step": "argmax", "labels_file": "l.txt"}, {"step": "top_k", "labels_file": "l.txt"})
    assert files_named(PipelineConfig(preprocess=before, postprocess=after)) == ("l.txt", "t.json")
