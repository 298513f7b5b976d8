"""Penstock itself: of this checkout, or of an environment that was named for it."""

import sys
from dataclasses import dataclass
from pathlib import Path

import serving
from bench.peers.environments import python_of, versions
from bench.peers.model import PeerModel
from bench.peers.peer import HOST, Launch, Peer, Ports
from serving.repository.scanner import CONFIG_FILE

_CONFIG = "[session]\nintra_op_threads = 1\n"


SETTINGS = "one thread inside an operator, or the model's own model.toml"


@dataclass(frozen=True, slots=True)
class Penstock:
    """`python -m serving serve`; `root` is the folder that holds `serving` where it is not installed."""

    label: str
    python: Path
    root: Path | None
    settings: str = SETTINGS

    @classmethod
    def find(cls, environment: Path | None) -> "Penstock":
        """See Peer.find."""
        if environment is None:
            return cls(f"{PEER.title} {serving.__version__}", Path(sys.executable), Path(serving.__file__).parents[1])
        python = python_of(PEER.name, environment)
        version = versions(python, ["penstock"])["penstock"]
        return cls(f"{PEER.title} {version}", python, None)

    def prepare(self, model: PeerModel, folder: Path, ports: Ports) -> Launch:
        """See Installed.prepare. A model.toml of the model's own is kept as it is."""
        model_folder = folder / "models" / model.name
        model.copy_to(model_folder / str(model.version))
        config = model.config.read_text(encoding="utf-8") if model.config else _CONFIG
        (model_folder / CONFIG_FILE).write_text(config, encoding="utf-8")
        arguments = [
            str(self.python), "-m", "serving", "serve", "--models", str(folder / "models"), "--host", HOST,
            "--grpc-port", str(ports.grpc), "--http-port", str(ports.http),
        ]  # fmt: skip
        return Launch(tuple(arguments), {"PYTHONPATH": str(self.root)} if self.root else {})


PEER = Peer(name="penstock", title="Penstock", find=Penstock.find)
