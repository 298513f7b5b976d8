"""Environments for clients that nobody here wrote, made once and kept outside the checkout.

Those in Python pin protobuf below 7 or register the protocol's message names themselves, so they cannot share our
process.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "penstock-tests"


def environment(*requirements: str) -> Path:
    """Return the Python of an environment that holds `requirements`; made on the first call, on any machine."""
    key = hashlib.sha256("\n".join((sys.version, *requirements)).encode()).hexdigest()[:16]
    folder = CACHE / key
    with _locked(key):
        if not (folder / "complete").exists():
            shutil.rmtree(folder, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
            pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            subprocess.run([*pip, *requirements], check=True)
            (folder / "complete").touch()
    return folder / "bin" / "python"


class Missing(Exception):
    """What a client needs is not on this machine and cannot be had."""


def node_modules(*packages: str) -> Path:
    """Return a folder of node_modules that holds `packages` of npm; made on the first call. Raises Missing."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        raise Missing("node and npm are not installed")
    key = hashlib.sha256("\n".join(("npm", *packages)).encode()).hexdigest()[:16]
    folder = CACHE / key
    with _locked(key):
        if not (folder / "complete").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            command = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(folder)]
            done = subprocess.run([*command, *packages], capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise Missing(f"npm cannot install {', '.join(packages)}: {done.stderr.strip()[-300:]}")
            (folder / "complete").touch()
    return folder / "node_modules"


@contextlib.contextmanager
def _locked(key: str) -> Iterator[None]:
    """Let one process at a time make what is named by `key`."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{key}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
