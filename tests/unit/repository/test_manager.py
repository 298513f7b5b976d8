import contextlib
import ctypes
import os
import shutil
import tempfile
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from serving.errors import ConfigError, Draining, LoadError, LoadFailed, NotReady, UnknownModel
from serving.model import Servable
from serving.repository.lifecycle import State
from serving.repository.manager import ModelRepository
from tests.support import graphs
from tests.support.clocks import FakeClock
from tests.support.sessions import DEADLINE_S, FakeSession, Posts, servable

BROKEN = b"broken"


class World:
    """A repository whose models load unless their file holds `broken`; `loads` names every attempt."""

    def __init__(self, root, drain_timeout_s=DEADLINE_S):
        self.root, self.loads, self.changes = root, [], 0
        self.sessions = {}
        self.repository = ModelRepository(
            root, self.load, FakeClock(), drain_timeout_s=drain_timeout_s, changed=self.note_change
        )

    def note_change(self):
        self.changes += 1

    def load(self, name, version, path, config):
        self.loads.append(f"{name}/{version}")
        if path.read_bytes() == BROKEN:
            raise LoadError("the graph is broken")
        session = self.sessions[name, version] = FakeSession()
        return servable(session, FakeClock(), Posts(), name=name, version=version, config=config)

    def write(self, name, version=1, content=b"graph", config=None):
        folder = self.root / name / str(version)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.onnx").write_bytes(content)
        if config is not None:
            (self.root / name / "model.toml").write_text(config)

    def poll(self, times=2):
        """Look twice, as a change needs two equal scans; return what was tried to load."""
        before = len(self.loads)
        for _ in range(times):
            self.repository.refresh()
        return self.loads[before:]

    def index(self):
        return {f"{line.name}/{line.version}": (line.state, line.reason) for line in self.repository.index()}

    def states(self):
        return {name: state.name for name, (state, _) in self.index().items()}


@pytest.fixture
def world(repository):
    world = World(repository)
    yield world
    world.repository.close()
    assert all(session.closed for session in world.sessions.values())


# ---- the first load ------------------------------------------------------------------------------------------------


def test_every_model_is_loaded_by_its_policy(world):
    world.write("a", 1)
    world.write("a", 2)
    world.write("b", 7, config="version_policy = 'all'")
    world.write("b", 5)
    assert world.repository.why_not_ready() == "the models are being loaded"
    world.repository.load_all()
    assert world.states() == {"a/1": "UNLOADED", "a/2": "READY", "b/5": "READY", "b/7": "READY"}
    assert world.repository.why_not_ready() == ""
    assert world.index()["a/1"][1] == "not selected by version_policy latest(1)"
    assert [(one.name, one.version) for one in world.repository.servables()] == [("a", 2), ("b", 5), ("b", 7)]
    assert world.changes >= 2  # one for each version that serves, and one for the end of the first load


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="No such file or directory"):
        World(tmp_path / "nowhere").repository.load_all()


def test_an_empty_folder_is_ready_for_what_comes(world):
    world.repository.load_all()
    assert world.repository.why_not_ready() == ""
    world.write("a")
    world.poll()
    assert world.repository.ready_versions("a") == [1]


def test_a_broken_newest_version_leaves_an_older_one_serving(world):
    world.write("a", 1)
    world.write("a", 2, BROKEN)
    world.repository.load_all()
    assert world.index() == {"a/1": (State.READY, ""), "a/2": (State.FAILED, "the graph is broken")}
    handle = world.repository.find("a", "")
    assert handle.servable.version == 1
    handle.release()


@pytest.mark.parametrize("policy", ["specific(2, 9)", "all"])
def test_named_versions_have_no_substitute(world, policy):
    world.write("a", 2, BROKEN, config=f"version_policy = '{policy}'")
    world.repository.load_all()
    with pytest.raises(NotReady, match="version 2: the graph is broken"):
        world.repository.find("a", "")
    with pytest.raises(LoadFailed, match=r"ready versions: none") as caught:
        world.repository.load("a")
    assert ("version 9: asked for by version_policy" in str(caught.value)) == (policy != "all")


