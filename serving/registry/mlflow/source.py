"""Models of MLflow as packages: what an alias names is fetched, packed here, and from then on known by its digest.

MLflow has no digests, so the first package made of a version is remembered, and a version whose files are others later
is refused. `PLACE` belongs to one MLflow server:

    PLACE/KEY.json     the digest of a version's package
    PLACE/KEY          the package itself, until it is pulled
"""

import json
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from serving.errors import ConfigError, PackageError, RegistryDamaged, RegistryError
from serving.package.folder import named_in
from serving.package.parts import Part
from serving.package.reading import read
from serving.registry.catalogue import Pushed
from serving.registry.mlflow.flavour import MLMODEL, MLMODEL_BYTES_MAX, graph_of, is_plain
from serving.registry.mlflow.server import MlflowServer, ModelVersion
from serving.registry.names import Alias, Version, check_digest

_DRAFT = "draft-"
_DRAFT_AGE_S_MAX = 86_400.0
_NOTE_BYTES_MAX = 1 << 12
_TITLES = frozenset(part.title for part in Part)  # evidence is made by Penstock's own checks, and not taken from there

Pack = Callable[[Path, str, Mapping[str, Any], Path], str]
"""Packs a folder of model.onnx and weights, under a name, with a lineage, to a path; returns the package's digest.

Raises PackageError and ConfigError. Whoever can load a graph does it: here nobody can.
"""


class MlflowRegistry(AbstractContextManager["MlflowRegistry"]):
    """Answers a follower as a registry does. One thread uses it; it may be entered again and again.

    Raises what `MlflowServer` raises, RegistryError for a model that cannot be served, PackageError and OSError when
    `place` cannot be written. A model that cannot be served is fetched once, not at every look.
    """

    def __init__(self, server: MlflowServer, place: Path, pack: Pack) -> None:
        self._server = server
        self._place = place
        self._pack = pack
        self._refused: dict[str, tuple[str, str]] = {}  # by model: its last version that cannot be served, and why

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def resolve(self, alias: Alias) -> Pushed:
        """Return the version that an alias names now, with the digest of its package."""
        version = self._server.named_by(alias)
        return Pushed(version.model, version.number, self._digest(version), 0)

    def pull(self, version: Version, path: Path) -> Pushed:
        """Write the package of a version to a folder that is not there yet."""
        found = self._server.version(version)
        digest = self._digest(found)
        waiting = self._waiting(found)
        if (held := _held(waiting)) != digest:
            shutil.rmtree(waiting, ignore_errors=True)
            raise RegistryDamaged(
                f"{found} was {digest} and is {held} now; a version must not change, register another"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        waiting.rename(path)
        return Pushed(found.model, found.number, digest, 0)

    def _digest(self, version: ModelVersion) -> str:
        """Return the digest of a version's package, which is made now unless it was before."""
        note = self._place / f"{version.key}.json"
        with suppress(OSError, ValueError, KeyError, TypeError, RegistryError), note.open("rb") as file:
            return check_digest(json.loads(file.read(_NOTE_BYTES_MAX))["package"])
        digest = _held(self._waiting(version))
        draft = self._place / f"{_DRAFT}{secrets.token_hex(8)}"
        draft.write_text(json.dumps({"package": digest}))
        draft.replace(note)
        return digest

    def _waiting(self, version: ModelVersion) -> Path:
        """Return where the package of a version waits, which is made now unless it is there, whole, already."""
        key, why = self._refused.get(version.model, ("", ""))
        if key == version.key:
            raise RegistryError(why)
        waiting = self._place / version.key
        if not _held(waiting):
            shutil.rmtree(waiting, ignore_errors=True)
            self._fetch(version, waiting)
        return waiting

    def _fetch(self, version: ModelVersion, target: Path) -> None:
        """Fetch the graph and the weights that it names, and pack them."""
        self._place.mkdir(parents=True, exist_ok=True)
        self._remove_old_drafts()
        folder = self._server.folder(version)
        with tempfile.TemporaryDirectory(prefix=_DRAFT, dir=self._place) as draft:
            try:
                self._fetch_into(version, folder, Path(draft))
                self._pack(Path(draft), version.model, _lineage(version, self._server.url), target)
            except ConfigError as error:
                self._refused[version.model] = version.key, f"{version} cannot be served: {error}"
                raise RegistryError(self._refused[version.model][1]) from None

    def _fetch_into(self, version: ModelVersion, folder: str, draft: Path) -> None:
        graph = graph_of(self._server.read(f"{folder}/{MLMODEL}", MLMODEL_BYTES_MAX), model=str(version))
        files = self._server.files(folder)
        model = draft / Part.MODEL.title
        self._server.download(f"{folder}/{graph}", model, files.get(graph))
        others = [name for name in files if name not in {graph, MLMODEL, *_TITLES} and is_plain(name)]
        for name in named_in(model.read_bytes(), others):
            self._server.download(f"{folder}/{name}", draft / name, files[name])

    def _remove_old_drafts(self) -> None:
        """Remove what processes left that were killed."""
        for entry in self._place.glob(f"{_DRAFT}*"):
            with suppress(OSError):
                if time.time() - entry.stat().st_mtime > _DRAFT_AGE_S_MAX:
                    shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def _lineage(version: ModelVersion, url: str) -> dict[str, Any]:
    """Return where a package comes from."""
    return {
        "mlflow": {
            "server": url, "model": version.model, "version": version.number, "source": version.source,
            "run_id": version.run_id,
        }
    }  # fmt: skip


def _held(path: Path) -> str:
    """Return the digest of the package at a path; nothing where there is none that can be read."""
    try:
        return read(path).digest
    except PackageError:
        return ""
