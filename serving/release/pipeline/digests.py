"""Names files and folders by what they hold, and tells whether they change meanwhile."""

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from serving.errors import ConfigError

FILES_MAX = 100_000
"""Files in one folder that is digested."""


@dataclass(frozen=True, slots=True)
class Digested:
    """What a file or folder held. `stamp` changes when anything in it is written again, without reading it."""

    digest: str
    stamp: str


def digest_path(path: Path) -> Digested:
    """Digest a file, or a folder with the names in it. Raises ConfigError for what cannot be read.

    Of a folder, `__pycache__` and names that start with a dot do not count: programs leave them behind.
    """
    content, stamps = hashlib.sha256(), hashlib.sha256()
    try:
        for name, file in _named(path):
            content.update(name + _file(file))
            stamps.update(name + _stamp(file))
    except OSError as error:
        raise ConfigError(f"{error.filename or path} cannot be read: {error.strerror}") from None
    return Digested(f"sha256:{content.hexdigest()}", stamps.hexdigest())


def stamp_of(path: Path) -> str:
    """Return the stamp that `digest_path` would return; empty for what cannot be looked at."""
    stamps = hashlib.sha256()
    try:
        for name, file in _named(path):
            stamps.update(name + _stamp(file))
    except (OSError, ConfigError):
        return ""
    return stamps.hexdigest()


def _named(path: Path) -> Iterator[tuple[bytes, Path]]:
    """Yield what is digested: a file, whose own name does not count, or each one of a folder with its path in that."""
    if path.is_file():
        yield b"", path
        return
    for name, file in _files(path):
        yield f"{len(name)} {name}\0".encode("utf-8", "surrogateescape"), file


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield the files below a folder in the order of their paths in it."""
    found: list[Path] = []
    for place, folders, files in os.walk(folder, onerror=_raise):
        folders[:] = sorted(name for name in folders if _counts(name))
        for name in folders:
            if (Path(place) / name).is_symlink():
                raise ConfigError(f"{Path(place) / name} is a link to a folder; name what it leads to instead")
        found += [Path(place) / name for name in files if _counts(name)]
        if len(found) > FILES_MAX:
            raise ConfigError(f"{folder} holds more than {FILES_MAX} files; name those that count")
    yield from sorted((file.relative_to(folder).as_posix(), file) for file in found)


def _counts(name: str) -> bool:
    return name != "__pycache__" and not name.startswith(".")


def _file(path: Path) -> bytes:
    """Return the digest of a file. Raises ConfigError for a pipe or a device, which may never end."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise ConfigError(f"{path} is no file")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _stamp(path: Path) -> bytes:
    facts = path.stat()
    return f"{facts.st_ino} {facts.st_size} {facts.st_mtime_ns} {facts.st_ctime_ns}\n".encode()


def _raise(error: OSError) -> None:
    raise error
