"""Connections to a target: TCP, and TLS where it is asked for, made by waiting and used without.

A `Link` owns a socket and the bytes that have come on it and are not a whole frame yet. It knows no frame.
"""

import contextlib
import socket
import ssl

import numpy as np
from numpy.typing import NDArray

from bench.generator import failures
from bench.slices import Target
from serving.errors import ConfigError
from serving.wire.client.layout import SOURCE_BYTES

CONNECT_TIMEOUT_S = 10.0


class Link:
    """One connection, in slot `slot` of the client's state. One thread. `out` is its row of the client's output."""

    def __init__(self, connected: socket.socket, slot: int, out: NDArray[np.uint8]) -> None:
        self.socket = connected
        self.slot = slot
        self.fd = connected.fileno()
        self.is_tls = isinstance(connected, ssl.SSLSocket)
        self.source = np.zeros(SOURCE_BYTES, np.uint8)
        self.filled = 0
        self.out = memoryview(out)  # type: ignore[arg-type]  # numpy's stubs say so from Python 3.12 on
        self.is_stuck = False
        self.is_full = False
        """No more is read before its output is sent."""
        self._source = memoryview(self.source)  # type: ignore[arg-type]

    def read(self) -> int | None:
        """Read what has come behind what is there; returns its bytes, 0 at the end, None when nothing has come."""
        try:
            return self.socket.recv_into(self._source[self.filled :] if self.filled else self._source)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return None

    def write(self, count: int) -> int:
        """Send the first `count` bytes of the output; returns how many went out."""
        sent = 0
        with contextlib.suppress(BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            while sent < count:
                sent += self.socket.send(self.out[sent:count])
        return sent

    def close(self) -> None:
        """Close the connection."""
        self.socket.close()


def tls_context(target: Target) -> ssl.SSLContext | None:
    """Return how to speak TLS with a target, None for not at all. Raises ConfigError for files that cannot be used."""
    if not target.tls:
        return None
    try:
        context = ssl.create_default_context(cafile=target.tls_ca)
        context.set_alpn_protocols(["h2"])
        if target.tls_cert is not None:
            context.load_cert_chain(target.tls_cert, target.tls_key)
    except (OSError, ssl.SSLError) as error:
        files = ", ".join(str(path) for path in (target.tls_ca, target.tls_cert, target.tls_key) if path)
        raise ConfigError(f"cannot use the PEM files {files}: {error}") from None
    return context


def connect(target: Target, context: ssl.SSLContext | None) -> socket.socket:
    """Return a connected socket, TLS agreed upon, that waits for CONNECT_TIMEOUT_S. Raises SliceFailed."""
    connected: socket.socket | None = None
    try:
        connected = socket.create_connection((target.host, target.port), CONNECT_TIMEOUT_S)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if context is not None:
            connected = secured = context.wrap_socket(connected, server_hostname=target.host)
            if secured.selected_alpn_protocol() != "h2":
                raise failures.no_http2(target)
    except OSError as error:
        _close(connected)
        raise failures.not_connected(target, error) from None
    except failures.SliceFailed:
        _close(connected)
        raise
    return connected


def _close(connected: socket.socket | None) -> None:
    if connected is not None:
        connected.close()
