"""Whether an alias may move to a package: a decision from the ledger alone. Pure.

A promotion needs a check of the same digest, made under the policy of now, against what the alias that was compared
with names now; and each required answer must let the package through, or be waived by a record with name and reason.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from serving.errors import RegistryError
from serving.registry.client import Promotion
from serving.registry.record import Record
from serving.release.policy import Policy
from serving.release.report import CHECK, WAIVER, Report

PRODUCTION = "production"


@dataclass(frozen=True, slots=True)
class CheckedGate:
    """Lets a promotion through, or raises RegistryError with what is missing. A `serving.registry.client.Gate`."""

    policy: Policy

    def __call__(self, promotion: Promotion) -> Mapping[str, Any]:
        """Return the evidence that the record of the promotion names."""
        check_approver(self.policy, promotion.who)
        if promotion.alias.name in self.policy.release.unchecked_aliases:
            return {"unchecked": True}
        record = _last_check(promotion)
        report = Report.from_record(record)
        _refuse_stale(report, promotion, self.policy)
        waived = waivers(promotion.records, promotion.pushed.digest)
        blocking = report.blocking(self.policy, waived)
        if blocking:
            told = "; ".join(f"{finding.check}: {finding.verdict} ({finding.explanation})" for finding in blocking)
            raise RegistryError(f"{promotion.pushed.version} may not be promoted: {told}")
        return {"check": record.position, **({"waived": sorted(waived)} if waived else {})}


def check_approver(policy: Policy, who: str) -> None:
    """Refuse a person whom the policy does not name. Raises RegistryError.

    The ledger says who acted as they said themselves; who may write the registry at all is for the file system to say.
    """
    approvers = policy.release.approvers
    if approvers and who not in approvers:
        raise RegistryError(f"{who} may not release this model; the policy names: {', '.join(approvers)}")


def waivers(records: Sequence[Record], digest: str) -> dict[str, str]:
    """Return who waived a check of a package and why, by the check's name."""
    return {
        str(record.facts["check"]): f"{record.who}: {record.facts['reason']}"
        for record in records
        if record.kind == WAIVER and record.facts.get("package") == digest
    }


def _last_check(promotion: Promotion) -> Record:
    """Return the last check that compared the package with what the alias names, or with production."""
    wanted = {promotion.alias.name, PRODUCTION}
    for record in reversed(promotion.records):
        is_check = record.kind == CHECK and record.facts.get("package") == promotion.pushed.digest
        if is_check and record.facts.get("against", {}).get("alias") in wanted:
            return record
    version = promotion.pushed.version
    raise RegistryError(f"{version} has not been checked; run `penstock registry check {version}` first")


def _refuse_stale(report: Report, promotion: Promotion, policy: Policy) -> None:
    """Refuse a check that was made against something else, or under another policy."""
    again = f"run `penstock registry check {promotion.pushed.version}` again"
    now = promotion.aliases.get(report.against)
    if report.production != now:
        was = report.production or "nothing"
        raise RegistryError(f"{promotion.pushed.version} was compared with {was}, and {report.against} names "
                            f"{now or 'nothing'} now; {again}")  # fmt: skip
    if report.policy != policy.digest:
        raise RegistryError(f"{promotion.pushed.version} was checked under another policy than that of now; {again}")
