"""What the owner of a model demands of a release: required checks, margins, and who may decide."""

import dataclasses
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from serving.config import build, option, read_toml
from serving.errors import ConfigError
from serving.registry.record import canonical, digest_of

METRICS = ("auto", "error_rate", "absolute_error", "squared_error", "log_loss")
CHECKS = (
    "integrity",
    "signature of the author",
    "loads and answers",
    "parity",
    "batch invariance",
    "compatible signature",
    "quality",
    "overfitting",
    "slices",
    "latency mean",
    "latency p99",
    "memory",
    "reference profile",
    "reproducible",
    "licence",
)
"""Every check, in the order in which a report lists them."""


STEPS_MAX = 20
"""Steps of a rollout."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseConfig:
    """`[release]`: who decides, and on which checks."""

    required: tuple[str, ...] = option(CHECKS, "The checks that must let a package through.")
    approvers: tuple[str, ...] = option((), "Who may promote and waive, by --who; empty means everybody.")
    unchecked_aliases: tuple[str, ...] = option((), "Aliases that may name any package, such as staging.")
    trusted_keys: str = option(
        "", "A folder of public keys, seen from the registry's; one must have signed. Empty: none."
    )

    def __post_init__(self) -> None:
        for name in self.required:
            if name not in CHECKS:
                raise ConfigError(f"[release] required = {name!r}, expected some of {', '.join(CHECKS)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityConfig:
    """`[quality]`: how much worse than production a package may be on the same held-out rows."""

    metric: str = option("auto", "The loss of a row; auto: error_rate for labels, squared_error for "
                             "numbers.", choices=METRICS)  # fmt: skip
    output: str = option("", "The output that is judged. Empty: the first one.")
    margin: float = option(-1.0, "The mean loss may be so much above production's; below 0: not set, and then no "
                                 "comparison can pass.", minimum=-1, maximum=1e9)  # fmt: skip
    overfitting_max: float = option(-1.0, "The metric on training rows may be so far from the one on held-out rows; "
                                          "below 0: reported only.", minimum=-1, maximum=1e9)  # fmt: skip
    slice_rows_min: int = option(100, "Slices of fewer rows are reported, not judged.", minimum=2, maximum=1 << 31)
    slice_gap_max: float = option(-1.0, "The mean losses of two slices may differ by so much; below 0: reported only.",
                                  minimum=-1, maximum=1e9)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class CostConfig:
    """`[cost]`: how much slower and larger than production a package may be."""

    latency_margin: float = option(0.1, "Latency may be above production's by this share.", minimum=0, maximum=1e6)
    latency_pairs: int = option(20, "Pairs of slices in which the two are compared.", minimum=20, maximum=1000)
    latency_slice_s: float = option(0.3, "How long a slice takes.", minimum=0.05, maximum=60)
    memory_margin: float = option(0.2, "Memory may be above production's by this share.", minimum=0, maximum=1e6)
    memory_starts: int = option(3, "Servers started of each, to compare their memory.", minimum=2, maximum=100)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceConfig:
    """`[evidence]`: what a package must say of itself."""

    licences: tuple[str, ...] = option((), "First lines of licences that are accepted; empty accepts any.")
    tolerance: float = option(1e-4, "Answers of a server may differ from golden ones, and from each other, by this "
                                    "share of their size and a tenth of it besides.", minimum=0, maximum=1)  # fmt: skip
    drift_index_max: float = option(0.1, "Held-out rows that differ from the reference profile for sure may do so by "
                                         "this population stability index.", minimum=0, maximum=100)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutConfig:
    """`[rollout]`: how a package takes over from another in servers that follow the alias."""

    steps: tuple[float, ...] = option((0.01, 0.1, 0.5), "Shares of the requests that the canary answers, step by step; "
                                                        "as many go to the control.")  # fmt: skip
    shadow_requests_per_s: float = option(50.0, "Before these steps the package answers so many copies of requests for "
                                                "nobody; 0 leaves that out.", minimum=0, maximum=1000)  # fmt: skip
    shadow_differences_max: float = option(-1.0, "The share of these answers that may differ from production's; below "
                                                 "0: reported only.", minimum=-1, maximum=1)  # fmt: skip
    shadow_tolerance: float = option(1e-3, "Numbers differ beyond this share of their size and a tenth of it besides.",
                                     minimum=0, maximum=1)  # fmt: skip
    block_s: float = option(10.0, "Canary and control are compared over stretches of time of this length.",
                            minimum=0.02, maximum=3600)  # fmt: skip
    block_requests_min: int = option(40, "A stretch lasts until both together had so many requests.",
                                     minimum=2, maximum=1 << 31)  # fmt: skip
    hold_s_max: float = option(3600.0, "A step that is not decided after this time is rolled back; at least block_s.",
                               minimum=0.1, maximum=1e7)  # fmt: skip
    alpha: float = option(0.05, "How often, at most, a package that is not worse may be rolled back for getting worse.",
                          minimum=1e-6, maximum=0.5)  # fmt: skip
    latency_tolerance: float = option(0.05, "Latency may be above the control's by this share before it counts as "
                                            "worse.", minimum=0, maximum=1e3)  # fmt: skip
    latency_margin: float = option(0.2, "A step is passed when latency is surely above the control's by less than "
                                        "this share.", minimum=0.01, maximum=1e3)  # fmt: skip
    errors_margin: float = option(0.01, "A step is passed when the share of requests that fail is surely above the "
                                        "control's by less than this.", minimum=1e-6, maximum=1)  # fmt: skip

    def __post_init__(self) -> None:
        shares = (0.0, *self.steps)
        rising = all(before < after <= 0.5 for before, after in pairwise(shares))
        if not rising or not 1 <= len(self.steps) <= STEPS_MAX:
            raise ConfigError(f"[rollout] steps = {list(self.steps)}, expected up to {STEPS_MAX} rising shares above 0 "
                              "and up to 0.5: the control needs as many requests as the canary")  # fmt: skip
        if self.latency_margin <= self.latency_tolerance:
            raise ConfigError(f"[rollout] latency_margin = {self.latency_margin}, expected more than "
                              f"latency_tolerance = {self.latency_tolerance}")  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The whole of a policy file. Nothing in it is needed."""

    release: ReleaseConfig = option(ReleaseConfig(), "")
    quality: QualityConfig = option(QualityConfig(), "")
    cost: CostConfig = option(CostConfig(), "")
    evidence: EvidenceConfig = option(EvidenceConfig(), "")
    rollout: RolloutConfig = option(RolloutConfig(), "")

    def __post_init__(self) -> None:
        # Not asked of `RolloutConfig` alone: what a ledger holds of older rollouts must stay readable.
        rollout = self.rollout
        if rollout.hold_s_max < rollout.block_s:
            raise ConfigError(f"[rollout] hold_s_max = {rollout.hold_s_max:g}, expected at least block_s = "
                              f"{rollout.block_s:g}: a step would end before anything is compared in it")  # fmt: skip

    @property
    def digest(self) -> str:
        """What a check names the policy by; it changes when any demand does. How to roll out demands nothing."""
        demands = {name: value for name, value in dataclasses.asdict(self).items() if name != "rollout"}
        return digest_of(canonical(demands).encode())


def policy_for(folder: Path, model: str) -> Policy:
    """Read the policy of a model: `policies/NAME.toml` in the registry's folder, else `policy.toml`, else the defaults.

    Raises ConfigError for a file that cannot be used.
    """
    for path in (folder / "policies" / f"{model}.toml", folder / "policy.toml"):
        try:
            is_there = path.exists()
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
        if is_there:
            return read_policy(path)
    return Policy()


def read_policy(path: Path) -> Policy:
    """Read a policy file. Raises ConfigError."""
    try:
        return build(Policy, read_toml(path))
    except ConfigError as error:
        raise ConfigError(f"{error}" if str(error).startswith(str(path)) else f"{path}: {error}") from None
