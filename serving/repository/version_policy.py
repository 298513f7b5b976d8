"""Which versions to try, and when to stop. Pure."""

from collections.abc import Iterable

from serving.config import VersionPolicy


def candidates(policy: VersionPolicy, versions: Iterable[int]) -> list[int]:
    """Return the versions that may serve, the one to try first first: newest to oldest."""
    newest_first = sorted(versions, reverse=True)
    if policy.specific:
        return [version for version in newest_first if version in policy.specific]
    return newest_first


def is_enough(policy: VersionPolicy, ready_count: int) -> bool:
    """Say whether the policy is satisfied with so many ready versions.

    `latest(n)` means the n newest versions *that load*: a broken newest version then leaves the one before it serving,
    now and after a restart.
    """
    return policy.latest > 0 and ready_count >= policy.latest
