import json
import os
import signal
import subprocess
import sys
import threading

import pytest

from serving.errors import ConfigError
from serving.release.pipeline import workplace as module
from serving.release.pipeline.process import start_of
from serving.release.pipeline.workplace import Workplace


@pytest.fixture
def place(tmp_path):
    found = Workplace(tmp_path / "work")
    with found.locked(wait=False):
        yield found


def make(place, key="sha256:" + "a" * 64, text="made"):
    draft = place.begin("train")
    (draft / "out" / "model").write_text(text)
    (draft / "scratch" / "rubbish").write_text("x")
    return place.keep(draft, key, ["model"], run=3, seconds=1.5)


def test_what_was_made_is_found_by_its_key(place):
    made = make(place)
    found = place.find("train", "sha256:" + "a" * 64, ["model"])
    assert found == made
    assert (found.path("model").read_text(), found.run, found.seconds) == ("made", 3, 1.5)
    assert not (found.folder / "scratch").exists()
    assert place.find("train", "sha256:" + "b" * 64, ["model"]) is None
    assert place.find("test", "sha256:" + "a" * 64, ["model"]) is None


@pytest.mark.parametrize("damage", [
    lambda made: made.path("model").write_text("other"),
    lambda made: made.path("model").unlink(),
    lambda made: (made.folder / "result.json").write_text("{"),
    lambda made: (made.folder / "result.json").write_text('{"key": 1}'),
    lambda made: (made.folder / "result.json").unlink(),
])  # fmt: skip
def test_what_is_not_as_it_was_made_is_not_found(place, damage):
    made = make(place)
    damage(made)
    assert place.find("train", "sha256:" + "a" * 64, ["model"]) is None


def test_an_output_that_is_missing_is_said(place):
    draft = place.begin("train")
    with pytest.raises(ConfigError, match=r"did not make \{out:model\}"):
        place.keep(draft, "sha256:" + "a" * 64, ["model"], run=1, seconds=0)


def test_a_workplace_that_cannot_be_written_any_more_is_one_clear_error(place):
    with pytest.raises(ConfigError, match=r"process\.json cannot be written"):
        place.started(place.folder / "drafts" / "gone", 1)
    (place.folder / "run").mkdir()
    with pytest.raises(ConfigError, match="run cannot be written"):
        place.end_run()


def test_results_that_were_not_used_for_longest_are_forgotten(place, monkeypatch):
    monkeypatch.setattr(module, "KEPT_MAX", 2)
    keys = [f"sha256:{letter * 64}" for letter in "abc"]
    for age, key in enumerate(keys[:2]):
        os.utime(make(place, key).folder, ns=(age, age))
    place.find("train", keys[0], ["model"])
    make(place, keys[2])
    assert [place.find("train", key, ["model"]) is not None for key in keys] == [True, False, True]


def test_a_second_run_is_refused_while_one_goes_on(place):
    with (
        pytest.raises(ConfigError, match="another run of this pipeline goes on in"),
        Workplace(place.folder).locked(wait=False),
    ):
        pass


def test_a_run_that_waits_begins_when_the_other_one_has_ended(tmp_path):
    order = []

    def second():
        with Workplace(tmp_path).locked(wait=True):
            order.append("second")

    with Workplace(tmp_path).locked(wait=False):
        thread = threading.Thread(target=second)
        thread.start()
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_what_a_killed_run_left_is_removed_and_its_program_ended(tmp_path):
    draft = tmp_path / "drafts" / "train"
    draft.mkdir(parents=True)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    (draft / "process.json").write_text(json.dumps({"pid": child.pid, "start": start_of(child.pid)}))
    with Workplace(tmp_path).locked(wait=False):
        assert child.wait() == -signal.SIGKILL
        assert not draft.exists()


def test_a_process_that_only_has_the_same_id_is_left_alone(tmp_path):
    draft = tmp_path / "drafts" / "train"
    draft.mkdir(parents=True)
    child = subprocess.Popen([sys.executable, "-c", "input()"], start_new_session=True, stdin=subprocess.PIPE)
    (draft / "process.json").write_text(json.dumps({"pid": child.pid, "start": start_of(child.pid) - 1}))
    with Workplace(tmp_path).locked(wait=False):
        child.communicate(b"\n")
    assert child.returncode == 0


def test_the_run_that_was_killed_is_known_until_one_ends(place):
    assert place.killed_run() is None
    place.begin_run(17)
    assert place.killed_run() == 17
    place.end_run()
    assert place.killed_run() is None


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ConfigError, match="cannot be written"),
        Workplace(tmp_path / "file" / "work").locked(wait=False),
    ):
        pass
