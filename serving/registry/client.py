"""The registry's verbs, in Python as in the command.

    with Registry.open("/srv/registry") as registry:
        pushed = registry.push(Path("fraud.pkg")).pushed
        registry.promote(pushed.version, "production", gate=CheckedGate(policy))

Whatever changes something is one record, and returns it; its digest is the new head of the ledger.
"""

import getpass
import logging
import os
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from serving.clock import Clock, MonotonicClock
from serving.errors import RegistryAway, RegistryDamaged, RegistryError
from serving.package.parts import Descriptor, digest_of
from serving.package.reading import Package, package_of, read
from serving.package.signing import signatures_of
from serving.package.writing import SignatureBlobs, assemble
from serving.registry.aliases import PROMOTE, ROLLBACK, rollback_target
from serving.registry.audit import Audit, audit
from serving.registry.catalogue import BUSY_TIMEOUT_S, PUSH, Catalogue, Pushed
from serving.registry.description import describe_package
from serving.registry.difference import Difference, differences
from serving.registry.evidence import check_evidence
from serving.registry.lineage import Lineage, lineage_of
from serving.registry.manifests import DIGESTS_BYTES_MAX, blobs_of, index_of, manifest_facts, manifests_of
from serving.registry.names import Alias, Reference, Version, check_digest, check_word
from serving.registry.place import folder_of, store_uri
from serving.registry.record import Record
from serving.registry.store import BlobStore, StoredFiles

REASON_CHARACTERS_MAX = 4_096
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PushResult:
    """A package in the registry. `record` is that of its push, which is an older one when `is_new` is false."""

    pushed: Pushed
    record: Record
    is_new: bool


@dataclass(frozen=True, slots=True)
class Promotion:
    """What is about to happen, and what the ledger says at that moment.

    `records` are all those of the model; `aliases` give the digest of the package that each of its aliases names.
    """

    pushed: Pushed
    alias: Alias
    who: str
    records: Sequence[Record]
    aliases: Mapping[Alias, str]


Gate = Callable[[Promotion], Mapping[str, Any]]
"""Decides about a promotion: returns facts that its record shall hold as evidence, or raises RegistryError.

`serving.release.gate.CheckedGate` demands a check.
"""


