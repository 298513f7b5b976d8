"""MLServer, with a runtime of its own kind around onnxruntime."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from bench.peers.environments import python_of, versions
from bench.peers.model import PeerModel
from bench.peers.peer import HOST, Launch, Peer, PeerFailed, Ports
from serving.types import Datatype

RUNTIME = Path(__file__).parent / "inside" / "mlserver_runtime.py"
_START = "import sys; from mlserver.cli import main; sys.argv = ['mlserver', 'start', sys.argv[1]]; main()"
"""What the script `mlserver start` of the environment does; the script itself names the path it was installed under."""
_MESSAGE_BYTES_MAX = (1 << 31) - 1


SETTINGS = (
    "one thread inside an operator; models in the server's own process (parallel_workers 0, which is faster than its "
    "default 1); no line in the log per request (debug false); batching as shipped, which is off"
)


@dataclass(frozen=True, slots=True)
class MLServer:
    """`mlserver start` on one folder of a model."""

    label: str
    python: Path
    settings: str = SETTINGS

    @classmethod
    def find(cls, environment: Path | None) -> "MLServer":
        """See Peer.find."""
        python = python_of(PEER.name, environment)
        version = versions(python, ["mlserver", "onnxruntime"])["mlserver"]
        return cls(f"{PEER.title} {version}", python)

    def prepare(self, model: PeerModel, folder: Path, ports: Ports) -> Launch:
        """See Installed.prepare. Its batching stays as MLServer ships it."""
        if any(spec.datatype is Datatype.BF16 for spec in model.signature.inputs + model.signature.outputs):
            raise PeerFailed("it does not know datatype BF16")  # it would start, and never be ready
        served = folder / "served"  # a folder named as the model could hide a module
        served.mkdir()
        shutil.copyfile(RUNTIME, served / RUNTIME.name)
        settings = {
            "debug": False,
            "host": HOST,
            "grpc_port": ports.grpc,
            "http_port": ports.http,
            "metrics_port": ports.metrics,
            "grpc_max_message_length": _MESSAGE_BYTES_MAX,
            "parallel_workers": 0,
        }
        model_settings = {
            "name": model.name,
            "implementation": f"{RUNTIME.stem}.OnnxModel",
            "platform": "onnxruntime",
            **model.tensors(),
            "parameters": {"uri": str(model.path), "version": str(model.version)},
        }
        (served / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
        (served / "model-settings.json").write_text(json.dumps(model_settings), encoding="utf-8")
        return Launch((str(self.python), "-c", _START, str(served)))


PEER = Peer(name="mlserver", title="MLServer", find=MLServer.find)
