"""Packages of a registry in a folder of this machine. Servers may share it, as those of one user do by default.

A package that is being pulled lies under a hidden name, where it stays when its server is killed. A file beside the
folder is locked, together with others, by who pulls, and by who needs for a while what lies there.
"""

import contextlib
import fcntl
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from serving.errors import PackageError, RegistryDamaged
from serving.package import read
from serving.registry.catalogue import Pushed
from serving.registry.names import Version
from serving.registry.source import Source

_DIGEST_SHOWN = 16


@dataclass(frozen=True, slots=True)
class Pulled:
    """A package in the cache."""

    sequence: int
    digest: str
    path: Path


def place_of(folder: Path, sequence: int, digest: str) -> Path:
    """Return where a package lies in a folder of such."""
    return folder / f"{sequence}-{digest.removeprefix('sha256:')[:_DIGEST_SHOWN]}"


def pull_into(folder: Path, registry: Source, pushed: Pushed) -> Pulled:
    """Return a package from a folder of such, where it is pulled to unless it is there, whole, already.

    Raises RegistryError, PackageError and OSError.
    """
    pulled = Pulled(pushed.sequence, pushed.digest, place_of(folder, pushed.sequence, pushed.digest))
    if not pulled.path.exists():
        _remove_drafts(folder)
        with hold(folder):
            registry.pull(Version(pushed.model, pushed.sequence), pulled.path)
    if (held := _digest_of(pulled.path)) != pushed.digest:
        shutil.rmtree(pulled.path, ignore_errors=True)
        raise RegistryDamaged(f"{pulled.path} held {held}, expected package {pushed.digest}; it is pulled again")
    return pulled


def hold(folder: Path) -> IO[bytes]:
    """Keep others from removing a folder, until what is returned is closed or this process ends. Raises OSError."""
    file = _opened_lock(folder)
    with contextlib.suppress(OSError):  # of a file system without locks, where servers should not share a cache
        fcntl.flock(file, fcntl.LOCK_SH)  # who excludes us is done soon
    return file


def remove(folder: Path) -> None:
    """Remove a folder, unless somebody holds it, who removes it later, or it cannot be removed."""
    if folder.exists():
        with _alone(folder) as is_alone:
            if is_alone:
                shutil.rmtree(folder, ignore_errors=True)


def keep_only(folder: Path, pulled: Sequence[Pulled]) -> None:
    """Remove the packages of a folder that are not among these. Raises OSError."""
    names = {each.path.name for each in pulled}
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.name.startswith(".") and entry.name not in names:
            shutil.rmtree(entry, ignore_errors=True)


def _remove_drafts(folder: Path) -> None:
    """Remove what was left by servers that were killed while they pulled; not while anybody pulls."""
    if folder.exists():
        with _alone(folder) as is_alone:
            for draft in folder.glob(".*.part") if is_alone else ():
                shutil.rmtree(draft, ignore_errors=True)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[bool]:
    """Keep everybody out, for as long as removing takes, if nobody holds the folder; say whether."""
    with _opened_lock(folder) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # it is held, or nobody can tell
            yield False
        else:
            yield True


def _opened_lock(folder: Path) -> IO[bytes]:
    folder.parent.mkdir(parents=True, exist_ok=True)
    return folder.with_name(f".{folder.name}.lock").open("ab")


def _digest_of(path: Path) -> str:
    """Return the digest that a copy has, or what is wrong with it."""
    try:
        return read(path).digest
    except PackageError as error:
        return str(error)
