"""Whether a folder lies on a disk of this machine, which SQLite's write-ahead log needs."""

import os
import re
from pathlib import Path

NETWORK = frozenset({"9p", "afs", "ceph", "cifs", "davfs", "gfs2", "glusterfs", "lustre", "ncpfs", "nfs", "nfs4",
                     "ocfs2", "smb3", "smbfs", "virtiofs"})  # fmt: skip
_MOUNTS = Path("/proc/self/mountinfo")


def is_local(folder: Path, mounts: Path = _MOUNTS) -> bool:
    """Say whether a folder is on a local file system; FUSE counts as a network, and so does what cannot be told.

    `mounts` has the form of /proc/self/mountinfo, see proc(5).
    """
    try:
        lines = mounts.read_text().splitlines()
    except OSError:
        return False
    path = os.path.realpath(folder)
    found = [(point, kind) for point, kind in map(_mount, lines) if _is_inside(path, point)]
    if not found:
        return False
    longest = max(len(point) for point, _ in found)
    kind = [kind for point, kind in found if len(point) == longest][-1]  # the last one mounted there hides the others
    return kind not in NETWORK and not kind.startswith("fuse")


def _mount(line: str) -> tuple[str, str]:
    """Return the place and the type of one mount; spaces in the place are written as octal."""
    facts, _, rest = line.partition(" - ")
    point = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), facts.split(" ")[4])
    return point, rest.split(" ")[0]


def _is_inside(path: str, point: str) -> bool:
    return point in {"/", path} or path.startswith(point + "/")
