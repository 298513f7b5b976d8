"""The catalogue: the records of the ledger in one SQLite file, and what follows from them as views.

There is one table, of records, and nothing can be changed or removed in it. Which packages there are and what the
aliases name are views of that table, so they cannot disagree with the history. Knows nothing of blobs.
"""

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from serving.clock import Clock
from serving.errors import RegistryAway, RegistryDamaged, RegistryError
from serving.registry import record as ledger
from serving.registry.aliases import MOVES
from serving.registry.disk import is_local
from serving.registry.names import Alias, Version, is_digest
from serving.registry.record import Record
from serving.registry.schema import APPLICATION_ID, FORMAT, OBJECTS

FILE = "catalogue.sqlite"
BUSY_TIMEOUT_S = 60.0
"""How long a writer waits for another one before it gives up."""

PUSH = "push"
_REMEDIES = {
    "disk I/O error": "; is the disk full?",
    "unable to open database file": "; who reads it must be able to write its folder as well",
    "attempt to write a readonly database": "; who reads it must be able to write it and its folder as well",
}
"""What SQLite's words mean in most cases: its log needs room, and a file beside the catalogue, for reading too."""
_KINDS_OF_MOVES = ", ".join(f"'{kind}'" for kind in MOVES)


@dataclass(frozen=True, slots=True)
class Pushed:
    """A package of a model as the catalogue knows it. `digest` is that of its manifest, `position` that of its push."""

    model: str
    sequence: int
    digest: str
    position: int

    @property
    def version(self) -> Version:
        """What names it."""
        return Version(self.model, self.sequence)


class Catalogue:
    """The ledger of one registry. One thread uses it; processes on one machine may share the file.

    Every method raises RegistryAway when the file cannot be used, and RegistryDamaged when it is not what it was.
    """

    def __init__(self, connection: sqlite3.Connection, clock: Clock) -> None:
        self._connection = connection
        self._clock = clock

    @classmethod
    def open(cls, folder: Path, clock: Clock, *, create: bool, busy_timeout_s: float = BUSY_TIMEOUT_S) -> Self:
        """Open the catalogue in a folder. Without `create` it must be there."""
        path = folder / FILE
        if not create and not path.is_file():
            raise RegistryAway(f"no registry in {folder}; `penstock registry push` makes one")
        with _translated(path):
            if create:
                folder.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(path, timeout=busy_timeout_s, isolation_level=None)
            connection.text_factory = _text
            try:
                _prepare(connection, folder)
            except BaseException:
                connection.close()
                raise
        return cls(connection, clock)

    def close(self) -> None:
        """Let the file go."""
        self._connection.close()

    # ---- reading ---------------------------------------------------------------------------------------------------

    def head(self) -> tuple[int, str]:
        """Return position and digest of the last record; 0 and the genesis digest when there is none."""
        rows = self._rows("SELECT position, digest FROM record ORDER BY position DESC LIMIT 1")
        return (int(rows[0][0]), str(rows[0][1])) if rows else (0, ledger.GENESIS)

    def packages(self, model: str | None = None) -> list[Pushed]:
        """List the packages of all models or of one, in the order of pushes."""
        where = "" if model is None else "WHERE model = ?"
        query = f"SELECT model, sequence, package, position FROM package {where} ORDER BY model, sequence"  # noqa: S608
        return [_pushed(*row) for row in self._rows(query, *(() if model is None else (model,)))]

    def package(self, version: Version) -> Pushed:
        """Return one package. Raises RegistryError when there is none."""
        for pushed in self.packages(version.model):
            if pushed.sequence == version.sequence:
                return pushed
        raise RegistryError(f"no package {version}; {self._known(version.model)}")

    def aliases(self, model: str | None = None) -> dict[Alias, int]:
        """Return what each alias names, as a sequence number."""
        rows = self._rows("SELECT model, alias, sequence, package, position FROM alias ORDER BY model, alias")
        named = {Alias(row[0], row[1]): _pushed(row[0], *row[2:]) for row in rows if model in {None, row[0]}}
        for alias, pushed in named.items():
            if alias.name is None:
                raise _misfit(pushed.position)
        return {alias: pushed.sequence for alias, pushed in named.items()}

    def resolve(self, reference: Version | Alias) -> Pushed:
        """Return the package that a reference names now. Raises RegistryError when it names none."""
        if isinstance(reference, Version):
            return self.package(reference)
        aliases = self.aliases(reference.model)
        if reference not in aliases:
            known = ", ".join(alias.name for alias in aliases) or "none"
            raise RegistryError(f"{reference} names no package; aliases of '{reference.model}': {known}")
        return self.package(Version(reference.model, aliases[reference]))

    def moves(self, alias: Alias) -> list[Record]:
        """Return the records that moved an alias, in order."""
        query = f"SELECT text FROM record WHERE model = ? AND alias = ? AND kind IN ({_KINDS_OF_MOVES})"  # noqa: S608
        moves = self._records(query, alias.model, alias.name)
        for record in moves:
            if "sequence" not in record.facts:
                raise _misfit(record.position)
        return moves

    def records(self, model: str | None = None, *, kind: str | None = None) -> list[Record]:
        """Return all records, or those of a model, or of a kind, in order."""
        query = "SELECT text FROM record WHERE (model = ?1 OR ?1 IS NULL) AND (kind = ?2 OR ?2 IS NULL)"
        return self._records(query, model, kind)

    def lines(self) -> list[tuple[int, str, str]]:
        """Return position, text and digest of each record as they are stored, unchecked."""
        return self._rows("SELECT position, text, digest FROM record ORDER BY position")

    def objects(self) -> dict[str, str]:
        """Return the tables, views and the rest that the file defines, by name, with their SQL."""
        return dict(self._rows("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL"))

    def file_problems(self) -> list[str]:
        """Return what SQLite finds wrong with its file."""
        return [str(row[0]) for row in self._rows("PRAGMA integrity_check(20)") if row[0] != "ok"]

    # ---- writing ---------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Keep other writers out, and make everything appended within visible at once, or nothing of it."""
        with _translated(FILE):
            self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            with _translated(FILE):
                self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    def append(self, *, who: str, kind: str, model: str, facts: Mapping[str, Any]) -> Record:
        """Append a record within `writing`, and return it; its digest is the new head."""
        assert self._connection.in_transaction, "bug: a record is appended outside of a transaction"
        position, previous = self.head()
        at = datetime.fromtimestamp(self._clock.wall_ns() / 1e9, UTC).isoformat(timespec="milliseconds")
        record = Record(position + 1, at, who, kind, model, dict(facts), previous)
        with _translated(FILE):
            self._connection.execute(
                "INSERT INTO record (position, text, digest) VALUES (?, ?, ?)",
                (record.position, record.text, record.digest),
            )
        return record

    def _rows(self, query: str, *arguments: object) -> list[Any]:
        with _translated(FILE):
            return self._connection.execute(query, arguments).fetchall()

    def _records(self, query: str, *arguments: object) -> list[Record]:
        records = []
        for (text,) in self._rows(f"{query} ORDER BY position", *arguments):
            try:
                records.append(ledger.parse(text))
            except RegistryError as error:
                raise RegistryDamaged(f"{FILE} holds a record that is {error}; `verify` tells which") from None
        return records

    def _known(self, model: str) -> str:
        sequences = [str(pushed.sequence) for pushed in self.packages(model)]
        return f"'{model}' has: {', '.join(sequences)}" if sequences else f"there is no model '{model}'"