@pytest.mark.parametrize(
    ("prepare", "reason"),
    [
        (lambda root: (root / "bad").mkdir(), "no versions, expected bad/1/model.onnx"),
        (lambda root: (root / "bad/1").mkdir(parents=True), "no model.onnx in version 1"),
        (lambda root: (root / "bad/v1").mkdir(parents=True), "folder 'v1' is not a version, expected an integer"),
    ],
    ids=["empty", "empty_version", "not_an_integer"],
)  # fmt: skip
def test_a_model_with_nothing_to_load_says_why_while_others_serve(world, prepare, reason):
    world.write("good")
    prepare(world.root)
    world.repository.load_all()
    (why,) = [why for name, (_, why) in world.index().items() if name.startswith("bad")]
    assert why.startswith(reason)
    assert world.repository.unready_models() == ["bad"]
    assert world.repository.why_not_ready() == ""  # one broken model does not take the others out of service
    assert world.repository.ready_versions("good") == [1]
    with pytest.raises(NotReady, match="no ready version"):
        world.repository.find("bad", "")


def test_a_broken_model_toml_makes_its_model_unavailable_with_one_line(world, caplog):
    world.write("good")
    world.write("bad", config="[batching]\nbatch_row_max = 4")
    world.repository.load_all()
    state, reason = world.index()["bad/1"]
    assert state is State.FAILED
    assert (
        reason == f"{world.root}/bad/model.toml: [batching] unknown key 'batch_row_max'; did you mean 'batch_rows_max'?"
    )
    assert world.repository.ready_versions("good") == [1]
    assert caplog.text.count("unknown key") == 1
    assert "bad/1" not in world.loads


# ---- polling -------------------------------------------------------------------------------------------------------


def test_a_new_version_replaces_the_old_one_once_two_scans_agree(world):
    world.write("a", 1)
    world.repository.load_all()
    world.write("a", 2)
    assert world.poll(1) == []
    assert world.poll(1) == ["a/2"]
    assert world.states() == {"a/1": "UNLOADED", "a/2": "READY"}
    world.sessions["a", 1].wait_until_closed()


def test_a_file_that_still_grows_is_not_loaded(world):
    world.repository.load_all()
    for length in range(1, 5):
        world.write("a", 1, b"x" * length)
        assert world.poll(1) == []
    assert world.poll(1) == ["a/1"]


def test_an_unchanged_repository_loads_nothing_again(world):
    world.write("a", 1)
    world.write("b", 1, BROKEN)
    world.repository.load_all()
    assert world.poll(3) == []


def test_a_changed_file_is_loaded_beside_what_serves(world):
    world.write("a", 1)
    world.repository.load_all()
    old = world.sessions["a", 1]
    world.write("a", 1, b"another graph")
    assert world.poll() == ["a/1"]
    assert old.closed
    assert not world.sessions["a", 1].closed


def test_a_changed_file_that_does_not_load_leaves_the_old_one_serving_and_says_why(world):
    world.write("a", 1)
    world.repository.load_all()
    world.write("a", 1, BROKEN)
    assert world.poll(4) == ["a/1"]
    state, reason = world.index()["a/1"]
    assert state is State.READY
    assert "still serves: the graph is broken" in reason
    assert not world.sessions["a", 1].closed
    world.write("a", 1, b"mended graph")
    world.poll()
    assert world.index()["a/1"] == (State.READY, "")


def test_a_changed_configuration_swaps(world):
    world.write("a", 1)
    world.repository.load_all()
    world.write("a", 1, config="[batching]\nbatch_rows_max = 8")
    world.poll()
    (one,) = world.repository.servables()
    assert one.batch_rows_max == 8


def test_a_configuration_that_breaks_leaves_all_as_it_is_until_it_is_mended(world):
    world.write("a", 1)
    world.write("a", 2)
    world.repository.load_all()
    path = world.root / "a" / "model.toml"
    path.write_text("nonsense")
    assert world.poll() == []
    assert world.states() == {"a/1": "UNLOADED", "a/2": "READY"}
    assert all("not valid TOML" in reason for _, reason in world.index().values())
    path.unlink()
    world.poll()
    assert world.index() == {
        "a/1": (State.UNLOADED, "not selected by version_policy latest(1)"),
        "a/2": (State.READY, ""),
    }


def test_a_changed_policy_is_followed(world):
    for version in (1, 2, 3):
        world.write("a", version, config="version_policy = 'latest(1)'")
    world.repository.load_all()
    world.write("a", 3, config="version_policy = 'specific(1, 2)'")
    world.poll()
    assert world.repository.ready_versions("a") == [1, 2]
    assert world.index()["a/3"] == (State.UNLOADED, "not selected by version_policy specific(1, 2)")


def test_a_removed_version_is_retired_and_forgotten(world):
    world.write("a", 1, config="version_policy = 'all'")
    world.write("a", 2)
    world.repository.load_all()
    shutil.rmtree(world.root / "a" / "2")
    world.poll()
    assert world.states() == {"a/1": "READY"}
    world.sessions["a", 2].wait_until_closed()