class Registry(AbstractContextManager["Registry"]):
    """One registry: a catalogue, whose connection it owns, and a store. One thread uses it.

    Every method raises RegistryAway when catalogue or store cannot be used, RegistryDamaged when they hold something
    else than was put in, and RegistryError for what is not known or not allowed.
    """

    def __init__(self, folder: Path, catalogue: Catalogue, store: BlobStore, *, who: str) -> None:
        self.folder = folder
        self._catalogue = catalogue
        self._store = store
        self.who = who

    @classmethod
    def open(
        cls, uri: str, *, who: str | None = None, create: bool = False, clock: Clock | None = None,
        busy_timeout_s: float = BUSY_TIMEOUT_S,
    ) -> Self:  # fmt: skip
        """Open the registry in a folder or at a file:// URI; `create` makes it when there is none.

        `who` goes into records: user@host unless given.
        """
        folder = folder_of(uri)
        clock = clock or MonotonicClock()
        try:
            store = BlobStore.at(store_uri(folder))
            catalogue = Catalogue.open(folder, clock, create=create, busy_timeout_s=busy_timeout_s)
        except OSError as error:
            raise RegistryAway(f"{folder} cannot be used: {error.strerror or error}") from error
        who = checked_text("who", who or f"{_user()}@{socket.gethostname()}")
        return cls(folder, catalogue, store, who=who)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let the catalogue go."""
        self._catalogue.close()

    # ---- packages --------------------------------------------------------------------------------------------------

    def push(self, path: Path, model: str | None = None) -> PushResult:
        """Store a package as the next one of a model, by default of the model that it names. Raises PackageError.

        Blobs go first and the record last, so a package is listed when all of it is there. The same package again
        changes nothing.
        """
        package = read(path)
        model = check_word("a model's name", package.name if model is None else model)
        signatures = signatures_of(package)
        for blob in package.blobs:
            self._store.put(blob, package.chunks(blob))
        for content in (package.manifest_bytes, *_contents(signatures)):
            self._store.put(_blob(content), [content])
        manifests = [_blob(content) for content in (package.manifest_bytes, *(each.manifest for each in signatures))]
        facts = {"package": package.digest, "name": package.name, "manifests": manifest_facts(manifests)}
        with self._catalogue.writing():
            result = self._add(model, facts)
        self._publish_index()
        return result

    def pull(self, reference: Reference, path: Path) -> Pushed:
        """Write a package to a folder, or to a tar where `path` ends in .tar, every byte verified.

        Raises PackageError when something else is at `path` already.
        """
        pushed = self._catalogue.resolve(reference)
        package, *signatures = self._manifests(pushed)
        copies = [self._signature(manifest) for manifest in signatures]
        assemble(self._store.read(package), self._store.chunks, path, signatures=copies)
        return pushed

    def package(self, reference: Reference) -> Package:
        """Open a package where the store keeps it; each part is fetched, and verified, when it is asked for."""
        manifests = self._manifests(self._catalogue.resolve(reference))
        content = self._store.read(manifests[0])
        return package_of(StoredFiles(self._store), manifests[0], content, manifests[1:])

    def resolve(self, reference: Reference) -> Pushed:
        """Return the package that a reference names now."""
        return self._catalogue.resolve(reference)

    def packages(self, model: str | None = None) -> list[Pushed]:
        """List the packages of all models or of one, in the order of pushes."""
        return self._catalogue.packages(model)

    def aliases(self, model: str | None = None) -> dict[Alias, int]:
        """Return what each alias names, as a sequence number."""
        return self._catalogue.aliases(model)

    def diff(self, before: Reference, after: Reference) -> list[Difference]:
        """Return what differs between two packages: parts, signature, evaluation, lineage and the rest."""
        return list(differences(describe_package(self.package(before)), describe_package(self.package(after))))

    # ---- aliases ---------------------------------------------------------------------------------------------------

    def promote(self, version: Version, alias: str, *, gate: Gate, reason: str = "") -> Record:
        """Let an alias name a package, if the gate agrees."""
        target = Alias(version.model, check_word("an alias", alias))
        with self._catalogue.writing():
            pushed = self._catalogue.package(version)
            if self._catalogue.aliases(version.model).get(target) == version.sequence:
                raise RegistryError(f"{target} names {version} already")
            evidence = gate(self._promotion(pushed, target))
            return self._move(PROMOTE, target, pushed, reason, evidence)

    def rollback(self, alias: Alias, *, to: int | None = None, reason: str = "") -> Record:
        """Let an alias name the package before the present one, or the one of sequence `to` that once held it."""
        with self._catalogue.writing():
            sequence = rollback_target(alias, self._catalogue.moves(alias), to)
            pushed = self._catalogue.package(Version(alias.model, sequence))
            return self._move(ROLLBACK, alias, pushed, reason, {})

    def moves(self, alias: Alias) -> list[Record]:
        """Return the records that moved an alias, in order."""
        return self._catalogue.moves(alias)

    # ---- the ledger ------------------------------------------------------------------------------------------------

    def record(
        self, kind: str, model: str, facts: Mapping[str, Any], *, version: Version | None = None,
        row_digests: bytes | None = None,
    ) -> Record:  # fmt: skip
        """Add evidence of a stage to a model, or to one package of it; `evidence.KINDS` tells what it may hold.

        `row_digests`, of training data, are kept as a blob that the record names; checks look there for held-out rows.
        """
        if row_digests is None and "row_digests" in facts:
            raise RegistryError("row_digests are made of training rows, not given as a fact")
        if row_digests is not None:
            if len(row_digests) > DIGESTS_BYTES_MAX:
                raise RegistryError(f"{len(row_digests)} bytes of row digests, at most {DIGESTS_BYTES_MAX}")
            blob = _blob(row_digests)
            facts = {**facts, "row_digests": {"digest": blob.digest, "bytes": blob.bytes_count}}
        check_evidence(kind, facts)
        if row_digests is not None:
            self._store.put(blob, [row_digests])
        return self.append(kind, model, facts, version=version)

    def blob(self, blob: Descriptor) -> bytes:
        """Return a blob that a record names, verified."""
        return self._store.read(blob)

    def append(self, kind: str, model: str, facts: Mapping[str, Any], *, version: Version | None = None) -> Record:
        """Add a record of any kind that moves no alias; other parts of Penstock keep theirs this way."""
        assert kind not in {PUSH, PROMOTE, ROLLBACK}, f"bug: a {kind} has a verb of its own"
        check_word("a model's name", model)
        with self._catalogue.writing():
            named = {} if version is None else _named(self._catalogue.package(version))
            return self._catalogue.append(who=self.who, kind=kind, model=model, facts={**facts, **named})

    def append_decided(self, kind: str, version: Version, decide: Gate, *, alias: str) -> Record:
        """Add a record about a package, an alias and more facts, which `decide` gives from what the ledger says then.

        No other writer comes between. Raises what `decide` raises, and nothing is written then.
        """
        assert kind not in {PUSH, PROMOTE, ROLLBACK}, f"bug: a {kind} has a verb of its own"
        target = Alias(version.model, check_word("an alias", alias))
        with self._catalogue.writing():
            pushed = self._catalogue.package(version)
            facts = {**decide(self._promotion(pushed, target)), "alias": alias, **_named(pushed)}
            return self._catalogue.append(who=self.who, kind=kind, model=version.model, facts=facts)

    def history(self, model: str | None = None, *, kind: str | None = None) -> list[Record]:
        """Return all records, or those of one model, or of one kind, in order."""
        return self._catalogue.records(model, kind=kind)

    def lineage(self, reference: Reference) -> Lineage:
        """Return everything that is known of where a package comes from and what happened to it."""
        pushed = self._catalogue.resolve(reference)
        return lineage_of(pushed, self._catalogue.records(pushed.model), describe_package(self.package(pushed.version)))

    def head(self) -> str:
        """Return the digest of the last record."""
        return self._catalogue.head()[1]

    def verify(self, *, head: str | None = None) -> Audit:
        """Look at every record, view and blob. `head` is a digest that a record once had."""
        if head is not None:
            check_digest(head)
        return audit(self._catalogue, self._store, head=head)

    # ---- within ----------------------------------------------------------------------------------------------------

    def _add(self, model: str, facts: dict[str, Any]) -> PushResult:
        """Append the record of a push, unless the model has the package already."""
        known = self._catalogue.packages(model)
        for pushed in known:
            if pushed.digest == facts["package"]:
                record = self._push_of(pushed)
                if record.facts["manifests"] != facts["manifests"]:
                    raise RegistryError(f"{pushed.version} is this package with other signatures; it cannot change")
                return PushResult(pushed, record, is_new=False)
        sequence = known[-1].sequence + 1 if known else 1
        record = self._catalogue.append(who=self.who, kind=PUSH, model=model, facts={**facts, "sequence": sequence})
        return PushResult(Pushed(model, sequence, facts["package"], record.position), record, is_new=True)

    def _promotion(self, pushed: Pushed, alias: Alias) -> Promotion:
        digests = {each.version: each.digest for each in self._catalogue.packages(pushed.model)}
        named = self.aliases(pushed.model)
        aliases = {name: digests[Version(name.model, sequence)] for name, sequence in named.items()}
        return Promotion(pushed, alias, self.who, self._catalogue.records(pushed.model), aliases)

    def _move(self, kind: str, alias: Alias, pushed: Pushed, reason: str, evidence: Mapping[str, Any]) -> Record:
        facts = {**evidence, "alias": alias.name, **_named(pushed)}
        if reason:
            facts["reason"] = checked_text("a reason", reason)
        return self._catalogue.append(who=self.who, kind=kind, model=alias.model, facts=facts)

    def _publish_index(self) -> None:
        """Bring index.json up to the catalogue, with other writers kept out, so that none writes an older one."""
        try:
            with self._catalogue.writing():
                index = index_of(self._catalogue.records(kind=PUSH))
                if self._store.read_index() != index:
                    self._store.write_index(index)
        except RegistryAway as error:  # the push is done; only other tools do not see it yet
            _log.warning("the store's index.json lags until the next push: %s", error)

    def _push_of(self, pushed: Pushed) -> Record:
        return next(each for each in self._catalogue.records(pushed.model, kind=PUSH)
                    if each.position == pushed.position)  # fmt: skip

    def _manifests(self, pushed: Pushed) -> tuple[Descriptor, ...]:
        manifests = manifests_of(self._push_of(pushed).facts)
        if manifests[0].digest != pushed.digest:
            raise RegistryDamaged(f"the push of {pushed.version} names another manifest than its package")
        return manifests

    def _signature(self, manifest: Descriptor) -> SignatureBlobs:
        content = self._store.read(manifest)
        return SignatureBlobs(content, tuple(self._store.read(blob) for blob in blobs_of(content)))


def _user() -> str:
    """Return the user's name, or number where it has no name, as in many containers."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def _named(pushed: Pushed) -> dict[str, Any]:
    return {"sequence": pushed.sequence, "package": pushed.digest}


def _contents(signatures: Iterable[SignatureBlobs]) -> list[bytes]:
    return [content for signature in signatures for content in (signature.manifest, *signature.blobs)]


def _blob(content: bytes) -> Descriptor:
    return Descriptor("", digest_of(content), len(content))


def checked_text(what: str, text: str) -> str:
    """Return a line of text for a record. Raises RegistryError for what is none."""
    if not text.isprintable() or not 0 < len(text) <= REASON_CHARACTERS_MAX:
        raise RegistryError(f"{what} is {text!r:.80}, expected one line of up to {REASON_CHARACTERS_MAX} characters")
    return text
