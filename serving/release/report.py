"""The report of a check: its findings about one package, as a record holds them, as a table, and as one JSON object.

Pure.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from serving.errors import RegistryError
from serving.registry.names import Alias, Version
from serving.registry.record import Record
from serving.release.finding import Finding
from serving.release.policy import Policy

CHECK, WAIVER = "check", "waiver"
"""The kinds of record that the gate reads."""


@dataclass(frozen=True, slots=True)
class Report:
    """The answers about one package. `against` is the alias that it was compared with, `production` what that named."""

    version: Version
    package: str
    against: Alias
    production: str | None
    policy: str
    findings: tuple[Finding, ...]

    @classmethod
    def from_record(cls, record: Record) -> "Report":
        """Read a report back. Raises RegistryError for a record that holds none."""
        try:
            facts, against = record.facts, record.facts["against"]
            return cls(
                Version(record.model, facts["sequence"]),
                facts["package"],
                Alias(record.model, against["alias"]),
                against["package"],
                facts["policy"],
                tuple(Finding.from_json(finding) for finding in facts["findings"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise RegistryError(f"record {record.position} holds no report that this version reads: {error}") from None

    def facts(self) -> dict[str, Any]:
        """Return the report as a record holds it, beside the package that it is about."""
        against = {"alias": self.against.name, "package": self.production}
        return {"against": against, "policy": self.policy, "findings": [each.to_json() for each in self.findings]}

    def blocking(self, policy: Policy, waived: Mapping[str, str]) -> list[Finding]:
        """Return what keeps the package back: required answers that let nothing through and are not waived."""
        found = {finding.check: finding for finding in self.findings}
        absent = [name for name in policy.release.required if name not in found]
        if absent:
            raise RegistryError(f"the check of {self.version} did not ask: {', '.join(absent)}; check it again")
        return [found[name] for name in policy.release.required
                if not found[name].verdict.lets_through and name not in waived]  # fmt: skip

    def describe(self, policy: Policy, waived: Mapping[str, str]) -> dict[str, Any]:
        """Return the report for machines."""
        return {
            "model": self.version.model,
            "sequence": self.version.sequence,
            "package": self.package,
            **self.facts(),
            "required": list(policy.release.required),
            "waived": dict(waived),
            "passes": not self.blocking(policy, waived),
        }

    def rows(self, policy: Policy, waived: Mapping[str, str]) -> list[tuple[str, ...]]:
        """Return the lines of a table: check, verdict, number, interval, threshold, explanation."""
        return [
            (each.check, _verdict(each, policy, waived), shown(each.number), _interval(each), shown(each.threshold),
             waived.get(each.check) or each.explanation)
            for each in self.findings
        ]  # fmt: skip


HEADER = ("CHECK", "VERDICT", "NUMBER", "INTERVAL", "AT MOST", "WHAT IT MEANS")


def shown(number: float | None) -> str:
    """Return a number for people."""
    return "-" if number is None else f"{number:.4g}"


def _interval(finding: Finding) -> str:
    if finding.low is None and finding.high is None:
        return "-"
    return f"{shown(finding.low)} to {shown(finding.high)}"


def _verdict(finding: Finding, policy: Policy, waived: Mapping[str, str]) -> str:
    if finding.check in waived and not finding.verdict.lets_through:
        return f"{finding.verdict}, waived"
    return finding.verdict if finding.check in policy.release.required else f"{finding.verdict}, not required"
