"""What becomes of the package that the steps made: evidence, push, check, and an alias when the check lets it through.

Each of these is a step with a key as well, and what it depends on is in the ledger: a check is not asked again of the
same package against the same production under the same policy on the same rows.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.errors import ConfigError, RegistryDamaged
from serving.registry.catalogue import Pushed
from serving.registry.client import Registry
from serving.registry.evidence import check_evidence
from serving.registry.names import Alias, Version
from serving.registry.record import RECORD_BYTES_MAX, Record, canonical, digest_of
from serving.release.check import Tools, check
from serving.release.gate import CheckedGate, waivers
from serving.release.held_out import training_digests
from serving.release.pipeline.definition import CHECK, PROMOTE, PUSH, ROLL_OUT, Delivery
from serving.release.pipeline.journal import KEPT, RAN, Journal
from serving.release.pipeline.runner import Runner
from serving.release.policy import Policy, policy_for
from serving.release.report import Report
from serving.release.rollouts import Rollouts


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended, in a word, and what that means.

    `made`: it has no `[release]`; `unchanged`; `passed`: a person promotes; `promoted`; `rolling out`; `refused`.
    `version` is the package, None when none was pushed.
    """

    word: str
    explanation: str
    version: Version | None = None

    @property
    def is_well(self) -> bool:
        """Whether nothing stands in the way."""
        return self.word != "refused"


