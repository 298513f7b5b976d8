"""What operators ask: the index, loading and unloading, and who may.

The questions are answered on the I/O thread; `load` and `unload` take as long as models take and run on a worker.
"""

import ipaddress

from serving.errors import Forbidden
from serving.repository.entry import IndexEntry
from serving.repository.lifecycle import State
from serving.repository.manager import ModelRepository


class ControlPlane:
    """Guards the model repository. `access` is the option `control_plane`: loopback, on or off."""

    def __init__(self, repository: ModelRepository, access: str) -> None:
        self._repository = repository
        self._access = access

    def index(self, *, ready_only: bool) -> list[IndexEntry]:
        """List the versions of all models."""
        return [entry for entry in self._repository.index() if not ready_only or entry.state is State.READY]

    def load(self, name: str) -> None:
        """Load a model as its folder is now. Raises UnknownModel or LoadFailed."""
        self._repository.load(name)

    def unload(self, name: str) -> None:
        """Unload a model until it is loaded again on request. Raises UnknownModel."""
        self._repository.unload(name)

    def check_access(self, peer_host: str | None) -> None:
        """Raise Forbidden unless this peer may change what serves. `peer_host` is an IP address, None when unknown."""
        if self._access == "on" or (self._access == "loopback" and _is_loopback(peer_host)):
            return
        who = "nobody" if self._access == "off" else "peers on the server's own machine"
        raise Forbidden(f"the control plane of this server is open to {who} (--control-plane {self._access})")


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
