import json

import numpy as np
import pytest

from serving.errors import ConfigError
from serving.scoring.spool import ANSWERS, CHECKPOINT, Spool

JOB = {"model": "sha256:0", "chunk_rows": 3}


def chunk(start):
    return [np.arange(start, start + 3, dtype=np.float32), np.array(["a", "bc" * start, ""])]


def held(spool):
    return [[array.tolist() for array in arrays] for arrays in spool.chunks(2)]


def test_what_was_kept_is_there_for_the_next_process(tmp_path):
    spool = Spool(tmp_path / "s", JOB)
    spool.append(3, chunk(0))
    spool.close()
    again = Spool(tmp_path / "s", JOB)
    assert again.rows == 3
    again.append(3, chunk(3))
    assert held(again) == [[array.tolist() for array in chunk(start)] for start in (0, 3)]
    again.remove()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("tail", [b"x", bytes(1000)], ids=["half a record", "more"])
def test_what_came_after_the_checkpoint_is_cut_off(tmp_path, tail):
    spool = Spool(tmp_path / "s", JOB)
    spool.append(3, chunk(0))
    spool.close()
    with (tmp_path / "s" / ANSWERS).open("ab") as file:
        file.write(tail)
    again = Spool(tmp_path / "s", JOB)
    again.append(3, chunk(3))
    again.close()
    last = Spool(tmp_path / "s", JOB)
    assert last.rows == 6
    assert held(last) == [[array.tolist() for array in chunk(start)] for start in (0, 3)]
    last.close()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: (folder / CHECKPOINT).unlink(),
        lambda folder: (folder / CHECKPOINT).write_text("{"),
        lambda folder: (folder / CHECKPOINT).write_text("[]"),
        lambda folder: (folder / CHECKPOINT).write_text(json.dumps({"job": JOB, "rows": 3, "bytes": 10**9})),
        lambda folder: (folder / CHECKPOINT).write_text(json.dumps({"job": {}, "rows": 3, "bytes": 10})),
        lambda folder: (folder / ANSWERS).write_bytes(b""),
    ],
    ids=["gone", "cut", "list", "too long", "other job", "no answers"],
)
def test_a_folder_that_cannot_be_gone_on_with_is_begun_anew(tmp_path, spoil):
    spool = Spool(tmp_path / "s", JOB)
    spool.append(3, chunk(0))
    spool.close()
    spoil(tmp_path / "s")
    again = Spool(tmp_path / "s", JOB)
    assert again.rows == 0
    assert held(again) == []
    again.close()


def test_two_processes_do_not_score_into_one_file(tmp_path):
    spool = Spool(tmp_path / "s", JOB)
    with pytest.raises(ConfigError, match="is in use by another process"):
        Spool(tmp_path / "s", JOB)
    spool.close()
    Spool(tmp_path / "s", JOB).close()


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="s cannot be written: Not a directory"):
        Spool(tmp_path / "file" / "s", JOB)


def somebodys_file(folder, elsewhere):
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")


def linked_answers(folder, elsewhere):
    folder.mkdir()
    (folder / ANSWERS).symlink_to(elsewhere)


def linked_folder(folder, elsewhere):
    (elsewhere.parent / "other").mkdir()
    folder.symlink_to(elsewhere.parent / "other")


@pytest.mark.parametrize("make", [somebodys_file, linked_answers, linked_folder])
def test_a_folder_that_no_spool_made_is_refused_and_left_as_it_is(tmp_path, make):
    (tmp_path / "precious").write_text("mine")
    make(tmp_path / "s", tmp_path / "precious")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigError, match="move it away, or name another file"):
        Spool(tmp_path / "s", JOB)
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "precious").read_text() == "mine"


def test_what_somebody_put_into_the_folder_meanwhile_is_not_removed(tmp_path):
    spool = Spool(tmp_path / "s", JOB)
    (tmp_path / "s" / "notes.txt").write_text("mine")
    spool.remove()
    assert [file.name for file in (tmp_path / "s").iterdir()] == ["notes.txt"]
