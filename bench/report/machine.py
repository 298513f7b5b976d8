"""Where figures were measured: the machine and the checkout, so that figures are compared with their like only.

It holds nothing that says whose machine it is: no names of hosts or users, no paths, no addresses.
"""

import os
import platform
import subprocess
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

PACKAGES = ("penstock", "onnxruntime", "numpy", "numba", "grpcio")
_GIT_S_MAX = 10


@dataclass(frozen=True, slots=True)
class Machine:
    """What the speed of a run depends on. None where this machine does not tell.

    `cores` are logical ones, `cores_usable` those that this process may use (affinity and cgroup quota). `load_1min` is
    the load average before measuring: near 0 on a machine that has nothing else to do.
    """

    cpu: str
    cores: int
    cores_usable: float
    memory_gib: float | None
    system: str
    kernel: str
    python: str
    packages: dict[str, str]
    governor: str | None
    load_1min: float | None


def fingerprint(root: Path = Path("/")) -> Machine:
    """Read this machine; `root` is where /proc, /sys and /etc are."""
    return Machine(
        cpu=_cpu(root),
        cores=os.cpu_count() or 1,
        cores_usable=_cores_usable(root),
        memory_gib=_memory_gib(root),
        system=_system(root),
        kernel=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=f"{platform.python_implementation()} {platform.python_version()}",
        packages={name: version for name in PACKAGES if (version := _version(name))},
        governor=_text(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        load_1min=_load_1min(),
    )


def commit(folder: Path = Path(__file__).parent) -> str | None:
    """Return the commit of the checkout that `folder` belongs to, with `-dirty` when tracked files are changed.

    None outside a checkout, without git, and where a foreign checkout merely surrounds an installed distribution.
    """
    if _git(folder, "ls-files", "--", ".") in (None, ""):
        return None
    revision, changes = _git(folder, "rev-parse", "HEAD"), _git(folder, "status", "--porcelain", "-uno", "--", ":/")
    return None if revision is None else revision + ("-dirty" if changes else "")


def _git(folder: Path, *arguments: str) -> str | None:
    """Return what git prints, None when it fails or is not there. It takes no locks: others may be at work."""
    try:
        result = subprocess.run(
            ["git", "--no-optional-locks", "-C", str(folder), *arguments],  # noqa: S607 - the git of the path
            capture_output=True,
            text=True,
            check=True,
            timeout=_GIT_S_MAX,
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return result.stdout.strip()


def _cpu(root: Path) -> str:
    """Return the CPU's name; ARM's cpuinfo has none, so there it is the architecture."""
    for line in (_text(root / "proc/cpuinfo") or "").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name" and value.strip():
            return value.strip()
    return platform.machine()


def _cores_usable(root: Path) -> float:
    """Return how many cores may be used: the affinity's, or the cgroup's quota where that is less."""
    cores = float(len(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else float(os.cpu_count() or 1)
    quota, _, period = (_text(root / "sys/fs/cgroup/cpu.max") or "").partition(" ")
    return min(cores, int(quota) / int(period)) if quota.isdigit() and period.isdigit() else cores


def _memory_gib(root: Path) -> float | None:
    for line in (_text(root / "proc/meminfo") or "").splitlines():
        words = line.split()
        if words[:1] == ["MemTotal:"] and len(words) == 3:
            return round(int(words[1]) / (1 << 20), 1)
    return None


def _system(root: Path) -> str:
    for line in (_text(root / "etc/os-release") or "").splitlines():
        name, _, value = line.partition("=")
        if name == "PRETTY_NAME":
            return value.strip("\"'")
    return platform.system()


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _load_1min() -> float | None:
    try:
        return round(os.getloadavg()[0], 2)
    except OSError:
        return None


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None
