"""A peer whose server does what a test says."""

import sys
from dataclasses import dataclass
from pathlib import Path

from bench.peers.peer import Launch, Peer

ROOT = Path(__file__).parents[2]
SERVER = Path(__file__).parent / "fake_peer_server.py"


@dataclass(frozen=True)
class Installed:
    """A peer that was found, and that runs `fake_peer_server`, or another Python program when `program` holds one."""

    behaviour: str = "right"
    label: str = "Fake 1.0"
    settings: str = "as shipped"
    program: str = ""

    def prepare(self, model, folder, ports):
        program = ("-c", self.program) if self.program else (str(SERVER),)
        return Launch((sys.executable, *program, str(ports.grpc), self.behaviour), {"PYTHONPATH": str(ROOT)})

    def as_peer(self):
        return Peer(name="fake", title="Fake", find=lambda environment: self)
