"""How much memory is in use and how much is left, as Linux and GPUs tell."""

import os
from pathlib import Path

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_UNKNOWN_FREE_BYTES = 1 << 62


def resident_bytes() -> int:
    """Return what of this process lies in memory; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES
    except (OSError, ValueError, IndexError):
        return 0


def gpu_used_bytes(number: int | None) -> int:
    """Return what of a GPU's memory is in use, by anybody; 0 for None. Raises LoadError where there is no such GPU."""
    if number is None:
        return 0
    from serving.gpu.device import Gpu  # noqa: PLC0415 - brings numba.cuda

    return Gpu(number).used_bytes()


def available_bytes() -> int:
    """Return what could be had without swapping, also within a container's limit; a huge number where nobody tells."""
    return min(_machine_bytes(), _container_bytes())


def _machine_bytes() -> int:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, IndexError, StopIteration):
        return _UNKNOWN_FREE_BYTES


def _container_bytes() -> int:
    group = Path("/sys/fs/cgroup")
    try:
        return int((group / "memory.max").read_text()) - int((group / "memory.current").read_text())
    except (OSError, ValueError):  # no limit, which is the word `max`, or not this kind of group
        return _UNKNOWN_FREE_BYTES
