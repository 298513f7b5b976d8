"""What a peer is: how it is found, what it is given to serve a model, and what can go wrong with it.

A peer speaks the Open Inference Protocol over gRPC on the loopback interface; so `process` can tell that it is ready,
and end it with all its children, whichever it is.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from bench.peers.model import PeerModel

HOST = "127.0.0.1"
_MESSAGE_MAX = 400
"""Characters; what peers say is quoted in it."""


class PeerAbsent(Exception):
    """A peer that is not on this machine and is skipped. The message is one line that says what to do."""


class PeerFailed(Exception):
    """A peer that is there and cannot be measured. The message is one line; `log` holds the last lines of its log."""

    def __init__(self, message: str, log: str = "") -> None:
        super().__init__(" ".join(message.split())[:_MESSAGE_MAX])
        self.log = log


@dataclass(frozen=True, slots=True)
class Ports:
    """Free ports of the loopback interface, one for each thing that servers listen for."""

    grpc: int
    http: int
    metrics: int


@dataclass(frozen=True, slots=True)
class Launch:
    """The command that runs a peer in the foreground, and variables that it needs besides ours."""

    arguments: tuple[str, ...]
    variables: Mapping[str, str] = field(default_factory=dict)


class Installed(Protocol):
    """A peer that was found."""

    @property
    def label(self) -> str:
        """What reports call it: its title and its release."""

    @property
    def settings(self) -> str:
        """What differs from its vendor's defaults: readers of figures must know."""

    def prepare(self, model: PeerModel, folder: Path, ports: Ports) -> Launch:
        """Write what the peer needs to serve a model into an empty folder, and return how to start it there.

        It must bind nothing but `HOST`, and run the graph with one thread inside an operator. Raises PeerFailed for a
        model that the peer cannot serve.
        """


@dataclass(frozen=True, slots=True)
class Peer:
    """One kind of server.

    `name` is what `--venv NAME=PATH` calls it, `title` what people do. `find` looks into the environment that was named
    for it, if one was; it raises PeerAbsent, or ConfigError for a path that cannot be such an environment.
    """

    name: str
    title: str
    find: Callable[[Path | None], Installed]
