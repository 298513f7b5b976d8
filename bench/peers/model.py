"""The model that all peers serve: where its file lies, what belongs to it, and what the graph takes and gives.

Names, datatypes and shapes come from the graph, by onnxruntime. Knows the layout of a model repository and no peer.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.config import InstancesConfig, SessionConfig, load_model_config
from serving.errors import ConfigError, LoadError
from serving.execution.probe import probed
from serving.execution.session import Session
from serving.pb import open_inference_pb2 as pb
from serving.repository.scanner import CONFIG_FILE, MODEL_FILE, is_name, is_version, scan_model
from serving.repository.version_policy import candidates
from serving.types import Signature

ONE_THREAD = SessionConfig(intra_op_threads=1)
"""How every peer runs the graph; other settings are onnxruntime's defaults."""


@dataclass(frozen=True, slots=True)
class PeerModel:
    """A graph in a file. `data_files` are the weights beside it, relative to its folder; `config` is its model.toml.

    `version` is that of its folder in a model repository, and 1 for a file from elsewhere.
    """

    name: str
    version: int
    path: Path
    data_files: tuple[Path, ...]
    signature: Signature
    config: Path | None = None

    def metadata(self) -> pb.ModelMetadataResponse:
        """Return what a server would say of the model: what payloads are made of before any server runs."""
        tensors = self.tensors()
        return pb.ModelMetadataResponse(name=self.name, inputs=tensors["inputs"], outputs=tensors["outputs"])

    def tensors(self) -> dict[str, list[dict[str, Any]]]:
        """Return the `inputs` and `outputs` as model metadata describes them: name, datatype and shape."""
        groups = {"inputs": self.signature.inputs, "outputs": self.signature.outputs}
        return {
            group: [{"name": spec.name, "datatype": spec.datatype.wire_name, "shape": spec.shape} for spec in specs]
            for group, specs in groups.items()
        }

    def open(self) -> Session:
        """Load the graph into this process, to be run as peers run it."""
        return Session(self.path, ONE_THREAD, InstancesConfig())

    def copy_to(self, folder: Path) -> None:
        """Lay the graph as model.onnx, and its weights, into an empty folder; linked where the disk is the same."""
        folder.mkdir(parents=True)
        _link_or_copy(self.path, folder / MODEL_FILE)
        for file in self.data_files:
            _link_or_copy(self.path.parent / file, folder / file)


def read_model(path: Path, name: str = "") -> PeerModel:
    """Read an .onnx file, or the version of a model's folder that Penstock would serve. Raises ConfigError.

    Without a name it is the folder's, or the file's. A model.toml counts for a folder, and for Penstock alone.
    """
    config = path / CONFIG_FILE if (path / CONFIG_FILE).is_file() else None
    file, version = _file_of(path)
    name = name or _name_of(path.absolute())
    if not is_name(name) or not name or "/" in name:
        raise ConfigError(f"model name {name!r}, expected printable text without slashes or a leading dot")
    try:
        session = Session(file, ONE_THREAD, InstancesConfig())
        signature = probed(session.signature, session.run)
        session.close()
    except LoadError as error:
        raise ConfigError(f"model {path}: {error}") from None
    except Exception as error:  # noqa: BLE001 - onnxruntime raises many kinds when it runs a graph on zeros
        raise ConfigError(f"model {path}: fails on zeros: {' '.join(str(error).split())[:300]}") from None
    return PeerModel(name, version, file, tuple(_data_files(file)), signature, config)


def _file_of(path: Path) -> tuple[Path, int]:
    """Return the absolute path of the graph, and its version."""
    if path.is_file():
        return path.absolute(), 1
    if not path.is_dir():
        raise ConfigError(f"model {path} does not exist; name an .onnx file, or a folder with VERSION/{MODEL_FILE}")
    found = {number: version for number, version in scan_model(path).versions.items() if version.problem is None}
    chosen = candidates(load_model_config(path / CONFIG_FILE).version_policy, found)
    if not chosen:
        raise ConfigError(f"model {path}: no version to serve, expected {path}/1/{MODEL_FILE}")
    return found[chosen[0]].path.absolute(), chosen[0]


def _name_of(path: Path) -> str:
    """Return the name that a model repository would give: for forest/1/model.onnx and forest.onnx it is `forest`."""
    if path.is_dir():
        return path.name
    is_versioned = path.name == MODEL_FILE and is_version(path.parent.name)
    return path.parent.parent.name if is_versioned else path.stem


def _data_files(path: Path) -> list[Path]:
    """Return the files beside the graph, at most one folder deeper, that it names: its weights are among them."""
    folder = path.parent
    files = [file for file in (*folder.glob("*"), *folder.glob("*/*")) if file.is_file() and file != path]
    graph = path.read_bytes() if files else b""
    relative = [file.relative_to(folder) for file in files]
    return sorted(file for file in relative if os.fsencode(file) in graph)


def _link_or_copy(source: Path, target: Path) -> None:
    target.parent.mkdir(exist_ok=True)
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)