def _pushed(model: Any, sequence: Any, digest: Any, position: Any) -> Pushed:
    """Trust a row of a view only as far as its record could be one of ours."""
    if not (isinstance(model, str) and type(sequence) is int and isinstance(digest, str) and is_digest(digest)):
        raise _misfit(position)
    return Pushed(model, sequence, digest, position)


def _misfit(position: int) -> RegistryDamaged:
    return RegistryDamaged(f"{FILE}: record {position} does not say which package or alias it is about; see `verify`")


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep others out of this block, for as long as a statement takes."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX)
        yield
    finally:
        os.close(opened)


def _prepare(connection: sqlite3.Connection, folder: Path) -> None:
    """Make the file's tables, or check that they are ours."""
    mode = "wal" if is_local(folder) else "delete"
    if connection.execute("PRAGMA journal_mode").fetchone()[0] != mode:
        with _alone(folder):  # SQLite gives up at once where two change the mode of a new file, whatever its timeout
            connection.execute(f"PRAGMA journal_mode = {mode}")
    connection.execute("PRAGMA synchronous = FULL")
    if _identity(connection) == (0, 0):
        connection.execute("BEGIN IMMEDIATE")
        if _identity(connection) == (0, 0):  # nobody else has made them meanwhile
            if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                raise RegistryDamaged(f"{folder / FILE} is a database of something else")
            for statement in OBJECTS.values():
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {FORMAT}")
        connection.execute("COMMIT")
    if _identity(connection) != (APPLICATION_ID, FORMAT):
        raise RegistryDamaged(f"{folder / FILE} is not a catalogue of format {FORMAT}, which this Penstock reads")


def _text(content: bytes) -> str:
    """Read text that somebody may have tampered with: what is not UTF-8 has another digest, and ends nothing."""
    return content.decode(errors="surrogateescape")


def _identity(connection: sqlite3.Connection) -> tuple[int, int]:
    names = ("application_id", "user_version")
    first, second = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in names)
    return int(first), int(second)


@contextlib.contextmanager
def _translated(path: Path | str) -> Iterator[None]:
    """Say in our words what SQLite and the system say in theirs."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            raise RegistryAway(f"{path}: another writer has held it for too long; try again") from error
        raise RegistryAway(f"{path} cannot be used: {error}{_REMEDIES.get(str(error), '')}") from error
    except sqlite3.DatabaseError as error:
        raise RegistryDamaged(f"{path}: {error}") from error
    except OSError as error:
        raise RegistryAway(f"{path} cannot be used: {error.strerror or error}") from error