@dataclass(frozen=True, slots=True)
class Deliverer:
    """Delivers what one run made. `tools` starts the servers of a check."""

    registry: Registry
    delivery: Delivery
    runner: Runner
    tools: Tools

    @property
    def journal(self) -> Journal:
        """The records of the run."""
        return self.runner.journal

    def deliver(self) -> Outcome:
        """Push, check, promote. Raises ConfigError, PackageError and RegistryError for what cannot be used."""
        pushed = self._push()
        if reason := self._stays(pushed):
            return Outcome("unchanged", reason, pushed.version)
        policy = policy_for(self.registry.folder, pushed.model)
        report = self._check(pushed, policy)
        waived = waivers(self.registry.history(pushed.model), pushed.digest)
        blocking = report.blocking(policy, waived)
        if blocking:
            told = "; ".join(f"{each.check}: {each.verdict} ({each.explanation})" for each in blocking)
            return Outcome("refused", f"{pushed.version} may not be promoted: {told}", pushed.version)
        return self._promote(pushed, policy)

    # ---- push --------------------------------------------------------------------------------------------------------

    def _push(self) -> Pushed:
        """Push the package; one that the model has not had gets its evidence recorded before."""
        delivery = self.delivery
        key = _key(package=self.runner.digest(delivery.package))
        known = self.journal.found(PUSH, key)
        if known is not None:
            pushed = self.registry.resolve(Version(known.model, known.facts["sequence"]))
            self._record(PUSH, KEPT, pushed, {"key": key, "since": _ran_in(known)})
            return pushed
        self._record_evidence()
        pushed = self.registry.push(self.runner.path(delivery.package), self.journal.model).pushed
        self._record(PUSH, RAN, pushed, {"key": key})
        return pushed

    def _record_evidence(self) -> None:
        """Record what the steps say of themselves; all of it is read before any is written."""
        found = [(kind, _read_facts(self.runner.path(place))) for kind, place in self.delivery.evidence]
        for kind, facts in found:
            check_evidence(kind, facts)
        rows = self.delivery.training_rows
        digests = None if rows is None else training_digests(self.runner.path(rows))
        if digests is not None and "data" not in dict(found):
            found.insert(0, ("data", {"source": str(rows)}))
        for kind, facts in found:
            self.registry.record(kind, self.journal.model, facts, row_digests=digests if kind == "data" else None)

    def _stays(self, pushed: Pushed) -> str:
        """Say why a package goes nowhere, nothing when it may: what is in use, or what an alias was taken off."""
        aliases = [Alias(pushed.model, name) for name in dict.fromkeys((self.delivery.alias, self.delivery.against))]
        named = self.registry.aliases(pushed.model)
        for alias in aliases:
            if named.get(alias) == pushed.sequence:
                return f"{alias} names {pushed.version} already"
        for alias in aliases:
            if any(record.facts["sequence"] == pushed.sequence for record in self.registry.moves(alias)):
                return f"{pushed.version} held {alias} before; only a person brings it back"
        for rollout in Rollouts(self.registry).listed(pushed.model):
            if rollout.candidate == pushed.version:
                again = "; only a person begins again" * rollout.state.is_over
                return f"the rollout of {pushed.version} to {rollout.alias} is {rollout.state}{again}"
        return ""

    # ---- check -------------------------------------------------------------------------------------------------------

    def _check(self, pushed: Pushed, policy: Policy) -> Report:
        """Return the report about the package; one that was made of the same is not made again."""
        against = Alias(pushed.model, self.delivery.against)
        names_one = against in self.registry.aliases(pushed.model)
        production = self.registry.resolve(against).digest if names_one else None
        held_out = self.delivery.held_out
        key = _key(
            package=pushed.digest, policy=policy.digest, against=str(against),
            production=production or "",
            held_out="" if held_out is None else self.runner.digest(held_out),
        )  # fmt: skip
        known = self.journal.found(CHECK, key)
        if known is not None:
            record = self._last_check(pushed, against)
            report = Report.from_record(record)
            # Only the last report counts at the gate, and production or the policy may have gone to and fro since.
            if (report.production, report.policy) == (production, policy.digest):
                facts = {"key": key, "check": record.position, "since": _ran_in(known)}
                self._record(CHECK, KEPT, pushed, facts)
                return report
        self.runner.say(f"  {CHECK:<10} {pushed.version} on real servers, which takes a while ...")
        path = None if held_out is None else self.runner.path(held_out)
        report, record = check(self.registry, pushed.version, against, policy, tools=self.tools, held_out_file=path)
        self._record(CHECK, RAN, pushed, {"key": key, "check": record.position})
        return report

    def _last_check(self, pushed: Pushed, against: Alias) -> Record:
        """Return the last check of a package: a person may have checked it again since."""
        for record in reversed(self.registry.history(pushed.model, kind=CHECK)):
            if record.facts["package"] == pushed.digest and Report.from_record(record).against == against:
                return record
        raise RegistryDamaged(f"the check of {pushed.version} that a step names is gone")

    # ---- promote -----------------------------------------------------------------------------------------------------

    def _promote(self, pushed: Pushed, policy: Policy) -> Outcome:
        alias, reason = Alias(pushed.model, self.delivery.alias), f"run {self.journal.run}"
        if self.delivery.by == "person":
            return Outcome("passed", f"{pushed.version} may be promoted, by a person", pushed.version)
        if self.delivery.by == "rollout" and alias in self.registry.aliases(alias.model):
            rollout = Rollouts(self.registry).start(pushed.version, alias.name, policy=policy, reason=reason)
            self._record(ROLL_OUT, RAN, pushed, {"rollout": rollout.position})
            return Outcome("rolling out", f"{pushed.version} begins to take over {alias}", pushed.version)
        record = self.registry.promote(pushed.version, alias.name, gate=CheckedGate(policy), reason=reason)
        self._record(PROMOTE, RAN, pushed, {"promotion": record.position})
        return Outcome("promoted", f"{alias} is {pushed.version}", pushed.version)

    def _record(self, step: str, outcome: str, pushed: Pushed, facts: dict[str, Any]) -> None:
        self.journal.step(step, outcome, facts, version=pushed.version)
        self.runner.say(f"  {step:<10} {outcome}, {pushed.version}")


def _ran_in(known: Record) -> int:
    """Return the run in which a step ran whose record is known, which may be one that kept it."""
    return int(known.facts.get("since", known.facts["run"]))


def _key(**facts: str) -> str:
    return digest_of(canonical(facts).encode())


def _read_facts(path: Path) -> dict[str, Any]:
    """Read a JSON object of evidence. Raises ConfigError."""
    try:
        with path.open("rb") as file:
            value = json.loads(file.read(RECORD_BYTES_MAX + 1))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid JSON of up to {RECORD_BYTES_MAX} bytes: {error}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{path} holds a JSON {type(value).__name__}, expected an object of facts")
    return value
