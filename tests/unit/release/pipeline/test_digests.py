import os

import pytest

from serving.errors import ConfigError
from serving.release.pipeline import digests
from serving.release.pipeline.digests import digest_path, stamp_of


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "src" / "deep").mkdir(parents=True)
    (tmp_path / "src" / "a.py").write_text("1")
    (tmp_path / "src" / "deep" / "b.py").write_text("2")
    return tmp_path / "src"


def test_a_folder_is_named_by_the_names_and_contents_in_it(folder):
    before = digest_path(folder).digest
    (folder / "a.py").write_text("1")
    assert digest_path(folder).digest == before
    (folder / "deep" / "b.py").rename(folder / "deep" / "c.py")
    renamed = digest_path(folder).digest
    (folder / "deep" / "c.py").write_text("3")
    assert len({before, renamed, digest_path(folder).digest}) == 3


def test_what_programs_leave_behind_does_not_count(folder):
    before = digest_path(folder).digest
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "a.pyc").write_text("x")
    (folder / ".hidden").write_text("x")
    assert digest_path(folder).digest == before


def test_a_stamp_changes_when_a_file_is_written_again(folder):
    found = digest_path(folder)
    assert stamp_of(folder) == found.stamp
    os.utime(folder / "a.py", ns=(1, 1))
    assert digest_path(folder).digest == found.digest
    assert stamp_of(folder) != found.stamp
    file = digest_path(folder / "a.py")
    assert stamp_of(folder / "a.py") == file.stamp
    assert stamp_of(folder / "gone") == ""


def test_what_cannot_be_digested_is_said_in_one_line(folder, monkeypatch):
    with pytest.raises(ConfigError, match="gone cannot be read"):
        digest_path(folder / "gone")
    (folder / "link").symlink_to(folder / "deep")
    with pytest.raises(ConfigError, match="is a link to a folder"):
        digest_path(folder)
    (folder / "link").unlink()
    os.mkfifo(folder / "pipe")
    with pytest.raises(ConfigError, match="is no file"):
        digest_path(folder)
    (folder / "pipe").unlink()
    monkeypatch.setattr(digests, "FILES_MAX", 1)
    with pytest.raises(ConfigError, match="more than 1 files"):
        digest_path(folder)
