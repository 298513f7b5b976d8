"""Checks of what a package says of itself: whole, signed, converted faithfully, reproducible, licensed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from serving.errors import ConfigError, PackageError, RegistryDamaged
from serving.package import Package
from serving.package.signing import trusted_keys
from serving.registry.record import Record
from serving.release.finding import Finding, inconclusive, not_applicable, passed
from serving.release.policy import EvidenceConfig
from serving.types import DYNAMIC, Signature, TensorSpec


def integrity(package: Package) -> Finding:
    """Every byte has its digest."""
    try:
        package.verify()
    except (PackageError, RegistryDamaged) as error:
        return passed("integrity", False, str(error))
    count = 1 + len(package.blobs) + len(package.signature_blobs)
    return passed("integrity", True, f"{count} blobs have their digests", float(count))


def signed(package: Package, keys_folder: str) -> Finding:
    """A trusted key has signed the package, when the policy asks for one."""
    name = "signature of the author"
    if not keys_folder:
        return not_applicable(name, "the policy names no trusted_keys")
    try:
        key = trusted_keys(Path(keys_folder)).check(package)
    except PackageError as error:
        return passed(name, False, str(error))
    except ConfigError as error:
        return inconclusive(name, str(error))
    return passed(name, True, f"signed by {key}")


def parity(package: Package) -> Finding:
    """The conversion answers as the framework did."""
    report = package.parity
    if report is None:
        return inconclusive("parity", "the package has no parity report; `penstock convert` writes one")
    if not isinstance(report.get("passed"), bool):
        return inconclusive("parity", "the parity report does not say whether it passed")
    waived = [waiver.check for waiver in package.waivers if waiver.check.startswith("parity")]
    if waived:
        return passed("parity", False, f"waived when it was converted: {', '.join(waived)}; waive it here too")
    return passed("parity", report["passed"], f"{len(report.get('checks', []))} checks of the conversion")


def compatible_signature(package: Package, production: Package | None) -> Finding:
    """Clients of what is in production can be answered by the package."""
    name = "compatible signature"
    if production is None:
        return not_applicable(name, "nothing is in production yet")
    problems = incompatibilities(production.signature, package.signature)
    return passed(name, not problems, "; ".join(problems) or "takes and gives what production does", len(problems))


def incompatibilities(before: Signature, after: Signature) -> list[str]:
    """Say what a client of `before` would miss in `after`: its inputs must fit, and its outputs be there."""
    problems = []
    if before.batchable and not after.batchable:
        problems.append("rows of several requests cannot run together any more")
    known = {spec.name: spec for spec in before.inputs}
    for spec in after.inputs:
        old = known.pop(spec.name, None)
        if old is None:
            problems.append(f"input '{spec.name}' is new, and no client sends it")
        elif not _fits(old, spec):
            problems.append(f"input '{spec.name}' was {_shown(old)}, is {_shown(spec)}")
    problems += [f"input '{name}' is gone, and clients send it" for name in known]
    outputs = {spec.name: spec for spec in after.outputs}
    for spec in before.outputs:
        new = outputs.get(spec.name)
        if new is None:
            problems.append(f"output '{spec.name}' is gone")
        elif not _fits(new, spec):
            problems.append(f"output '{spec.name}' was {_shown(spec)}, is {_shown(new)}")
    return problems


def reproducible(package: Package, records: Sequence[Record]) -> Finding:
    """The package can be made again: clean commit, digests of data, versions or lock file, seeds."""
    said: dict[str, Any] = dict(package.lineage or {})
    for record in records:
        if record.kind in {"train", "data"}:
            said.update({name: value for name, value in record.facts.items() if name not in said})
    code = said.get("code")
    commit = code.get("commit") if isinstance(code, Mapping) else said.get("commit")
    missing = []
    if not commit:
        missing.append("the commit of the code")
    elif isinstance(code, Mapping) and code.get("changed"):
        missing.append(f"a clean checkout: files differed from commit {str(commit)[:12]}")
    missing += [text for names, text in _NEEDED if not any(said.get(name) for name in names)]
    what = f"lacks {'; '.join(missing)}" if missing else f"from commit {str(commit)[:12]}"
    return passed("reproducible", not missing, what, len(missing))


_NEEDED = (
    (("digests",), "digests of the data"),
    (("lock", "versions"), "a lock file or the versions"),
    (("seeds", "seed"), "the seeds"),
)


def licence(package: Package, evidence: EvidenceConfig) -> Finding:
    """A licence is there, and one that the policy accepts."""
    text = package.licence
    if not text or not text.strip():
        return passed("licence", False, "the package has no licence")
    first = text.strip().splitlines()[0].strip()
    accepted = not evidence.licences or first in evidence.licences
    return passed("licence", accepted, first[:200] if accepted else f"{first[:200]!r} is none of {evidence.licences}")


def _fits(given: TensorSpec, taken: TensorSpec) -> bool:
    """Whether every tensor of the one spec is a tensor of the other."""
    return (
        given.datatype is taken.datatype
        and len(given.shape) == len(taken.shape)
        and all(into in {DYNAMIC, size} for size, into in zip(given.shape, taken.shape, strict=True))
    )


def _shown(spec: TensorSpec) -> str:
    return f"{spec.datatype.wire_name} {list(spec.shape)}"
