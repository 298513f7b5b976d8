"""Where a converted model comes from: digests, versions, parameters, seeds, and the commit of the code.

Nothing of the moment or the machine: no dates, no paths, no names of hosts.
"""

import hashlib
import platform
import subprocess
from pathlib import Path
from typing import Any

from converters.conversion import Conversion, runtime_versions

_GIT_TIMEOUT_S = 10


def lineage_of(conversion: Conversion, *, model_digest: str, seed: int, folder: Path) -> dict[str, Any]:
    """Return the lineage of a conversion; `folder` is where the code that trained it may lie under git."""
    draft = conversion.draft
    return {
        "framework": draft.framework,
        "versions": {**runtime_versions(), **draft.versions, "python": platform.python_version()},
        "parameters": draft.parameters,
        "seeds": {"conversion": seed},
        "digests": {"model": model_digest, "sample": f"sha256:{conversion.sample_digest}"},
        "target": {"onnxruntime": conversion.target.onnxruntime, "opset": conversion.target.opset},
        "code": commit_of(folder),
    }


def digest_of_file(path: Path) -> str:
    """Return the SHA-256 of a file, or of all files of a folder with their names."""
    state = hashlib.sha256()
    files = [path] if path.is_file() else sorted(item for item in path.rglob("*") if item.is_file())
    for file in files:
        if path.is_dir():
            state.update(f"{file.relative_to(path).as_posix()}\0".encode())
        with file.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                state.update(chunk)
    return f"sha256:{state.hexdigest()}"


def commit_of(folder: Path) -> dict[str, Any] | None:
    """Return the commit that is checked out around a folder, and whether tracked files differ; None outside of git."""
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    return {"commit": commit, "changed": bool(_git(folder, "status", "--porcelain", "--untracked-files=no"))}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(  # noqa: S603 - fixed arguments
            ["git", "-C", str(folder), *arguments],  # noqa: S607 - whichever git the user has
            capture_output=True, text=True, check=False, timeout=_GIT_TIMEOUT_S,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