def test_a_removed_model_is_retired_at_once_and_forgotten(world):
    world.write("a", 1)
    world.repository.load_all()
    shutil.rmtree(world.root / "a")
    world.poll(1)
    assert world.index() == {}
    world.sessions["a", 1].wait_until_closed()
    with pytest.raises(UnknownModel):
        world.repository.find("a", "")


def test_a_folder_that_goes_away_leaves_what_is_loaded(world, caplog):
    world.write("a", 1)
    world.repository.load_all()
    world.root.rename(world.root.with_name("gone"))
    world.poll()
    assert world.repository.ready_versions("a") == [1]
    assert "what is loaded goes on serving" in caplog.text


# ---- on request ----------------------------------------------------------------------------------------------------


def test_what_was_unloaded_on_request_stays_so_until_it_is_loaded(world):
    world.write("a", 1)
    world.repository.load_all()
    world.repository.unload("a")
    assert world.index()["a/1"] == (State.UNLOADED, "unloaded on request")
    assert world.repository.why_not_ready() == ""
    world.write("a", 2)
    assert world.poll(3) == []
    world.repository.load("a")
    assert world.repository.ready_versions("a") == [2]


def test_a_load_before_the_first_load_of_all_is_not_forgotten(world):
    world.write("a", 1)
    world.repository.load("a")
    world.repository.load_all()
    assert world.loads == ["a/1"]


def test_a_model_that_comes_back_while_it_is_drained_is_loaded_anew(world):
    world.write("a", 1)
    world.repository.load_all()
    old, handle = world.sessions["a", 1], world.repository.find("a", "")
    shutil.rmtree(world.root / "a")
    polling = threading.Thread(target=world.repository.refresh)
    polling.start()
    deadline_s = time.monotonic() + DEADLINE_S
    while world.index():  # until the poll has seen that the folder is gone, and waits for the handle
        assert time.monotonic() < deadline_s
    world.write("a", 1)
    world.repository.load("a")
    newer = world.repository.find("a", "")
    assert newer.servable is not handle.servable
    assert not old.closed
    newer.release()
    handle.release()
    polling.join(DEADLINE_S)
    assert old.closed
    assert world.repository.ready_versions("a") == [1]


def test_a_load_follows_the_folder_at_once_and_tries_again_what_failed(world):
    world.repository.load_all()
    world.write("a", 1, BROKEN)
    for _ in range(2):
        with pytest.raises(LoadFailed, match="version 1: the graph is broken"):
            world.repository.load("a")
    assert world.loads == ["a/1", "a/1"]
    world.write("a", 1)
    world.repository.load("a")
    assert world.repository.ready_versions("a") == [1]


def test_a_load_that_fails_says_what_serves(world):
    world.write("a", 1)
    world.repository.load_all()
    world.write("a", 2, BROKEN)
    with pytest.raises(LoadFailed, match=r"version 2: the graph is broken \(ready versions: 1\)"):
        world.repository.load("a")


def test_loading_what_serves_already_changes_nothing(world):
    world.write("a", 1)
    world.repository.load_all()
    world.repository.load("a")
    assert world.loads == ["a/1"]


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../outside", "a/1", "/etc", ".hidden", "nobody", "a\0", "x" * 300, "file"]
)
def test_a_name_that_is_no_folder_of_the_repository_is_unknown(world, name):
    world.write("a", 1)
    world.write(".hidden", 1)
    world.write("../outside", 1)
    (world.root / "file").touch()
    world.repository.load_all()
    with pytest.raises(UnknownModel):
        world.repository.load(name)
    with pytest.raises(UnknownModel):
        world.repository.unload(name)
    assert world.loads == ["a/1"]


@contextlib.contextmanager
def without(*folders):
    """Make folders unreadable, for root too: this thread, and those it starts, do without root's rights to files."""
    library = ctypes.CDLL(None)
    for folder in folders:
        folder.chmod(0)
    library.setfsuid(os.getuid() or 65534)
    try:
        yield
    finally:
        library.setfsuid(os.getuid())
        for folder in folders:
            folder.chmod(0o755)


def test_an_unreadable_model_is_unavailable_while_others_serve():
    with tempfile.TemporaryDirectory() as root:  # pytest's own folders are closed to others
        Path(root).chmod(0o755)
        world = World(Path(root))
        for name in ("good", "bad", "half"):
            world.write(name, 1)
        with without(world.root / "bad", world.root / "half/1"):
            world.repository.load_all()
        index = world.index()
        world.repository.close()
    assert index["good/1"] == (State.READY, "")
    assert index["bad/"][0] is State.FAILED
    assert "Permission denied" in index["bad/"][1]
    assert index["half/1"] == (State.FAILED, "cannot be read: Permission denied")


