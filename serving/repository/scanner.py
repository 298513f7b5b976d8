"""What lies in the model repository's folder: models, versions, and a fingerprint of each to notice changes by.

Reads names and file facts, never contents. A name that starts with a dot is invisible, so a writer can prepare a
version under such a name and rename it.
"""

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from serving.errors import ConfigError

MODEL_FILE = "model.onnx"
PACKAGE_FILE = "oci-layout"  # what marks the OCI image layout that a package is
PACKAGE_SUFFIX = ".tar"
CONFIG_FILE = "model.toml"
FILES_PER_VERSION_MAX = 10_000
VERSION_MAX = 2**63 - 1
_FOLDERS_DEEP = 2
_DOUBLED = "there is a folder and a tar of this version; keep one of them"
_VERSION_DIGITS_MAX = len(str(VERSION_MAX))  # clients send versions too, and reading digits has a cost

Fingerprint = tuple[tuple[str, int, int, int], ...]
"""Relative path, bytes, mtime in ns and inode of each file. Equal fingerprints mean unchanged files."""


@dataclass(frozen=True, slots=True)
class VersionOnDisk:
    """A folder whose name is an integer, or a tar beside such folders.

    `path` is what to load: the graph's file, or the folder or tar of a package. `problem` says why it cannot be loaded,
    if that can be seen from outside.
    """

    number: int
    path: Path
    fingerprint: Fingerprint
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class ModelOnDisk:
    """A model's folder. `problems` are things in it that will never be served.

    `pinned` versions come from elsewhere and serve whatever the version policy says; requests that name no version get
    the first of them.
    """

    name: str
    config_path: Path
    config_fingerprint: Fingerprint
    versions: Mapping[int, VersionOnDisk]
    problems: tuple[str, ...]
    pinned: tuple[int, ...] = ()


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
        entries = sorted(
            (entry for entry in os.scandir(folder) if _is_folder(entry) or _is_packed_version(entry)),
            key=lambda entry: entry.name,
        )
    except OSError as error:
        entries, problems = [], [f"cannot be read: {error.strerror}"]
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if _is_packed_version(entry):
            version = _scan_packed(Path(entry.path))
            doubled = version.number in versions  # a folder's name comes before that of the tar
            versions[version.number] = replace(version, problem=_DOUBLED) if doubled else version
            continue
        if not is_version(entry.name):
            problems.append(f"folder '{entry.name}' is not a version, expected an integer such as 1")
            continue
        versions[int(entry.name)] = _scan_version(Path(entry.path))
    if not versions and not problems:
        problems.append(f"no versions, expected {folder.name}/1/{MODEL_FILE}")
    config_path = folder / CONFIG_FILE
    return ModelOnDisk(folder.name, config_path, _fingerprint_of(config_path), versions, tuple(problems))


def pinned_model(name: str, folder: Path, packages: Sequence[tuple[int, str, Path]]) -> ModelOnDisk:
    """Describe packages that came from elsewhere: version, digest and place of each, the one to serve first.

    `folder` is where the model's `model.toml` may lie.
    """
    versions = {number: VersionOnDisk(number, path, ((digest, 0, 0, 0),)) for number, digest, path in packages}
    config_path = folder / CONFIG_FILE
    pinned = tuple(number for number, _, _ in packages)
    return ModelOnDisk(name, config_path, _fingerprint_of(config_path), versions, (), pinned)


def _is_packed_version(entry: "os.DirEntry[str]") -> bool:
    stem = entry.name.removesuffix(PACKAGE_SUFFIX)
    try:
        return stem != entry.name and is_version(stem) and entry.is_file()
    except OSError:
        return False


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


def _scan_packed(path: Path) -> VersionOnDisk:
    return VersionOnDisk(int(path.stem), path, _fingerprint_of(path))


def _scan_version(folder: Path) -> VersionOnDisk:
    path = folder / MODEL_FILE
    try:
        files = tuple(sorted(itertools.islice(_files(folder), FILES_PER_VERSION_MAX + 1)))
    except OSError as error:
        return VersionOnDisk(int(folder.name), path, (), f"cannot be read: {error.strerror}")
    if len(files) > FILES_PER_VERSION_MAX:
        return VersionOnDisk(int(folder.name), path, (), f"more than {FILES_PER_VERSION_MAX} files")
    names = {name for name, *_ in files}
    if PACKAGE_FILE in names:
        problem = f"holds both {MODEL_FILE} and a package; keep one of them" if MODEL_FILE in names else None
        return VersionOnDisk(int(folder.name), folder, files, problem)
    problem = None if MODEL_FILE in names else f"no {MODEL_FILE} in version {folder.name}, and no package"
    return VersionOnDisk(int(folder.name), path, files, problem)


def _files(folder: Path, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, int, int, int]]:
    """Yield the facts of the files in a folder, two levels of folders deep, as the blobs of a package lie."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                if depth < _FOLDERS_DEEP:
                    yield from _files(Path(entry.path), f"{prefix}{entry.name}/", depth + 1)
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
