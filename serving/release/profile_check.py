"""Whether a package brings a reference profile, and whether held-out rows look as it says. Pure but for the parsing."""

import numpy as np

from serving.errors import ConfigError
from serving.package import Package
from serving.release.finding import Finding, Verdict, inconclusive, passed
from serving.release.held_out import HeldOut
from serving.release.inference import holm, homogeneity, stability_index
from serving.release.policy import EvidenceConfig
from serving.statistics.derived import Derivation
from serving.statistics.profile import ReferenceProfile, Role

ALPHA = 0.01
"""How often, at most, the largest shift of all features is called real when there is none."""


def reference_profile(package: Package, held_out: HeldOut | None, evidence: EvidenceConfig) -> Finding:
    """Judge the profile: a feature fails when its shift is real (chi-square, Holm) and too large (stability index)."""
    name = "reference profile"
    data = package.profile
    if data is None:
        return passed(name, False, "the package has none; `penstock convert` counts one on the sample")
    try:
        profile = ReferenceProfile.from_bytes(data)
    except ConfigError as error:
        return passed(name, False, str(error))
    if profile.is_self_reference:
        return passed(name, False, "it was counted on what a server saw, and nobody vouches for that")
    if held_out is None:
        return inconclusive(name, f"it has {len(profile.features)} features; no held-out rows to compare with")
    shifts = _shifts(profile, held_out)
    if not shifts:
        return inconclusive(name, "it has no feature of an input of the held-out rows")
    adjusted = holm(np.array([p_value for _, p_value, _ in shifts]))
    worst = max(shifts, key=lambda shift: shift[2])
    real = [shift for shift, p_value in zip(shifts, adjusted, strict=True) if p_value < ALPHA]
    beyond = [shift for shift in real if shift[2] > evidence.drift_index_max]
    loudest = max(beyond or [worst], key=lambda shift: shift[2])
    told = f"{len(real)} of {len(shifts)} features have shifted; the largest stability index is of {loudest[0]}"
    verdict = Verdict.FAIL if beyond else Verdict.PASS
    return Finding(check=name, verdict=verdict, number=loudest[2], threshold=evidence.drift_index_max, explanation=told)


def _shifts(profile: ReferenceProfile, held_out: HeldOut) -> list[tuple[str, float, float]]:
    """Return name, p-value and stability index of each input feature."""
    found = []
    for feature in profile.features:
        is_element = feature.derivation is Derivation.ELEMENT
        if is_element and feature.role is Role.INPUT and feature.tensor in held_out.inputs:
            array = held_out.inputs[feature.tensor]
            values = array.reshape(len(array), -1)[:, feature.column]
            counts = np.bincount(feature.slots_of(values), minlength=feature.slots)
            p_value = homogeneity(feature.counts, counts)
            found.append((feature.name, p_value, stability_index(feature.counts, counts)))
    return found
