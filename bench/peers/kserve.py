"""KServe's Python server: the one that custom predictors of KServe are built on."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from bench.peers.environments import python_of, versions
from bench.peers.model import PeerModel
from bench.peers.peer import Launch, Peer, Ports

SERVER = Path(__file__).parent / "inside" / "kserve_server.py"


SETTINGS = "one thread inside an operator; no lines in the log per request; it forms no batches"


@dataclass(frozen=True, slots=True)
class KServe:
    """A script that serves one `kserve.Model`."""

    label: str
    python: Path
    settings: str = SETTINGS

    @classmethod
    def find(cls, environment: Path | None) -> "KServe":
        """See Peer.find."""
        python = python_of(PEER.name, environment)
        version = versions(python, ["kserve", "onnxruntime"])["kserve"]
        return cls(f"{PEER.title} {version}", python)

    def prepare(self, model: PeerModel, folder: Path, ports: Ports) -> Launch:
        """See Installed.prepare. It has no port of its own for metrics."""
        served = folder / "served"
        served.mkdir()
        shutil.copyfile(SERVER, served / SERVER.name)
        description = {"name": model.name, "path": str(model.path), **model.tensors()}
        (served / "model.json").write_text(json.dumps(description), encoding="utf-8")
        arguments = [
            str(self.python), str(served / SERVER.name), str(served / "model.json"),
            "--grpc_port", str(ports.grpc), "--http_port", str(ports.http), "--enable_latency_logging", "false",
        ]  # fmt: skip
        return Launch(tuple(arguments))


PEER = Peer(name="kserve", title="KServe", find=KServe.find)