# ---- finding -------------------------------------------------------------------------------------------------------


def test_the_newest_ready_version_answers_when_none_is_named(world):
    for version in (2, 10, 9):
        world.write("a", version, config="version_policy = 'all'")
    world.repository.load_all()
    for asked, answers in (("", 10), ("9", 9)):
        handle = world.repository.find("a", asked)
        assert handle.servable.version == answers
        handle.release()


@pytest.mark.parametrize("version", ["3", "02", "-1", "one", "1.0", " 2", "1" * 5000])
def test_an_unknown_version_is_refused_with_those_there_are(world, version):
    world.write("a", 2)
    world.repository.load_all()
    with pytest.raises(UnknownModel, match=r"there are: 2$"):
        world.repository.find("a", version)


def test_a_known_version_that_does_not_serve_says_why(world):
    world.write("a", 1)
    world.write("a", 2)
    world.repository.load_all()
    with pytest.raises(NotReady, match="version 1 is unloaded: not selected by version_policy"):
        world.repository.find("a", "1")


def test_a_replaced_servable_is_closed_when_its_last_user_has_left(repository):
    world = World(repository, drain_timeout_s=0.0)  # nobody waits for the user below
    world.write("a", 1)
    world.repository.load_all()
    old = world.sessions["a", 1]
    handle = world.repository.find("a", "")
    world.write("a", 1, b"another graph")
    world.poll()
    newer = world.repository.find("a", "")
    assert newer.servable is not handle.servable
    assert not old.closed
    handle.release()
    old.wait_until_closed()
    newer.release()
    world.repository.close()
    world.sessions["a", 1].wait_until_closed()


def test_a_version_whose_requests_outlast_the_drain_timeout_is_unloading_until_they_end(repository, caplog):
    world = World(repository, drain_timeout_s=0.0)
    world.write("a", 1)
    world.repository.load_all()
    handle = world.repository.find("a", "")
    world.repository.unload("a")
    assert world.states() == {"a/1": "UNLOADING"}
    assert "requests of a retired version still run" in caplog.text
    with pytest.raises(LoadFailed, match="version 1: still answering its last requests"):
        world.repository.load("a")
    handle.release()
    world.sessions["a", 1].wait_until_closed()


def test_an_older_version_does_not_step_in_for_one_that_still_answers(repository):
    world = World(repository, drain_timeout_s=0.0)
    world.write("a", 1)
    world.write("a", 2)
    world.repository.load_all()
    handle = world.repository.find("a", "2")
    world.repository.unload("a")
    with pytest.raises(LoadFailed, match="version 2: still answering its last requests"):
        world.repository.load("a")
    assert world.repository.ready_versions("a") == []
    handle.release()
    world.sessions["a", 2].wait_until_closed()


def test_a_repository_whose_every_model_is_broken_is_not_ready(world):
    (world.root / "bad").mkdir()
    world.repository.load_all()
    assert world.repository.why_not_ready() == "no model has a ready version"


def test_real_graphs_load_through_the_real_session(repository):
    graphs.write_model(repository, "affine", graphs.affine())
    (graphs.write_model(repository, "bad", graphs.affine()) / "model.onnx").write_bytes(b"no graph")
    clock = FakeClock()
    models = ModelRepository(
        repository, partial(Servable.load, clock=clock, post=Posts()), clock, drain_timeout_s=9, changed=lambda: None
    )
    models.load_all()
    index = {line.name: (line.state, line.reason) for line in models.index()}
    models.close()
    assert index["affine"] == (State.READY, "")
    assert index["bad"][0] is State.FAILED
    assert index["bad"][1].startswith("onnxruntime cannot load model.onnx: ")


def test_loading_stops_with_the_versions_that_are_under_way(repository):
    loaded = []

    def load(name, version, path, config):
        manager.stop_loading()
        loaded.append(name)
        return servable(FakeSession(), FakeClock(), Posts(), name=name, version=version, config=config)

    for name in "abcdefgh":
        graphs.write_model(repository, name, graphs.affine())
    manager = ModelRepository(repository, load, FakeClock(), drain_timeout_s=DEADLINE_S, changed=lambda: None)
    manager.load_all()
    assert 1 <= len(loaded) <= 2
    with pytest.raises(Draining):
        manager.load("h")
    manager.close()
