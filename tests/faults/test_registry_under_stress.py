"""Writers at once, a full disk, a lock held too long, a store that is away: no half of anything, and a clear error."""

import errno
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from fsspec.implementations.local import LocalFileSystem

from serving.errors import RegistryAway
from serving.registry.catalogue import FILE, Catalogue
from serving.registry.client import Registry
from serving.registry.names import Alias
from serving.registry.store import BlobStore
from tests.support import registries
from tests.support.registries import OPEN, version, write_package

ROOT = Path(__file__).parents[2]
WRITERS, PACKAGES = 3, 4


def test_writers_at_once_take_turns_and_lose_nothing(tmp_path):
    place = tmp_path / "registry"
    writers = []
    for writer in range(WRITERS):
        sources = [write_package(tmp_path / f"{writer}-{n}", 1 + writer * PACKAGES + n) for n in range(PACKAGES)]
        program = [
            sys.executable,
            "-m",
            "tests.faults.registry_writer",
            str(place),
            f"writer{writer}",
            *map(str, sources),
        ]
        writers.append(subprocess.Popen(program, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
    for process in writers:
        assert process.stdout.readline() == "ready\n"
    for process in writers:
        process.stdin.write("go\n")
        process.stdin.flush()
    told = [[int(line) for line in process.communicate()[0].split()] for process in writers]
    assert [process.returncode for process in writers] == [0] * WRITERS
    given = sorted(number for numbers in told for number in numbers)
    assert given == list(range(1, 1 + WRITERS * PACKAGES)), "each package has a number of its own"
    with Registry.open(str(place)) as registry:
        assert registries.sequences(registry) == list(range(1, 1 + WRITERS * PACKAGES))
        for writer, sequences in enumerate(told):
            assert registry.resolve(Alias("affine", f"writer{writer}")).sequence == sequences[-1]
        audit = registry.verify()
    assert (audit.findings, audit.records, audit.index_is_current) == ((), 2 * WRITERS * PACKAGES, True)


class FullDisk(LocalFileSystem):
    """A disk that has room for so many bytes more."""

    cachable = False

    def __init__(self, room_bytes):
        super().__init__()
        self.room_bytes = room_bytes

    def open(self, path, mode="rb", **options):
        file = super().open(path, mode, **options)
        if "w" in mode:
            write = file.f.write

            def bounded(content):
                self.room_bytes -= len(content)
                if self.room_bytes < 0:
                    raise OSError(errno.ENOSPC, "No space left on device")
                return write(content)

            file.write = bounded
        return file


@pytest.mark.parametrize("room_bytes", [0, 100, 1000])
def test_a_disk_that_fills_while_blobs_are_written_leaves_nothing_visible(tmp_path, room_bytes):
    place = registries.filled(tmp_path)
    third = write_package(tmp_path / "third", 3)
    with Registry.open(str(place)) as registry:
        store, head = registry._store, registry.head()
        registry._store = BlobStore(FullDisk(room_bytes), store.root)
        with pytest.raises(RegistryAway, match="No space left on device"):
            registry.push(third)
        assert registries.sequences(registry) == [1, 2]
        registry._store = store
        assert registry.verify(head=head).findings == ()
        assert list((place / "store" / "partial").iterdir()) == []
        assert registry.push(third).pushed.sequence == 3
        assert registry.verify(head=head).findings == ()


def test_a_disk_that_fills_after_the_record_does_not_undo_a_push(tmp_path, caplog):
    place = registries.filled(tmp_path)
    with Registry.open(str(place)) as registry:
        store = registry._store
        registry._store = BlobStore(FullDisk(2000), store.root)
        assert registry.push(write_package(tmp_path / "third", 3)).pushed.sequence == 3
        assert "index.json lags until the next push" in caplog.text
        registry._store = store
        assert not registry.verify().index_is_current
        registry.push(tmp_path / "third")
        assert registry.verify().index_is_current


def test_a_disk_that_fills_under_the_catalogue_leaves_it_whole(tmp_path):
    place = registries.filled(tmp_path)
    with Registry.open(str(place)) as registry:
        head = registry.head()
        connection = registry._catalogue._connection
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}")  # from here on SQLite answers as on a full disk
        with pytest.raises(RegistryAway, match="full"):
            registry.record("note", "affine", {"text": "x" * 500_000})
    with Registry.open(str(place)) as registry:
        assert registry.verify(head=head).findings == ()
        assert registry.record("note", "affine", {"text": "there is room again"}).previous


def test_a_writer_that_waits_too_long_for_another_says_so(tmp_path):
    place = registries.filled(tmp_path)
    holder = sqlite3.connect(place / FILE, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with Registry.open(str(place), busy_timeout_s=0.05) as registry:
        with pytest.raises(RegistryAway, match="another writer"):
            registry.promote(version(1), "staging", gate=OPEN)
        assert registries.sequences(registry) == [1, 2], "readers do not wait"
        holder.execute("ROLLBACK")
        registry.promote(version(1), "staging", gate=OPEN)
    holder.close()


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        ("disk I/O error", "is the disk full?"),
        ("unable to open database file", "able to write"),
        ("attempt to write a readonly database", "able to write"),
    ],
)
def test_sqlites_words_come_with_what_they_mean(tmp_path, monkeypatch, error, remedy):
    place = registries.filled(tmp_path)

    def fail(*_, **__):
        raise sqlite3.OperationalError(error)

    monkeypatch.setattr(sqlite3, "connect", fail)
    with pytest.raises(RegistryAway, match=remedy.replace("?", r"\?")):
        Registry.open(str(place))


def test_a_store_that_is_away_or_gone_is_one_error_and_the_catalogue_answers_on(tmp_path):
    place = registries.filled(tmp_path)
    third = write_package(tmp_path / "third", 3)
    (place / "store").rename(place / "away")
    (place / "store").touch()
    with Registry.open(str(place)) as registry:
        with pytest.raises(RegistryAway, match=r"store .* cannot be used"):
            registry.pull(version(1), tmp_path / "target")
        with pytest.raises(RegistryAway, match=r"store .* cannot be used"):
            registry.push(third)
        assert registry.resolve(Alias("affine", "production")).sequence == 2
        assert not (tmp_path / "target").exists()


def test_a_catalogue_that_is_made_by_two_at_once_is_made_once(tmp_path, monkeypatch):
    import serving.registry.catalogue as module

    real, seen = module._identity, []

    def late(connection):
        if not seen:
            seen.append(True)
            Catalogue.open(tmp_path, None, create=True).close()
            return (0, 0)
        return real(connection)

    monkeypatch.setattr(module, "_identity", late)
    Catalogue.open(tmp_path, None, create=True).close()
    assert seen
