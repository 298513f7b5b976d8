"""Triton: its onnxruntime backend where that is there, its Python backend around onnxruntime otherwise.

It is found in three shapes: `nvidia-pytriton` in a virtual environment, which carries a server and the Python backend;
a folder like /opt/tritonserver of its images; and the server's binary in such a folder, by path or in PATH.
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.peers.environments import ask, python_of, versions
from bench.peers.model import PeerModel
from bench.peers.peer import HOST, Launch, Peer, PeerAbsent, Ports
from serving.errors import ConfigError
from serving.types import Datatype, TensorSpec

MODEL = Path(__file__).parent / "inside" / "triton_model.py"
BATCH_ROWS_MAX = 256
"""As many as Penstock's default."""
_USUAL_FOLDER = Path("/opt/tritonserver")
_STUB = "triton_python_backend_stub"
_ASK_FOR_FOLDERS = """\
import json, sys, sysconfig
folders = {name: sysconfig.get_path(name) for name in ("purelib", "platlib")}
print(json.dumps({**folders, "libraries": sysconfig.get_config_var("LIBDIR"), "minor": "%d.%d" % sys.version_info[:2]}))
"""


@dataclass(frozen=True, slots=True)
class Triton:
    """A tritonserver in `root`. `stub` is the program of its Python backend, `variables` what that needs to run."""

    label: str
    settings: str
    root: Path
    is_native: bool
    stub: Path | None
    variables: Mapping[str, str]

    @classmethod
    def find(cls, environment: Path | None) -> "Triton":
        """See Peer.find."""
        if environment is not None and environment.is_dir() and not (environment / "bin" / "tritonserver").exists():
            return cls._in_environment(environment)
        return cls._in_folder(_root_of(environment))

    @classmethod
    def _in_folder(cls, root: Path) -> "Triton":
        backends = root / "backends"
        is_native = (backends / "onnxruntime" / "libtriton_onnxruntime.so").exists()
        if not is_native and not (backends / "python" / _STUB).exists():
            raise PeerAbsent(f"{backends} has neither an onnxruntime backend nor a Python backend")
        told = root / "TRITON_VERSION"
        version = told.read_text(encoding="utf-8").strip() + " " if told.is_file() else ""
        return cls(f"Triton {version}({_backend(is_native)})", _settings(is_native), root, is_native, None, {})

    @classmethod
    def _in_environment(cls, environment: Path) -> "Triton":
        python = python_of(PEER.name, environment)
        version = versions(python, ["nvidia-pytriton", "onnxruntime"])["nvidia-pytriton"]
        folders = ask(python, _ASK_FOR_FOLDERS)
        packages = Path(folders["platlib"])
        root = packages / "pytriton" / "tritonserver"
        stub = root / "python_backend_stubs" / folders["minor"] / _STUB
        for needed in (root / "bin" / "tritonserver", stub):
            if not needed.exists():
                raise PeerAbsent(
                    f"nvidia-pytriton {version} has no {needed.relative_to(root)}; install another release"
                )
        libraries = [str(packages / "nvidia_pytriton.libs"), folders["libraries"], os.environ.get("LD_LIBRARY_PATH")]
        variables = {
            "LD_LIBRARY_PATH": os.pathsep.join(filter(None, libraries)),
            # The stub embeds a Python, which finds its environment by the first python3 in PATH.
            "PATH": os.pathsep.join(filter(None, (str(environment / "bin"), os.environ.get("PATH")))),
            "PYTHONPATH": folders["purelib"],
        }
        label = f"Triton of pytriton {version} (Python backend)"
        return cls(label, _settings(is_native=False), root, is_native=False, stub=stub, variables=variables)

    def prepare(self, model: PeerModel, folder: Path, ports: Ports) -> Launch:
        """See Installed.prepare."""
        model_folder = folder / "models" / model.name
        version_folder = model_folder / str(model.version)
        if self.is_native:
            model.copy_to(version_folder)
        else:
            version_folder.mkdir(parents=True)
            shutil.copyfile(MODEL, version_folder / "model.py")
        (model_folder / "config.pbtxt").write_text(config_of(model, is_native=self.is_native), encoding="utf-8")
        arguments = [
            str(self.root / "bin" / "tritonserver"),
            f"--model-repository={folder / 'models'}", f"--backend-directory={self._backends(folder)}",
            f"--grpc-address={HOST}", f"--grpc-port={ports.grpc}",
            f"--http-address={HOST}", f"--http-port={ports.http}",
            f"--metrics-address={HOST}", f"--metrics-port={ports.metrics}", "--disable-auto-complete-config",
        ]  # fmt: skip
        return Launch(tuple(arguments), self.variables)

    def _backends(self, folder: Path) -> Path:
        """Return the folder of backends; the Python backend's stub must lie in it, and pytriton keeps its own apart."""
        if self.stub is None:
            return self.root / "backends"
        python = folder / "backends" / "python"
        python.mkdir(parents=True)
        for file in (*(self.root / "backends" / "python").iterdir(), self.stub):
            (python / file.name).symlink_to(file)
        return python.parent


