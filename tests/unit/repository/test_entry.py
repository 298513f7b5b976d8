import shutil
import threading

import pytest

from serving.errors import Draining
from serving.repository.entry import ModelEntry
from serving.repository.lifecycle import State
from serving.repository.scanner import scan_model
from tests.support.clocks import FakeClock
from tests.support.sessions import DEADLINE_S, FakeSession, Posts, servable


class Loader:
    """Loads fake sessions; `before` runs first, and may wait or raise."""

    def __init__(self):
        self.before, self.running, self.most_at_once, self.sessions = lambda: None, 0, 0, []

    def __call__(self, name, version, path, config):
        self.running += 1
        self.most_at_once = max(self.most_at_once, self.running)
        try:
            self.before()
        finally:
            self.running -= 1
        self.sessions.append(FakeSession())
        return servable(self.sessions[-1], FakeClock(), Posts(), name=name, version=version, config=config)


def raise_one(mistakes):
    """Make one of the mistakes that are left."""
    if mistakes:
        raise mistakes.pop()


@pytest.fixture
def folder(repository):
    for version in (1, 2):
        (repository / "m" / str(version)).mkdir(parents=True)
        (repository / "m" / str(version) / "model.onnx").touch()
    return repository / "m"


@pytest.fixture
def loader():
    return Loader()


@pytest.fixture
def entry(loader):
    entry = ModelEntry("m", loader, FakeClock(), stopping=threading.Event(), changed=lambda: None)
    yield entry
    entry.unload("the test is over", wait_s=DEADLINE_S)
    for session in loader.sessions:
        session.wait_until_closed()  # what was retired earlier is closed on a thread of its own


def test_the_index_tells_of_a_version_that_is_loading(entry, loader, folder):
    loading, go = threading.Event(), threading.Event()

    def wait():
        loading.set()
        assert go.wait(DEADLINE_S)

    loader.before = wait
    thread = threading.Thread(target=lambda: entry.apply(scan_model(folder), on_request=True))
    thread.start()
    assert loading.wait(DEADLINE_S)
    assert [(line.version, line.state) for line in entry.index()] == [("2", State.LOADING)]
    assert entry.ready_versions == []
    go.set()
    thread.join(DEADLINE_S)
    assert entry.ready_versions == [2]


def test_changes_of_one_model_happen_one_at_a_time(entry, loader, folder):
    together = threading.Barrier(4)

    def apply():
        together.wait(DEADLINE_S)
        entry.apply(scan_model(folder), on_request=True)

    threads = [threading.Thread(target=apply) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert loader.most_at_once == 1
    assert len(loader.sessions) == 1


def test_an_unexpected_mistake_while_loading_costs_that_version_only(entry, loader, folder, caplog):
    mistakes = [RuntimeError("secret detail")]
    loader.before = lambda: raise_one(mistakes)
    failures = entry.apply(scan_model(folder), on_request=True)
    assert failures == ["version 2: RuntimeError while loading; the log has the details"]
    assert entry.ready_versions == [1]
    assert "secret detail" in caplog.text
    assert entry.apply(scan_model(folder), on_request=True) == []
    assert entry.ready_versions == [2]


def test_what_is_not_tried_again_by_polling_is_tried_on_request(entry, loader, folder):
    mistakes = [RuntimeError()]
    loader.before = lambda: raise_one(mistakes)
    entry.apply(scan_model(folder), on_request=False)
    assert entry.apply(scan_model(folder), on_request=False)
    assert entry.ready_versions == [1]
    assert entry.apply(scan_model(folder), on_request=True) == []


def add(folder, version):
    (folder / str(version)).mkdir()
    (folder / str(version) / "model.onnx").touch()


def test_a_swap_between_two_looks_refuses_nobody(entry, loader, folder):
    """A loader may replace the table, and retire what it held, while a request looks for its servable."""
    entry.apply(scan_model(folder), on_request=True)
    add(folder, 3)

    class Swapping(dict):
        def get(self, number):
            found = super().get(number)
            if len(loader.sessions) == 1:
                entry.apply(scan_model(folder), on_request=True)
            return found

    entry._handles = Swapping(entry._handles)
    handle = entry.pin("")
    assert handle.servable.version == 3
    handle.release()


def test_what_was_unloaded_on_request_does_not_follow_its_folder(entry, folder):
    entry.unload("unloaded on request", wait_s=DEADLINE_S)
    assert entry.apply(scan_model(folder), on_request=False) == []
    assert entry.ready_versions == []


def test_a_version_that_comes_back_while_it_unloads_leaves_the_one_that_serves(entry, folder):
    entry.apply(scan_model(folder), on_request=True)
    handle = entry.pin("2")
    shutil.rmtree(folder / "2")
    entry.apply(scan_model(folder), on_request=False)
    assert entry.ready_versions == [1]
    add(folder, 2)
    assert "still answering its last requests" in entry.apply(scan_model(folder), on_request=False)[0]
    assert entry.ready_versions == [1]
    handle.release()


def test_nothing_is_loaded_once_the_server_is_stopping(loader, folder):
    stopping = threading.Event()
    entry = ModelEntry("m", loader, FakeClock(), stopping=stopping, changed=lambda: None)
    stopping.set()
    with pytest.raises(Draining):
        entry.apply(scan_model(folder), on_request=True)
    assert loader.sessions == []
