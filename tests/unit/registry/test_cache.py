"""A cache may be shared: nothing is removed under somebody who needs it, and what killed servers leave is."""

import threading

import pytest

from serving import package
from serving.errors import RegistryDamaged
from serving.registry.cache import hold, keep_only, pull_into, remove
from serving.registry.client import Registry
from tests.support import registries
from tests.support.registries import version


@pytest.fixture
def registry(tmp_path):
    with Registry.open(str(registries.filled(tmp_path, 2))) as opened:
        yield opened


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache" / "packages"


def pull(folder, registry, sequence=1):
    return pull_into(folder, registry, registry.resolve(version(sequence)))


def left_by_a_killed_server(folder):
    draft = folder / ".1-0123456789abcdef.0a1b2c3d.part"
    (draft / "blobs").mkdir(parents=True)
    return draft


def test_what_was_pulled_is_not_pulled_again(folder, registry, monkeypatch):
    pulled = pull(folder, registry)
    monkeypatch.setattr(Registry, "pull", None)
    assert pull(folder, registry) == pulled
    assert package.verify(pulled.path).digest == pulled.digest


def test_what_is_not_what_it_was_goes(folder, registry):
    pulled = pull(folder, registry)
    (pulled.path / "index.json").write_text("{}")
    with pytest.raises(RegistryDamaged, match="it is pulled again"):
        pull(folder, registry)
    assert pull(folder, registry) == pulled


def test_what_a_killed_server_left_is_removed_by_the_next_pull(folder, registry):
    draft = left_by_a_killed_server(folder)
    pull(folder, registry)
    assert not draft.exists()


def test_what_another_server_may_be_pulling_now_is_left_alone(folder, registry):
    draft = left_by_a_killed_server(folder)
    with hold(folder):
        pull(folder, registry)
    assert draft.exists()
    pull(folder, registry, 2)
    assert not draft.exists()


def test_a_folder_that_somebody_holds_is_not_removed(folder, registry):
    pull(folder, registry)
    with hold(folder), hold(folder):
        remove(folder)
        assert folder.exists()
    remove(folder)
    assert not folder.exists()
    remove(folder)


def test_of_two_that_pull_the_same_at_once_both_get_it(folder, registry, monkeypatch):
    place = str(registry.folder)
    both = threading.Barrier(2)
    real = package.writing._flush_folder

    def together(path):
        if path.parent == folder and path.name.endswith(".part"):
            both.wait(30)  # both are about to put it in its place
        real(path)

    monkeypatch.setattr(package.writing, "_flush_folder", together)
    found = []

    def work():
        with Registry.open(place) as own:
            found.append(pull(folder, own))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    first, second = found
    assert first == second
    assert package.verify(first.path).digest == first.digest
    assert [entry.name for entry in folder.iterdir()] == [first.path.name]


def test_only_what_is_needed_is_kept(folder, registry):
    first, second = pull(folder, registry), pull(folder, registry, 2)
    draft = left_by_a_killed_server(folder)
    keep_only(folder, [second])
    assert not first.path.exists()
    assert second.path.exists()
    assert draft.exists()


def test_where_nothing_can_be_locked_packages_are_pulled_all_the_same(folder, registry, monkeypatch):
    def refuse(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    pulled = pull(folder, registry)
    remove(folder)
    assert pulled.path.exists()