PEER = Peer(name="triton", title="Triton", find=Triton.find)


def config_of(model: PeerModel, *, is_native: bool) -> str:
    """Return a model's configuration in protobuf's text format.

    Without auto-completion, so that both backends are set up alike: dynamic batching without a delay where the graph
    takes rows, and as many instances as Triton makes by itself.
    """
    lines = [f"name: {json.dumps(model.name)}", f'backend: "{"onnxruntime" if is_native else "python"}"']
    lines.append(f"max_batch_size: {BATCH_ROWS_MAX if model.signature.batchable else 0}")
    for group, specs in (("input", model.signature.inputs), ("output", model.signature.outputs)):
        lines += [f"{group} {{ {_tensor(spec, batchable=model.signature.batchable)} }}" for spec in specs]
    lines.append("instance_group { kind: KIND_CPU }")
    if model.signature.batchable:
        lines.append("dynamic_batching { }")
    if is_native:
        lines.append(_parameter("intra_op_thread_count", "1"))
    else:
        lines.append(_parameter("graph", str(model.path)))
    return "\n".join(lines) + "\n"


def _tensor(spec: TensorSpec, *, batchable: bool) -> str:
    datatype = "STRING" if spec.datatype is Datatype.BYTES else spec.datatype.wire_name
    shape = spec.shape[1:] if batchable else spec.shape
    if not shape:  # one number per row, which Triton can only say as a list of one that it is to flatten
        return f"name: {json.dumps(spec.name)} data_type: TYPE_{datatype} dims: [ 1 ] reshape: {{ shape: [ ] }}"
    return f"name: {json.dumps(spec.name)} data_type: TYPE_{datatype} dims: {list(shape)}"


def _parameter(name: str, value: str) -> str:
    return f"parameters {{ key: {json.dumps(name)} value: {{ string_value: {json.dumps(value)} }} }}"


def _root_of(path: Path | None) -> Path:
    """Return the folder of a server that was named by its folder or its binary, or is where it usually is."""
    if path is None:
        found = shutil.which("tritonserver") or shutil.which(str(_USUAL_FOLDER / "bin" / "tritonserver"))
        if found is None:
            raise PeerAbsent(
                "no tritonserver in PATH; add --venv triton=PATH, of an environment with nvidia-pytriton, "
                "or of tritonserver's folder"
            )
        path = Path(found)
    if path.is_dir():
        return path
    if not os.access(path, os.X_OK):
        raise ConfigError(f"--venv {PEER.name}={path} cannot be run; name the tritonserver binary, or its folder")
    return path.resolve().parents[1]


def _backend(is_native: bool) -> str:
    return "onnxruntime backend" if is_native else "Python backend"


def _settings(is_native: bool) -> str:
    kind = _backend(is_native)
    return f"{kind}, one thread inside an operator; dynamic batching on, without a delay, {BATCH_ROWS_MAX} rows at most"
