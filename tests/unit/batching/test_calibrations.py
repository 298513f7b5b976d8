import errno
import json
import os

import pytest

from serving.batching import calibrations
from serving.batching.calibrations import Calibrations, files_of, key_of

SAMPLES = [(1, 1000.0), (2, 1500.0)]


@pytest.fixture
def version(tmp_path):
    folder = tmp_path / "m" / "1"
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(b"a graph")
    return folder


def test_what_was_written_is_read_again_also_by_another_process(tmp_path):
    Calibrations(tmp_path / "kept").write("k", SAMPLES)
    assert Calibrations(tmp_path / "kept").read("k") == SAMPLES
    assert Calibrations(tmp_path / "kept").read("other") is None


def test_without_a_folder_nothing_is_kept(version):
    kept = Calibrations(None)
    kept.write(kept.key(version), SAMPLES)
    assert kept.read(kept.key(version)) is None


@pytest.mark.parametrize(
    "text", ["", "[", "{}", "[]", "[[1]]", '[["a", 1]]', "[[2, 1], [1, 1]]", "[[0, 1]]", "[[1, NaN]]", "[[1, -1]]", "3"]
)
def test_a_file_that_holds_something_else_counts_as_none(tmp_path, text):
    (tmp_path / "k.json").write_text(text)
    assert Calibrations(tmp_path).read("k") is None


def test_a_folder_that_cannot_be_made_costs_nothing_but_the_samples(tmp_path):
    (tmp_path / "file").write_text("")
    kept = Calibrations(tmp_path / "file" / "folder")
    kept.write("k", SAMPLES)
    assert kept.read("k") is None


def test_a_full_disk_is_not_filled_by_halves_of_files(tmp_path, monkeypatch):
    def fails(samples, file):
        file.write("[[1,")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(calibrations.json, "dump", fails)
    Calibrations(tmp_path).write("k", SAMPLES)
    assert not list(tmp_path.iterdir())


def test_the_files_used_last_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(calibrations, "FILES_MAX", 2)
    kept = Calibrations(tmp_path)
    for number, key in enumerate("abc"):
        (tmp_path / f"{key}.json").write_text(json.dumps(SAMPLES))
        os.utime(tmp_path / f"{key}.json", (number, number))
    assert kept.read("a") == SAMPLES
    kept.write("d", SAMPLES)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "d.json"]


def test_a_key_follows_the_files_and_the_facts(version):
    key = key_of(files_of(version), "two threads")
    assert key == key_of(files_of(version), "two threads")
    assert key != key_of(files_of(version), "one thread")
    (version / "weights").write_bytes(b"w")
    assert key != (with_weights := key_of(files_of(version), "two threads"))
    (version / "weights").write_bytes(b"x")
    assert key_of(files_of(version), "two threads") != with_weights
