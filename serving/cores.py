"""How many cores this process may use: its affinity, and the CPU quota of its container, as Linux tells.

A quota is of control groups: `cpu.max` (version 2) or `cpu.cfs_quota_us` over `cpu.cfs_period_us` (version 1), of the
process's own group or of one above it, whichever is least.
"""

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_GROUPS = Path("proc/self/cgroup")
_MOUNT = Path("sys/fs/cgroup")


def usable_cores(root: Path = Path("/")) -> int:
    """Return how many threads can compute at once, at least 1; `root` is where the files of Linux lie.

    Of a quota of one and a half cores it is 1: a second thread would be stopped in every period.
    """
    quotas = [quota for quota in _quotas(root) if quota > 0.0]
    cores = len(os.sched_getaffinity(0))
    return max(1, min(cores, int(min(quotas)))) if quotas else cores


def _quotas(root: Path) -> Iterator[float]:
    """Yield the quotas of the groups that this process is in, in cores; 0 where a file does not tell one."""
    for controllers, group in _groups(root):
        for folder in (group, *group.parents):
            inside = folder.relative_to("/")
            if not controllers:
                yield _ratio(_words(root / _MOUNT / inside / "cpu.max"))
            elif "cpu" in controllers.split(","):
                base = root / _MOUNT / "cpu" / inside
                yield _ratio(_words(base / "cpu.cfs_quota_us") + _words(base / "cpu.cfs_period_us"))


def _groups(root: Path) -> Iterator[tuple[str, PurePosixPath]]:
    """Yield controllers (none for version 2) and path of each group; in a container the path may lead nowhere."""
    try:
        lines = (root / _GROUPS).read_text().splitlines()
    except (OSError, ValueError):
        lines = []
    for line in lines:
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if path.startswith("/") and ".." not in path:
            yield controllers, PurePosixPath(path)


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except (OSError, ValueError):
        return []


def _ratio(words: list[str]) -> float:
    """Return quota over period; 0 without a quota, which is the word `max` or -1."""
    try:
        quota, period = (int(word) for word in words)
    except ValueError:
        return 0.0
    return quota / period if quota > 0 and period > 0 else 0.0
