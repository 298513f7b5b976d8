"""The process of a server on this machine, and the CPU time that it takes; none when it runs elsewhere.

It looks at which process listens on the server's port. What it cannot see for sure (another user's process, a port that
something forwards into a container or to another machine) is not guessed at: then there is no CPU time.
"""

import ipaddress
import socket
from collections.abc import Iterable, Sequence

import psutil

FORWARDERS = frozenset(
    ("docker-proxy", "rootlessport", "slirp4netns", "pasta", "ssh", "kubectl", "socat", "envoy", "nginx", "haproxy")
)
"""Programs that listen for a server that runs elsewhere; their CPU time says nothing of it."""

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def find(host: str, port: int) -> tuple[psutil.Process, ...]:
    """Return the processes that listen for `host` on `port` of this machine; none when it is not this one."""
    wanted = _addresses(host)
    if not wanted or not wanted <= _own_addresses(wanted):
        return ()
    try:
        connections = [item for item in psutil.net_connections("tcp") if item.status == psutil.CONN_LISTEN]
        listening = {item.pid for item in connections if item.laddr and _hears(*item.laddr, wanted=wanted, on=port)}
        processes = [psutil.Process(pid) for pid in sorted(pid for pid in listening if pid is not None)]
        if None in listening or any(process.name() in FORWARDERS for process in processes):
            return ()
    except (psutil.Error, OSError):
        return ()
    return tuple(_without_children(processes))


def cpu_s(processes: Sequence[psutil.Process]) -> float | None:
    """Return the CPU time that processes and their children have taken; None when there is none, or one is gone.

    Children that have ended and were waited for are counted in their parent's time.
    """
    total_s = 0.0
    try:
        for process in processes:
            for member in (process, *process.children(recursive=True)):
                times = member.cpu_times()
                total_s += times.user + times.system + times.children_user + times.children_system
    except psutil.Error:
        return None
    return total_s if processes else None


def _without_children(processes: Sequence[psutil.Process]) -> Iterable[psutil.Process]:
    """Leave out children of others in the list, whose time their parents' include."""
    pids = {process.pid for process in processes}
    return (process for process in processes if not any(parent.pid in pids for parent in process.parents()))


def _addresses(host: str) -> set[_Address]:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return set()
    return {_plain(str(item[4][0])) for item in found}


def _own_addresses(candidates: set[_Address]) -> set[_Address]:
    own = {
        _plain(address.address)
        for addresses in psutil.net_if_addrs().values()
        for address in addresses
        if address.family in {socket.AF_INET, socket.AF_INET6}
    }
    return own | {address for address in candidates if address.is_loopback}


def _plain(text: str) -> _Address:
    """Read an address; an IPv4 one that is written as IPv6 is the IPv4 one."""
    address = ipaddress.ip_address(text.partition("%")[0])
    return getattr(address, "ipv4_mapped", None) or address


def _hears(ip: str, port: int, *, wanted: set[_Address], on: int) -> bool:
    address = _plain(ip)
    return port == on and (address in wanted or address.is_unspecified)
