"""What lies in the model repository's folder: models, versions, and a fingerprint of each to notice changes by.

Reads names and file facts, never contents. A name that starts with a dot is invisible, so a writer can prepare a
version under such a name and rename it.
"""

import itertools
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from serving.errors import ConfigError

MODEL_FILE = "model.onnx"
CONFIG_FILE = "model.toml"
FILES_PER_VERSION_MAX = 10_000
VERSION_MAX = 2**63 - 1
_VERSION_DIGITS_MAX = len(str(VERSION_MAX))  # clients send versions too, and reading digits has a cost

Fingerprint = tuple[tuple[str, int, int, int], ...]
"""Relative path, bytes, mtime in ns and inode of each file. Equal fingerprints mean unchanged files."""


@dataclass(frozen=True, slots=True)
class VersionOnDisk:
    """A folder whose name is an integer. `problem` says why it cannot be loaded, if that can be seen from outside."""

    number: int
    path: Path
    fingerprint: Fingerprint
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class ModelOnDisk:
    """A model's folder. `problems` are things in it that will never be served."""

    name: str
    config_path: Path
    config_fingerprint: Fingerprint
    versions: Mapping[int, VersionOnDisk]
    problems: tuple[str, ...]


def scan(root: Path) -> dict[str, ModelOnDisk]:
    """Look at every model. Raises ConfigError when the folder itself cannot be read."""
    try:
        with os.scandir(root) as entries:
            names = sorted(entry.name for entry in entries if is_name(entry.name) and _is_folder(entry))
    except OSError as error:
        raise ConfigError(f"model repository {root}: {error.strerror}") from error
    return {name: scan_model(root / name) for name in names}


def is_name(name: str) -> bool:
    """Say whether a folder's name can be a model's: visible, and text that fits a line, a message and a label."""
    return not name.startswith(".") and name.isprintable()


def scan_model(folder: Path) -> ModelOnDisk:
    """Look at one model's folder; one that cannot be read has a problem and no versions."""
    versions: dict[int, VersionOnDisk] = {}
    problems: list[str] = []
    try:
        entries = sorted((entry for entry in os.scandir(folder) if _is_folder(entry)), key=lambda entry: entry.name)
    except OSError as error:
        entries, problems = [], [f"cannot be read: {error.strerror}"]
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if not is_version(entry.name):
            problems.append(f"folder '{entry.name}' is not a version, expected an integer such as 1")
            continue
        versions[int(entry.name)] = _scan_version(Path(entry.path))
    if not versions and not problems:
        problems.append(f"no versions, expected {folder.name}/1/{MODEL_FILE}")
    config_path = folder / CONFIG_FILE
    return ModelOnDisk(folder.name, config_path, _fingerprint_of(config_path), versions, tuple(problems))


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads round in a circle
        return False


def is_version(name: str) -> bool:
    """Say whether a folder's name is a version: a decimal integer from 0, without leading zeros or signs."""
    if not (len(name) <= _VERSION_DIGITS_MAX and name.isascii() and name.isdigit()):
        return False
    return str(int(name)) == name and int(name) <= VERSION_MAX


def _scan_version(folder: Path) -> VersionOnDisk:
    path = folder / MODEL_FILE
    try:
        files = tuple(sorted(itertools.islice(_files(folder), FILES_PER_VERSION_MAX + 1)))
    except OSError as error:
        return VersionOnDisk(int(folder.name), path, (), f"cannot be read: {error.strerror}")
    if len(files) > FILES_PER_VERSION_MAX:
        return VersionOnDisk(int(folder.name), path, (), f"more than {FILES_PER_VERSION_MAX} files")
    problem = None if any(name == MODEL_FILE for name, *_ in files) else f"no {MODEL_FILE} in version {folder.name}"
    return VersionOnDisk(int(folder.name), path, files, problem)


def _files(folder: Path, prefix: str = "") -> Iterator[tuple[str, int, int, int]]:
    """Yield the facts of the files in a folder, one level of folders deep."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                if not prefix:
                    yield from _files(Path(entry.path), f"{entry.name}/")
                continue
            try:
                facts = entry.stat()
            except FileNotFoundError:  # a link to nothing, or a file that has just gone
                continue
            yield f"{prefix}{entry.name}", facts.st_size, facts.st_mtime_ns, facts.st_ino


def _fingerprint_of(path: Path) -> Fingerprint:
    try:
        facts = path.stat()
    except FileNotFoundError:
        return ()
    except OSError as error:
        return ((f"{path.name}: {error.strerror}", 0, 0, 0),)
    return ((path.name, facts.st_size, facts.st_mtime_ns, facts.st_ino),)
