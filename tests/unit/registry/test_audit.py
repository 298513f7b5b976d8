"""`verify` finds whatever was tampered with, and says where."""

import contextlib
import json
import sqlite3

import pytest

from serving.errors import RegistryError
from serving.registry.catalogue import FILE
from serving.registry.client import Registry
from serving.registry.names import Alias
from serving.registry.record import GENESIS, canonical, digest_of, parse
from tests.support import registries


@pytest.fixture
def place(tmp_path):
    return registries.filled(tmp_path)


def verify(place, head=None):
    with Registry.open(str(place)) as registry:
        return registry.verify(head=head)


def findings(place, head=None):
    return [str(finding) for finding in verify(place, head).findings]


def tamper(place, *statements):
    """Do what somebody who may write the file can do: the triggers are no hindrance."""
    connection = sqlite3.connect(place / FILE)
    triggers = list(connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"))
    for name, _ in triggers:
        connection.execute(f"DROP TRIGGER {name}")
    for statement in statements:
        connection.execute(*statement)
    for _, sql in triggers:
        connection.execute(sql)
    connection.commit()
    connection.close()


def head_of(place):
    with Registry.open(str(place)) as registry:
        return registry.head()


def text_of(place, position):
    with Registry.open(str(place)) as registry:
        return registry._catalogue.lines()[position - 1][1]


def test_a_registry_that_nobody_touched_is_intact(place):
    result = verify(place, head_of(place))
    assert (result.records, result.findings, result.unreferenced_blobs, result.index_is_current) == (4, (), 0, True)
    assert result.describe()["intact"]


def test_a_changed_record_is_found(place):
    text = text_of(place, 2).replace("ada@lab", "eve@lab")
    tamper(place, ("UPDATE record SET text = ? WHERE position = 2", (text,)))
    assert findings(place) == ["ledger record 2: its text has changed: it does not have the digest that it had"]


def test_a_changed_record_with_a_digest_that_fits_is_found_at_the_next_one(place):
    text = text_of(place, 2).replace("ada@lab", "eve@lab")
    tamper(place, ("UPDATE record SET text = ?, digest = ? WHERE position = 2", (text, digest_of(text.encode()))))
    assert findings(place) == ["ledger record 3: it does not follow on record 2"]


def test_a_removed_record_is_found(place):
    tamper(place, ("DELETE FROM record WHERE position = 2",))
    assert findings(place) == ["ledger record 2: it is missing; record 3 comes next"]


@pytest.mark.parametrize("kept", [0, 1, 3])
def test_a_cut_end_is_found_by_the_head_and_only_by_it(place, kept):
    head = head_of(place)
    tamper(place, ("DELETE FROM record WHERE position > ?", (kept,)))
    assert findings(place) == []
    (finding,) = findings(place, head)
    assert finding.startswith(
        f"ledger after {f'record {kept}' if kept else 'nothing'}: no record has the digest {head}"
    )


def test_a_ledger_rewritten_from_some_record_on_is_found_by_the_head(place):
    head = head_of(place)
    text = text_of(place, 4).replace(registries.WHO, "eve@lab")
    tamper(place, ("UPDATE record SET text = ?, digest = ? WHERE position = 4", (text, digest_of(text.encode()))))
    assert findings(place) == []
    assert "rewritten" in findings(place, head)[0]


def test_an_older_head_still_vouches_for_what_came_before(place):
    assert findings(place, parse(text_of(place, 2)).digest) == []


def test_text_that_is_no_record_is_found(place):
    tamper(place, ('UPDATE record SET text = \'{"kind":"push"}\' WHERE position = 1',))
    assert "ledger record 1: it is not the fields of a record" in findings(place)


def test_a_push_that_names_no_manifests_is_found(place):
    text = text_of(place, 1).replace('"manifests"', '"manifest5"')
    tamper(place, ("UPDATE record SET text = ? WHERE position = 1", (text,)))
    assert "ledger record 1: a push that names no manifests" in findings(place)


@pytest.mark.parametrize(
    ("statement", "finding"),
    [
        ("DROP TRIGGER record_is_never_removed", "catalogue record_is_never_removed: it was removed"),
        ("CREATE TABLE more (x)", "catalogue more: it is not one of ours"),
    ],
)
def test_a_changed_schema_is_found(place, statement, finding):
    connection = sqlite3.connect(place / FILE)
    connection.execute(statement)
    connection.close()
    assert findings(place) == [finding]


def test_a_view_that_lies_about_an_alias_is_found(place):
    connection = sqlite3.connect(place / FILE)
    connection.execute("DROP VIEW alias")
    connection.execute("CREATE VIEW alias AS SELECT 'affine' AS model, 'production' AS alias, 1 AS sequence")
    connection.close()
    (finding,) = findings(place)
    assert finding.startswith("catalogue alias: it was changed to: CREATE VIEW alias AS SELECT 'affine'")


def test_a_tampered_or_missing_blob_is_found_by_its_digest(place):
    blobs = sorted((place / "store" / "blobs" / "sha256").iterdir())
    content = blobs[0].read_bytes()
    blobs[0].write_bytes(bytes([content[0] ^ 1]) + content[1:])
    blobs[1].unlink()
    blobs[2].write_bytes(blobs[2].read_bytes() + b"x")
    found = findings(place)
    assert [line.split()[1] for line in found] == [f"sha256:{blob.name}:" for blob in blobs[:3]]
    assert "damaged" in found[0]
    assert "it is missing" in found[1]
    assert "expected" in found[2]


def test_blobs_of_no_package_and_a_lagging_index_are_told_and_no_harm(place):
    (place / "store" / "blobs" / "sha256" / ("0" * 64)).touch()
    (place / "store" / "index.json").write_text("{}")
    result = verify(place)
    assert (result.findings, result.unreferenced_blobs, result.index_is_current) == ((), 1, False)


@pytest.mark.parametrize("table", ["record", "record_by_model"])
def test_a_broken_page_of_the_file_is_found(place, table):
    with Registry.open(str(place)) as registry:
        registry._catalogue._rows("PRAGMA wal_checkpoint(TRUNCATE)")
        page_bytes = registry._catalogue._rows("PRAGMA page_size")[0][0]
        root = registry._catalogue._rows("SELECT rootpage FROM sqlite_master WHERE name = ?", table)[0][0]
    with (place / FILE).open("r+b") as file:
        file.seek((root - 1) * page_bytes)
        file.write(b"\xff" * page_bytes)
    assert any(line.startswith("catalogue file:") for line in findings(place))


def rewrite(place, position, fields=None, facts=None):
    """Change a record and chain all others to it again, as somebody would who knows how; None removes a fact."""
    records = [json.loads(text) for _, text, _ in lines_of(place)]
    changed = records[position - 1]
    changed.update(fields or {})
    changed["facts"] = {
        name: value for name, value in {**changed["facts"], **(facts or {})}.items() if value is not None
    }
    previous, statements = GENESIS, []
    for record in records:
        text = canonical({**record, "previous": previous})
        previous = digest_of(text.encode())
        statements.append(("INSERT OR REPLACE INTO record (position, text, digest) VALUES (?, ?, ?)",
                           (record["position"], text, previous)))  # fmt: skip
    tamper(place, *statements)


def lines_of(place):
    with Registry.open(str(place)) as registry:
        return registry._catalogue.lines()


OTHER = "sha256:" + "0" * 64
SECOND_PUSH, SECOND_PROMOTION = 3, 4


@pytest.mark.parametrize(
    ("position", "changes", "problem"),
    [
        (SECOND_PROMOTION, {"facts": {"sequence": "2"}}, "it is a record whose sequence is '2'"),
        (SECOND_PROMOTION, {"facts": {"sequence": True}}, "it is a record whose sequence is True"),
        (SECOND_PROMOTION, {"facts": {"sequence": 9}}, "which was not pushed before"),
        (SECOND_PROMOTION, {"facts": {"package": OTHER}}, "which was not pushed before"),
        (SECOND_PROMOTION, {"facts": {"sequence": None}}, "which was not pushed before"),
        (SECOND_PROMOTION, {"facts": {"alias": None}}, "it is a promote of no alias"),
        (SECOND_PROMOTION, {"facts": {"alias": "../x"}}, "it is a record whose alias is '../x'"),
        (SECOND_PROMOTION, {"facts": {"package": 7}}, "it is a record whose package is 7"),
        (SECOND_PROMOTION, {"fields": {"who": None}}, "it is not the fields of a record"),
        (SECOND_PROMOTION, {"fields": {"model": 7}}, "it is not the fields of a record"),
        (SECOND_PROMOTION, {"fields": {"kind": []}}, "it is not the fields of a record"),
        (SECOND_PUSH, {"facts": {"sequence": 7}}, "it pushes package 7 of 'affine' after 1"),
        (SECOND_PUSH, {"facts": {"sequence": None}}, "it pushes package None of 'affine' after 1"),
        (SECOND_PUSH, {"facts": {"package": OTHER}}, "a push whose first manifest is not that of its package"),
    ],
)
def test_a_record_that_makes_no_sense_is_found_though_its_chain_is_whole(place, tmp_path, position, changes, problem):
    rewrite(place, position, **changes)
    found = findings(place)
    assert any(finding.startswith(f"ledger record {position}:") and problem in finding for finding in found), found
    reads = (
        lambda registry: registry.packages(),
        lambda registry: registry.aliases(),
        lambda registry: registry.history(),
        lambda registry: registry.rollback(Alias("affine", "production")),
        lambda registry: registry.pull(Alias("affine", "production"), tmp_path / "pulled"),
        lambda registry: registry.push(registries.write_package(tmp_path / "third", 3)),
    )
    for read in reads:
        with Registry.open(str(place)) as registry, contextlib.suppress(RegistryError):
            read(registry)


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("UPDATE record SET text = CAST(text AS BLOB) WHERE position = 2", "it is not stored as text"),
        ("UPDATE record SET text = text || char(0) || 'x' WHERE position = 2", "its text has changed"),
    ],
)
def test_text_of_another_kind_is_found(place, statement, problem):
    tamper(place, (statement,))
    assert any(finding.startswith(f"ledger record 2: {problem}") for finding in findings(place))


def test_bytes_that_are_no_utf8_are_found(place):
    tamper(place, ("UPDATE record SET digest = CAST(x'ff7b' AS TEXT) WHERE position = 2",))
    assert "ledger record 2: its text has changed: it does not have the digest that it had" in findings(place)
