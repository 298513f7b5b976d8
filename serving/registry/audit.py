"""`verify`: looks at every record, every view and every blob, and names each place where something is wrong.

Reads only. What it finds are sentences for people, each with the kind of thing it is about and its place in it.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from serving.errors import RegistryDamaged, RegistryError
from serving.package.parts import Descriptor
from serving.registry import record as ledger
from serving.registry.aliases import MOVES
from serving.registry.catalogue import PUSH, Catalogue
from serving.registry.manifests import blobs_of, index_of, manifests_of, row_digests_of
from serving.registry.record import Record
from serving.registry.schema import OBJECTS
from serving.registry.store import BlobStore

Line = tuple[int, str, str]
"""A record as it is stored: position, text, digest."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong: in the `ledger`, the `catalogue` or a `blob`; `place` is a position, name or digest."""

    where: str
    place: str
    problem: str

    def __str__(self) -> str:
        return f"{self.where} {self.place}: {self.problem}"


@dataclass(frozen=True, slots=True)
class Audit:
    """What was looked at and what was found. `head` is the digest of the last record, as it is stored.

    `unreferenced_blobs` belong to no package: writers that were killed leave some, and they do no harm. Neither does
    an index.json that is not current, which only other tools read; the next push writes it.
    """

    records: int
    blobs: int
    unreferenced_blobs: int
    index_is_current: bool
    head: str
    findings: tuple[Finding, ...]

    def describe(self) -> dict[str, Any]:
        """Return the audit for machines."""
        return {**asdict(self), "findings": list(map(asdict, self.findings)), "intact": not self.findings}


def audit(catalogue: Catalogue, store: BlobStore, *, head: str | None = None) -> Audit:
    """Look at everything. `head` is the digest of a record that was written once: when it is gone, the end was cut."""
    try:
        findings = list(_file(catalogue))
        lines = catalogue.lines()
    except RegistryDamaged as error:  # pages of the file that cannot be read at all
        return Audit(0, 0, 0, False, ledger.GENESIS, (Finding("catalogue", "file", str(error)),))
    broken = list(_chain(lines))
    findings += [*broken, *_cut(lines, head)]
    if not broken:  # a record that cannot be read would make misfits of those that refer to it
        findings += _misfits(_parsed(lines))
    referenced: dict[str, Descriptor] = {}
    for record in _parsed(lines):
        try:
            findings += _collect(store, record, referenced)
        except RegistryError as error:
            findings.append(Finding("ledger", f"record {record.position}", str(error)))
    for digest, blob in sorted(referenced.items()):
        if problem := store.problem(blob):
            findings.append(Finding("blob", digest, problem))
    last = lines[-1][2] if lines else ledger.GENESIS
    unreferenced = len(store.digests() - referenced.keys())
    is_current = store.read_index() == _index(_parsed(lines))
    return Audit(len(lines), len(referenced), unreferenced, is_current, last, tuple(findings))


def _index(records: Iterator[Record]) -> list[dict[str, Any]] | None:
    """Return what index.json should list; None when the ledger cannot tell."""
    try:
        return index_of([record for record in records if record.kind == PUSH])
    except (KeyError, RegistryError):
        return None


def _file(catalogue: Catalogue) -> Iterator[Finding]:
    """Check the file, and that its tables, views and triggers say what ours say."""
    for problem in catalogue.file_problems():
        yield Finding("catalogue", "file", problem)
    found = catalogue.objects()
    for name in sorted(OBJECTS.keys() | found.keys()):
        if name not in found:
            yield Finding("catalogue", name, "it was removed")
        elif name not in OBJECTS:
            yield Finding("catalogue", name, "it is not one of ours")
        elif found[name] != OBJECTS[name]:
            yield Finding("catalogue", name, f"it was changed to: {found[name][:200]}")


def _chain(lines: Sequence[Line]) -> Iterator[Finding]:
    """Check each record against its own digest, its place, and the record before it."""
    previous, expected = ledger.GENESIS, 1
    for position, text, digest in lines:
        place = f"record {position}"
        if position != expected:
            yield Finding("ledger", f"record {expected}", f"it is missing; record {position} comes next")
        if not isinstance(text, str) or not isinstance(digest, str):  # bytes may stand there, whatever is declared
            yield Finding("ledger", place, "it is not stored as text")
        elif ledger.digest_of(text.encode("utf-8", "surrogatepass")) != digest:
            yield Finding("ledger", place, "its text has changed: it does not have the digest that it had")
        try:
            record = ledger.parse(text)
        except RegistryError as error:
            yield Finding("ledger", place, f"it is {error}")
        else:
            if record.position != position:
                yield Finding("ledger", place, f"it was written as record {record.position}")
            if record.previous != previous and position == expected:
                yield Finding("ledger", place, f"it does not follow on record {position - 1}")
        previous, expected = digest, position + 1


def _cut(lines: Sequence[Line], head: str | None) -> Iterator[Finding]:
    if head in {None, ledger.GENESIS} or any(digest == head for _, _, digest in lines):
        return
    last = f"record {lines[-1][0]}" if lines else "nothing"
    yield Finding("ledger", f"after {last}", f"no record has the digest {head}: the end was cut off, or rewritten")


def _misfits(records: Iterable[Record]) -> Iterator[Finding]:
    """Check that pushes count up from 1, model by model, and that aliases name what was pushed before."""
    pushed: dict[str, list[Any]] = {}
    for record in records:
        facts, known = record.facts, pushed.setdefault(record.model, [])
        sequence, package = facts.get("sequence"), facts.get("package")
        place = f"record {record.position}"
        if record.kind == PUSH:
            if sequence != len(known) + 1 or package is None:
                yield Finding("ledger", place, f"it pushes package {sequence} of '{record.model}' after {len(known)}")
            known.append(package)
        elif record.kind in MOVES and "alias" not in facts:
            yield Finding("ledger", place, f"it is a {record.kind} of no alias")
        elif record.kind in MOVES and (
            sequence is None or package is None or package not in known[sequence - 1 : sequence]
        ):
            yield Finding("ledger", place, f"it names package {sequence}, {package}, which was not pushed before")


def _parsed(lines: Sequence[Line]) -> Iterator[Record]:
    for _, text, _ in lines:
        try:
            yield ledger.parse(text)
        except RegistryError:
            continue  # found already


def _collect(store: BlobStore, record: Record, referenced: dict[str, Descriptor]) -> list[Finding]:
    """Collect the blobs that a record names: a package's and its signatures', or digests of training rows."""
    digests = row_digests_of(record.facts)
    if digests is not None:
        referenced[digests.digest] = digests
    findings = []
    manifests = manifests_of(record.facts) if record.kind == PUSH else ()
    if manifests and manifests[0].digest != record.facts.get("package"):
        raise RegistryError("a push whose first manifest is not that of its package")
    for manifest in manifests:
        referenced[manifest.digest] = manifest
        try:
            referenced.update({blob.digest: blob for blob in blobs_of(store.read(manifest))})
        except RegistryDamaged:
            continue  # this blob is looked at with the others
        except RegistryError as error:
            findings.append(Finding("blob", manifest.digest, str(error)))
    return findings
