"""What operators ask: the index, loading and unloading, and who may.

The questions are answered on the I/O thread; `load` and `unload` take as long as models take and run on a worker.
"""

import ipaddress
from collections.abc import Collection, Sequence

from serving.errors import Forbidden
from serving.repository.entry import IndexEntry
from serving.repository.lifecycle import State
from serving.repository.manager import ModelRepository


class ControlPlane:
    """Guards the model repository.

    `access` is the option `control_plane`: loopback, on or off. `clients` is `control_plane_clients`: names in verified
    client certificates that may from anywhere, unless `access` is off.
    """

    def __init__(self, repository: ModelRepository, access: str, clients: Collection[str] = ()) -> None:
        self._repository = repository
        self._access = access
        self._clients = frozenset(clients)

    def index(self, *, ready_only: bool) -> list[IndexEntry]:
        """List the versions of all models."""
        return [entry for entry in self._repository.index() if not ready_only or entry.state is State.READY]

    def load(self, name: str) -> None:
        """Load a model as its folder is now. Raises UnknownModel or LoadFailed."""
        self._repository.load(name)

    def unload(self, name: str) -> None:
        """Unload a model until it is loaded again on request. Raises UnknownModel."""
        self._repository.unload(name)

    def check_access(self, peer_host: str | None, peer_names: Sequence[str] = ()) -> None:
        """Raise Forbidden unless this peer may change what serves.

        `peer_host` is an IP address, None when unknown. `peer_names` are those in the peer's verified certificate.
        """
        if self._access == "off":
            raise Forbidden("the control plane of this server is open to nobody (--control-plane off)")
        if self._access == "on" or _is_loopback(peer_host) or not self._clients.isdisjoint(peer_names):
            return
        who, option = "peers on the server's own machine", f"--control-plane {self._access}"
        if self._clients:
            who, option = f"{who} and named clients", f"{option}, --control-plane-clients"
        shown = f"; your certificate names {', '.join(peer_names)}" if peer_names else ""
        raise Forbidden(f"the control plane of this server is open to {who} ({option}){shown}")


def _is_loopback(host: str | None) -> bool:
    if host is None:
        return False
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return address.is_loopback
