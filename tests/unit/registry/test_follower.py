import json
import sqlite3

import pytest

from serving import package
from serving.registry.catalogue import FILE
from serving.registry.client import Registry
from serving.registry.follower import AliasFollower
from serving.registry.names import Alias
from tests.support import packages, registries
from tests.support.registries import OPEN, version

PRODUCTION = Alias("affine", "production")


class Server:
    """Takes what is handed over; refuses the packages in `refuses`."""

    def __init__(self):
        self.seen, self.refuses = [], set()

    def deliver(self, alias, pulled):
        assert alias == PRODUCTION
        try:
            sequences = [package.verify(each.path) and each.sequence for each in pulled]
        except package.reading.PackageError as error:
            return [str(error)]
        self.seen.append(sequences)
        return ["it does not load"] if pulled[0].sequence in self.refuses else []


@pytest.fixture
def place(tmp_path):
    return registries.filled(tmp_path, 3)


@pytest.fixture
def server():
    return Server()


@pytest.fixture
def follow(place, server, tmp_path):
    return lambda: AliasFollower(str(place), [PRODUCTION], tmp_path / "cache", server.deliver)


def move(place, sequence):
    with Registry.open(str(place)) as registry:
        registry.promote(version(sequence), "production", gate=OPEN)


def cached(tmp_path):
    return sorted(entry.name.split("-")[0] for entry in (tmp_path / "cache" / str(PRODUCTION)).iterdir()
                  if entry.is_dir())  # fmt: skip


def test_what_the_alias_names_serves_and_the_one_before_stays_warm(place, follow, server, tmp_path):
    follower = follow()
    follower.look()
    move(place, 1)
    follower.look()
    follower.look()
    move(place, 2)
    follower.look()
    assert server.seen == [[3], [1, 3], [1, 3], [2, 1]]
    assert cached(tmp_path) == ["1", "2"]


def test_what_does_not_load_is_refused_once_and_what_serves_goes_on(place, follow, server, caplog):
    follower = follow()
    follower.look()
    server.refuses.add(1)
    move(place, 1)
    for _ in range(3):
        follower.look()
    assert server.seen == [[3], [1, 3], [3]]
    assert caplog.text.count("package 1 does not serve: it does not load") == 1
    move(place, 2)
    follower.look()
    assert server.seen[-1] == [2, 3]


def test_without_the_registry_what_serves_goes_on_and_it_is_told_once(place, follow, server, caplog):
    follower = follow()
    follower.look()
    place.rename(place.with_name("away"))
    for _ in range(3):
        follower.look()
    assert server.seen == [[3]]
    assert caplog.text.count("what serves goes on serving") == 1
    place.with_name("away").rename(place)
    move(place, 1)
    follower.look()
    assert server.seen[-1] == [1, 3]


def test_a_server_that_starts_without_the_registry_serves_what_served_last(place, follow, server):
    follow().look()
    move(place, 1)
    restarted = follow()
    place.rename(place.with_name("away"))
    restarted.look()
    restarted.look()
    assert server.seen == [[3], [3]]
    place.with_name("away").rename(place)
    restarted.look()
    assert server.seen[-1] == [1, 3]
    follow().look()
    assert server.seen[-1] == [1, 3], "a restarted server keeps the one before warm too"


def test_a_damaged_copy_is_pulled_again(place, follow, server, tmp_path, caplog):
    follow().look()
    folder = next((tmp_path / "cache" / str(PRODUCTION)).glob("3-*"))
    model = package.read(folder).find(package.Part.MODEL)
    packages.blob_path(folder, model.digest).write_bytes(b"x" * model.bytes_count)
    restarted = follow()
    restarted.look()
    assert "is pulled again" in caplog.text
    restarted.look()
    assert server.seen == [[3], [3]]


def test_a_copy_that_is_no_package_any_more_is_pulled_again(follow, server, tmp_path, caplog):
    follow().look()
    folder = next((tmp_path / "cache" / str(PRODUCTION)).glob("3-*"))
    (folder / "index.json").unlink()
    restarted = follow()
    restarted.look()
    assert "it is pulled again" in caplog.text
    restarted.look()
    assert server.seen == [[3], [3]]


def test_a_registry_that_gives_other_bytes_changes_nothing(place, follow, server, caplog):
    follower = follow()
    follower.look()
    with Registry.open(str(place)) as registry:
        model = registry.package(version(1)).blobs[1]
    (place / "store" / "blobs" / "sha256" / model.digest[7:]).write_bytes(b"x" * model.bytes_count)
    move(place, 1)
    follower.look()
    assert server.seen == [[3]]
    assert model.digest in caplog.text


@pytest.mark.parametrize(
    "state", [b"", b"{}", b'{"packages": 7}', b'{"packages": [{"sequence": 1, "package": "../x"}]}']
)
def test_a_state_that_cannot_be_read_is_none(place, follow, server, tmp_path, state):
    follow().look()
    (tmp_path / "cache" / str(PRODUCTION) / "state.json").write_bytes(state)
    place.rename(place.with_name("away"))
    follow().look()
    assert server.seen == [[3]]


def test_an_alias_of_nothing_is_told(place, server, tmp_path, caplog):
    AliasFollower(str(place), [Alias("affine", "none")], tmp_path, server.deliver).look()
    assert "affine@none names no package" in caplog.text


def test_settings_that_cannot_be_used_are_told(place, follow, server, caplog):
    (place / "registry.toml").write_text("stroe = 7")
    follow().look()
    assert "did you mean 'store'" in caplog.text


def test_a_cache_that_cannot_be_written_leaves_what_serves(follow, server, tmp_path, caplog):
    (tmp_path / "cache").write_text("a file")
    follow().look()
    assert server.seen == []
    assert "what serves goes on serving" in caplog.text


def test_the_state_names_what_is_in_the_cache(follow, tmp_path):
    follow().look()
    folder = tmp_path / "cache" / str(PRODUCTION)
    (entry,) = json.loads((folder / "state.json").read_text())["packages"]
    assert package.read(next(folder.glob("3-*"))).digest == entry["package"]


def test_a_catalogue_that_is_held_delays_a_look_only_for_so_long(place, follow, server, monkeypatch, caplog):
    follower = follow()
    follower.look()
    monkeypatch.setattr("serving.registry.follower.BUSY_TIMEOUT_S", 0.01)
    holder = sqlite3.connect(place / FILE, isolation_level=None)
    holder.execute("PRAGMA locking_mode = EXCLUSIVE")
    holder.execute("BEGIN EXCLUSIVE")
    follower.look()
    holder.close()
    assert "another writer has held it for too long; try again; what serves goes on serving" in caplog.text
    assert server.seen == [[3]]
