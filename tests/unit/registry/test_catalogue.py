import sqlite3

import pytest

from serving.clock import MonotonicClock
from serving.errors import RegistryAway, RegistryDamaged, RegistryError
from serving.registry.catalogue import FILE, Catalogue
from serving.registry.names import Alias, Version
from serving.registry.record import GENESIS, parse

DIGEST = "sha256:" + "1" * 64


@pytest.fixture
def catalogue(tmp_path):
    opened = Catalogue.open(tmp_path, MonotonicClock(), create=True)
    yield opened
    opened.close()


def push(catalogue, sequence=1, model="fraud"):
    with catalogue.writing():
        facts = {"sequence": sequence, "package": DIGEST}
        return catalogue.append(who="ada", kind="push", model=model, facts=facts)


def test_each_record_follows_on_the_one_before_and_the_last_is_the_head(catalogue):
    assert catalogue.head() == (0, GENESIS)
    first, second = push(catalogue, 1), push(catalogue, 2)
    assert (first.previous, second.previous) == (GENESIS, first.digest)
    assert catalogue.head() == (2, second.digest)
    assert [parse(text) for _, text, _ in catalogue.lines()] == [first, second] == catalogue.records()


def test_packages_and_aliases_follow_from_the_records(catalogue):
    push(catalogue, 1)
    push(catalogue, 2)
    push(catalogue, 1, "churn")
    for alias, sequence, kind in [("production", 1, "promote"), ("canary", 2, "promote"), ("production", 2, "promote"),
                                  ("production", 1, "rollback"), ("x", 9, "note")]:  # fmt: skip
        with catalogue.writing():
            facts = {"alias": alias, "sequence": sequence, "package": DIGEST}
            catalogue.append(who="ada", kind=kind, model="fraud", facts=facts)
    assert catalogue.aliases() == {Alias("fraud", "canary"): 2, Alias("fraud", "production"): 1}
    assert catalogue.aliases("churn") == {}
    assert [str(each.version) for each in catalogue.packages()] == ["churn/1", "fraud/1", "fraud/2"]
    assert catalogue.resolve(Alias("fraud", "canary")).version == Version("fraud", 2)
    assert [each.kind for each in catalogue.moves(Alias("fraud", "production"))] == ["promote", "promote", "rollback"]
    assert [each.model for each in catalogue.records(kind="push")] == ["fraud", "fraud", "churn"]


def test_what_is_appended_in_a_block_that_fails_is_not_there(catalogue):
    def fail():
        with catalogue.writing():
            catalogue.append(who="ada", kind="note", model="fraud", facts={})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert catalogue.head() == (0, GENESIS)


def test_two_pushes_cannot_take_the_same_sequence_number(catalogue):
    push(catalogue, 1)
    with pytest.raises(RegistryDamaged, match="UNIQUE"):
        push(catalogue, 1)
    assert catalogue.head()[0] == 1


@pytest.mark.parametrize("statement", ["UPDATE record SET digest = ''", "DELETE FROM record"])
def test_no_record_can_be_changed_or_removed(catalogue, tmp_path, statement):
    push(catalogue)
    with sqlite3.connect(tmp_path / FILE) as connection, pytest.raises(sqlite3.IntegrityError, match="is never"):
        connection.execute(statement)
    connection.close()


@pytest.mark.parametrize(
    ("reference", "message"),
    [(Version("fraud", 2), "'fraud' has: 1"), (Version("frod", 1), "there is no model 'frod'"),
     (Alias("fraud", "production"), "aliases of 'fraud': none")],
)  # fmt: skip
def test_what_is_not_there_is_refused_with_what_is(catalogue, reference, message):
    push(catalogue)
    with pytest.raises(RegistryError, match=message):
        catalogue.resolve(reference)


def test_a_registry_is_made_only_when_that_is_asked_for(tmp_path):
    with pytest.raises(RegistryAway, match="no registry in"):
        Catalogue.open(tmp_path / "none", MonotonicClock(), create=False)
    assert not (tmp_path / "none").exists()


def test_a_file_of_something_else_is_refused_and_left_alone(tmp_path):
    with sqlite3.connect(tmp_path / FILE) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    before = (tmp_path / FILE).read_bytes()
    with pytest.raises(RegistryDamaged, match="of something else"):
        Catalogue.open(tmp_path, MonotonicClock(), create=True)
    assert (tmp_path / FILE).stat().st_size == len(before)
    (tmp_path / FILE).write_bytes(b"not a database at all" * 100)
    with pytest.raises(RegistryDamaged, match="not a database"):
        Catalogue.open(tmp_path, MonotonicClock(), create=False)


def test_a_newer_format_is_refused(catalogue, tmp_path):
    catalogue._connection.execute("PRAGMA user_version = 2")
    with pytest.raises(RegistryDamaged, match="format 1"):
        Catalogue.open(tmp_path, MonotonicClock(), create=False)


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RegistryAway, match="cannot be used"):
        Catalogue.open(tmp_path / "file" / "registry", MonotonicClock(), create=True)


def test_a_network_file_system_gets_the_rollback_journal(tmp_path, monkeypatch):
    monkeypatch.setattr("serving.registry.catalogue.is_local", lambda _: False)
    opened = Catalogue.open(tmp_path, MonotonicClock(), create=True)
    assert opened._rows("PRAGMA journal_mode") == [("delete",)]
    opened.close()


def test_a_local_disk_gets_the_write_ahead_log(catalogue):
    assert catalogue._rows("PRAGMA journal_mode") == [("wal",)]
