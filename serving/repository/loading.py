"""Loads one version from where the scanner found it: a plain graph, or a package whose every byte is verified first.

A package is read into memory and what was verified is what is loaded, so that a file changed in between cannot matter.
With a folder of keys, only packages that one of them signed are loaded. Runs on loader threads.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from serving.config import ModelConfig
from serving.errors import ConfigError, LoadError, PackageError
from serving.execution.graph import Graph
from serving.model import Servable
from serving.package import Package, Part, read
from serving.package.folder import check_same_tensors
from serving.package.parts import JSON_BYTES_MAX
from serving.package.signing import trusted_keys
from serving.repository.scanner import MODEL_FILE
from serving.statistics.profile import FILE_BYTES_MAX as PROFILE_BYTES_MAX

PROFILE_FILE = "profile.npz"

_log = logging.getLogger(__name__)


class LoadServable(Protocol):
    """Loads a graph, see `Servable.load`."""

    def __call__(self, name: str, version: int, source: Path | Graph, config: ModelConfig) -> Servable:
        """Raises LoadError."""


@dataclass(frozen=True, slots=True)
class Loader:
    """Loads versions by `load`.

    `keys` is a folder of public keys, read anew for each load; None asks for none. `state` is a folder for what must
    survive a restart.
    """

    load: LoadServable
    keys: Path | None = None
    state: Path | None = None

    def __call__(self, name: str, version: int, path: Path, config: ModelConfig) -> Servable:
        """Load what lies at `path`. Raises LoadError."""
        if path.name == MODEL_FILE:
            if self.keys is not None:
                raise LoadError(
                    f"{MODEL_FILE} is in no package, and this server loads only signed ones (--package-keys); "
                    "pack it with --sign-key"
                )
            servable = self.load(name, version, path, config)
            servable.drift.begin(_profile_beside(path), self.state)
            servable.feedback.begin(self.state)
            return servable
        try:
            package = read(path)
            signer = trusted_keys(self.keys).check(package) if self.keys is not None else ""
            graph, profile = _verified_graph(package), package.profile
        except (PackageError, ConfigError) as error:
            raise LoadError(str(error)) from None
        servable = self.load(name, version, graph, config)
        try:
            check_same_tensors(package.signature, servable.graph_signature, where=f"{path}: the package")
        except PackageError as error:
            servable.close()
            raise LoadError(str(error)) from None
        servable.package_digest = package.digest
        servable.drift.begin(profile, self.state)
        servable.feedback.begin(self.state)
        signed = f", signed by key {signer[:16]}" if signer else ""
        _log.info("%s/%d: package %s%s", name, version, package.digest, signed)
        return servable


def _profile_beside(path: Path) -> bytes | None:
    """Read the reference profile beside a plain graph, if there is one."""
    try:  # what cannot be read is no reason not to serve
        with path.with_name(PROFILE_FILE).open("rb") as file:
            return file.read(PROFILE_BYTES_MAX + 1)  # what is longer is refused by whoever reads it
    except FileNotFoundError:
        return None
    except OSError as error:
        _log.error("%s cannot be read: %s", path.with_name(PROFILE_FILE), error.strerror)
        return None


def _verified_graph(package: Package) -> Graph:
    """Read the whole package against its digests; return the parts that are loaded."""
    weights: dict[str, bytes] = {}
    files: dict[str, bytes] = {}
    for blob in package.blobs:
        if blob.part is Part.WEIGHTS:
            weights[blob.title] = package.read_blob(blob)
        elif blob.part is Part.FILE:
            files[blob.title] = package.read_blob(blob, bytes_max=JSON_BYTES_MAX)
        elif blob.part is not Part.MODEL:
            for _ in package.chunks(blob):
                pass
    return Graph(package.model, weights, files)
