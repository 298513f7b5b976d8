"""Opens a model from wherever it lies: an .onnx file, the folder of a version, or a package, which is verified."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from serving.config import InstancesConfig, SessionConfig, read_toml
from serving.errors import ConfigError, LoadError, PackageError
from serving.execution.graph import Graph
from serving.execution.probe import probed
from serving.execution.session import Session
from serving.package import Package, Part, read
from serving.package.facts import columns_of, labels_of, passes_of
from serving.package.folder import check_same_tensors, config_in, files_beside, named_in
from serving.types import Signature

CONFIG_FILE = "model.toml"


@dataclass(frozen=True, slots=True)
class OpenModel:
    """A loaded model and what is known of it. `digest` is the package's, or that of graph and weights."""

    session: Session
    signature: Signature
    columns: Mapping[str, tuple[str, ...]]
    labels: Mapping[str, tuple[str, ...]]
    passes: tuple[str, ...]
    digest: str


def is_package(path: Path) -> bool:
    """Say whether a path looks like a package: a tar, or the folder of a layout."""
    return path.suffix == ".tar" or (path / "oci-layout").is_file()


def open_model(path: Path) -> OpenModel:
    """Load a model to be run here, on the CPU. Raises ConfigError for a path that holds none, or PackageError."""
    if is_package(path):
        return _open_package(read(path))
    graph = path / Part.MODEL.title if path.is_dir() else path
    if not graph.is_file():
        raise ConfigError(f"{path} is no model: expected an .onnx file, a folder with {Part.MODEL.title}, or a package")
    session = _load(graph)
    signature, config = _probed(session), config_in(graph.parent)
    if config is None:
        columns, labels = columns_of(session.facts, signature), labels_of(session.facts, signature)
        passes = passes_of(session.facts)
    else:
        check_same_tensors(config.signature, signature, where=str(graph.with_name(Part.CONFIG.title)))
        columns, labels, passes = dict(config.columns), dict(config.labels), config.passes
    return OpenModel(session, signature, columns, labels, passes, _digest(graph))


def check_graph_alone(path: Path) -> None:
    """Refuse a version whose `model.toml` has steps beside the graph: without them its answers would be others.

    Raises ConfigError.
    """
    version = path.parent if path.name == Part.MODEL.title else path
    config = version.absolute().parent / CONFIG_FILE
    if config.is_file() and read_toml(config).get("pipeline"):
        raise ConfigError(f"{config} has a [pipeline], which only a server runs; send the rows to one")


def _open_package(package: Package) -> OpenModel:
    session = _load(Graph(package.model, package.weights))
    signature = _probed(session)
    check_same_tensors(package.signature, signature, where=f"{package.path}: the package")
    return OpenModel(session, signature, package.columns, package.labels, package.passes, package.digest)


def _load(source: Path | Graph) -> Session:
    try:
        return Session(source, SessionConfig(), InstancesConfig())
    except LoadError as error:
        raise ConfigError(str(error)) from None


def _probed(session: Session) -> Signature:
    """Return the signature as runs on zeros show it, as a server would; as declared when the model takes no zeros."""
    try:
        return probed(session.signature, session.run)
    except Exception:  # noqa: BLE001 - zeros may be nothing that this model can take
        return session.signature


def _digest(graph: Path) -> str:
    key = hashlib.sha256()
    try:
        content = graph.read_bytes()
        for name in ["", *named_in(content, files_beside(graph))]:
            data = content if not name else (graph.parent / name).read_bytes()
            key.update(f"{name}\0{len(data)}\0".encode())
            key.update(data)
    except OSError as error:
        raise PackageError(f"{graph} cannot be read: {error.strerror}") from None
    return f"sha256:{key.hexdigest()}"
