"""The catalogue's tables and views. Changing a statement means a new `FORMAT`. Pure.

The columns of a record are generated from its text, so that nothing can be said of it that its digest does not cover.
"""

APPLICATION_ID = 0x50454E53  # "PENS"
FORMAT = 1

_COLUMNS = "\n".join(
    f"    {name} {kind} GENERATED ALWAYS AS (json_extract(text, '$.{path}')) VIRTUAL,"
    for name, kind, path in (
        ("kind", "TEXT", "kind"),
        ("model", "TEXT", "model"),
        ("alias", "TEXT", "facts.alias"),
        ("sequence", "INTEGER", "facts.sequence"),
        ("package", "TEXT", "facts.package"),
    )
)

OBJECTS = {
    "record": f"""CREATE TABLE record (
    position INTEGER PRIMARY KEY,
    text TEXT NOT NULL,
    digest TEXT NOT NULL,
{_COLUMNS}
    CHECK (position > 0)
)""",
    "record_is_never_changed": """CREATE TRIGGER record_is_never_changed BEFORE UPDATE ON record
BEGIN SELECT RAISE(ABORT, 'a record of the ledger is never changed'); END""",
    "record_is_never_removed": """CREATE TRIGGER record_is_never_removed BEFORE DELETE ON record
BEGIN SELECT RAISE(ABORT, 'a record of the ledger is never removed'); END""",
    "record_by_model": "CREATE INDEX record_by_model ON record (model, kind, alias, position)",
    "sequence_is_unique": "CREATE UNIQUE INDEX sequence_is_unique ON record (model, sequence) WHERE kind = 'push'",
    "package": """CREATE VIEW package AS
SELECT model, sequence, package, position FROM record WHERE kind = 'push'""",
    "alias": """CREATE VIEW alias AS
SELECT model, alias, sequence, package, max(position) AS position
FROM record WHERE kind IN ('promote', 'rollback') GROUP BY model, alias""",
}
"""Every object by its name, in the order in which they are made. SQLite takes the other columns of `alias` from the row
with the largest position (its documentation: "bare columns in an aggregate query")."""
