"""`check`: asks every question about a package, and makes one record of the answers.

Servers are started and load is offered by the callables in `Tools`; everything else is read from the registry.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.errors import ConfigError, PackageError, RegistryDamaged, RemoteError
from serving.package import Package
from serving.registry.client import Registry
from serving.registry.manifests import row_digests_of
from serving.registry.names import Alias, Version
from serving.registry.record import Record
from serving.release import documents, measured
from serving.release.finding import Finding, inconclusive, not_applicable, passed
from serving.release.held_out import HeldOut, read_held_out, row_digests, shared_rows
from serving.release.inference import Numbers
from serving.release.measured import CompareLatency, Running, Serve
from serving.release.policy import CHECKS, Policy
from serving.release.profile_check import reference_profile
from serving.release.quality import Rival, losses_of, overfitting, quality, slices
from serving.release.report import CHECK, Report

_TROUBLE = (ConfigError, RemoteError, PackageError, RegistryDamaged)
"""What goes wrong with a server, or with rows that do not fit a package."""

_OF_SERVERS = ("loads and answers", "batch invariance", "quality", "slices", "latency mean", "latency p99", "memory")

HOLDERS_MAX = 10
"""Of the packages that ever held the alias, so many are compared with, the last ones."""


@dataclass(frozen=True, slots=True)
class Tools:
    """How to start a server of a package, and how to compare the latency of two; None where no load can be offered."""

    serve: Serve
    compare_latency: CompareLatency | None = None


def check(
    registry: Registry, version: Version, against: Alias, policy: Policy, *, tools: Tools,
    held_out_file: Path | None = None,
) -> tuple[Report, Record]:  # fmt: skip
    """Ask everything, and write the record. Raises ConfigError for held-out rows or a policy that cannot be used."""
    pushed = registry.resolve(version)
    holders = _holders(registry, against)
    production = holders[0] if holders else None
    package = registry.package(version)
    rivals = {holder: registry.package(holder) for holder in holders}
    held_out = None if held_out_file is None else read_held_out(held_out_file, package.signature)
    inquiry = _Inquiry(registry, version, package, rivals, held_out, policy, tools)
    found = {finding.check: finding for finding in inquiry.run()}
    digest = None if production is None else rivals[production].digest
    report = Report(version, pushed.digest, against, digest, policy.digest, tuple(found[name] for name in CHECKS))
    record = registry.append(CHECK, version.model, report.facts(), version=version)
    return report, record


def _holders(registry: Registry, alias: Alias) -> list[Version]:
    """Return what an alias names, then the others that it ever named, the last one first."""
    last_first = [record.facts["sequence"] for record in reversed(registry.moves(alias))]
    return [Version(alias.model, sequence) for sequence in dict.fromkeys(last_first)][:HOLDERS_MAX]


def _asked(names: Sequence[str], ask: Callable[[], list[Finding]]) -> list[Finding]:
    """Return the answers, or say of each of these checks why there is none."""
    try:
        return ask()
    except _TROUBLE as error:
        return [inconclusive(name, str(error)) for name in names]


@dataclass(slots=True)
class _Inquiry:
    """One check under way. `rivals` are the packages that held the alias, what it names now first."""

    registry: Registry
    version: Version
    package: Package
    rivals: Mapping[Version, Package]
    held_out: HeldOut | None
    policy: Policy
    tools: Tools

    def run(self) -> list[Finding]:
        """Ask what needs no server, then what does."""
        package, policy = self.package, self.policy
        records = self._records(self.version)
        whole = documents.integrity(package)
        if not whole.verdict.lets_through:
            lost = [inconclusive(name, "the package is damaged") for name in CHECKS if name != whole.check]
            return [whole, *lost]
        return [
            whole,
            documents.signed(package, self._keys()),
            documents.parity(package),
            documents.compatible_signature(package, self._production()),
            documents.reproducible(package, records),
            documents.licence(package, policy.evidence),
            overfitting(records, policy.quality),
            reference_profile(package, self.held_out, policy.evidence),
            *self._served(),
        ]

    def _served(self) -> list[Finding]:
        """Ask real servers: of the package, and of those that it is compared with."""
        try:
            with self.tools.serve(self.package) as running:
                replayed = measured.replay(running, self.package, self.policy.evidence.tolerance)
                found = [
                    replayed,
                    *_asked(("batch invariance",), lambda: [self._invariance(running)]),
                    *_asked(("quality", "slices"), lambda: self._judged(running)),
                    *_asked(("latency mean", "latency p99"), lambda: self._latency(running)),
                ]
        except _TROUBLE as error:
            names = [name for name in _OF_SERVERS if name not in {"loads and answers", "memory"}]
            found = [passed("loads and answers", False, str(error)),
                     *(inconclusive(name, "a server of it could not be asked") for name in names)]  # fmt: skip
        serve, production, cost = self.tools.serve, self._production(), self.policy.cost
        return [*found, *_asked(("memory",), lambda: [measured.memory(serve, self.package, production, cost)])]

    def _invariance(self, running: Running) -> Finding:
        inputs = self._rows()
        if inputs is None:
            return inconclusive("batch invariance", "no rows to ask: neither golden requests nor held-out rows")
        return measured.batch_invariance(running, self.package.signature, inputs, self.policy.evidence.tolerance)

    def _judged(self, running: Running) -> list[Finding]:
        """Judge quality and slices on the held-out rows."""
        config = self.policy.quality
        if self.held_out is None:
            say = inconclusive if self.rivals else not_applicable
            why = "no held-out rows; give --held-out FILE"
            return [say("quality", why), not_applicable("slices", why)]
        candidate = self._losses(self.package, measured.answer_all(running, self.held_out.inputs))
        rivals = [self._rival(version, package) for version, package in self.rivals.items()]
        return [quality(candidate, rivals, config, self._overlap()), slices(candidate, self.held_out, config)]

    def _rival(self, version: Version, package: Package) -> Rival:
        assert self.held_out is not None, "bug: a rival without rows to judge it on"
        with self.tools.serve(package) as running:
            answers = measured.answer_all(running, measured.as_sent(self.held_out.inputs, package.signature))
        return Rival(str(version), self._losses(package, answers))

    def _losses(self, package: Package, answers: measured.Answers) -> Numbers:
        assert self.held_out is not None, "bug: answers without the rows that they are to"
        return losses_of(package, answers, self.held_out, self.policy.quality)

    def _overlap(self) -> str:
        """Say which held-out rows a package was trained on; nothing when none, as far as is known."""
        assert self.held_out is not None, "bug: no rows to look for"
        digests = row_digests(self.held_out.inputs)
        for version in (self.version, *list(self.rivals)[:1]):
            for record in self._records(version):
                blob = row_digests_of(record.facts)
                if blob is not None and (shared := shared_rows(digests, self.registry.blob(blob))):
                    return f"{shared} of {len(digests)} held-out rows are among the training rows of {version}"
        return ""

    def _latency(self, running: Running) -> list[Finding]:
        production, cost = self._production(), self.policy.cost
        if production is None:
            return measured.latency(None, cost, measured.NOTHING_YET)
        if self.tools.compare_latency is None:
            return measured.latency(None, cost, "no load can be offered here: pip install 'penstock[bench]'")
        rows = self._rows()
        if rows is None:
            return measured.latency(None, cost, "no rows to ask: neither golden requests nor held-out rows")
        row = {name: array[:1] for name, array in rows.items()}
        with self.tools.serve(production) as old:
            return measured.latency(self.tools.compare_latency(running, old, row, cost), cost, "")

    def _rows(self) -> dict[str, Any] | None:
        if self.held_out is not None:
            return dict(self.held_out.inputs)
        return measured.sample_rows(self.package)

    def _keys(self) -> str:
        """Return the folder of trusted keys, which the policy may name from the registry's folder; empty for none."""
        keys = self.policy.release.trusted_keys
        return str(self.registry.folder / keys) if keys else ""

    def _production(self) -> Package | None:
        return next(iter(self.rivals.values()), None)

    def _records(self, version: Version) -> Sequence[Record]:
        lineage = self.registry.lineage(version)
        return (*lineage.before, *lineage.after)
