"""Authorities, certificates and TLS clients for tests, made anew in every run by trustme."""

import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc
import trustme

SERVER_NAMES = ("localhost", "127.0.0.1")
TIMEOUT_S = 30
HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])


@dataclass(frozen=True)
class Leaf:
    """A certificate with the chain above it, and its key, in PEM."""

    chain: bytes
    key: bytes

    @property
    def der(self) -> bytes:
        """The certificate itself, as `getpeercert(True)` returns it."""
        end = b"-----END CERTIFICATE-----\n"
        return ssl.PEM_cert_to_DER_cert((self.chain.partition(end)[0] + end).decode())


class Authority:
    """A CA."""

    def __init__(self, ca: trustme.CA | None = None) -> None:
        self._ca = ca or trustme.CA()
        self.pem = self._ca.cert_pem.bytes()

    def issue(self, *names: str, common_name: str | None = None) -> Leaf:
        leaf = self._ca.issue_cert(*(names or SERVER_NAMES), common_name=common_name)
        return Leaf(b"".join(blob.bytes() for blob in leaf.cert_chain_pems), leaf.private_key_pem.bytes())

    def below(self) -> "Authority":
        """A CA that this one has signed; its leaves come with its certificate."""
        return Authority(self._ca.create_child_ca())


class TlsFolder:
    """The files of a server, or of a client."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.cert, self.key, self.client_ca = folder / "tls.crt", folder / "tls.key", folder / "clients.pem"

    def write(self, leaf: Leaf | None = None, client_ca: Authority | None = None) -> None:
        if leaf is not None:
            self.cert.write_bytes(leaf.chain)
            self.key.touch(mode=0o600)
            self.key.write_bytes(leaf.key)
        if client_ca is not None:
            self.client_ca.write_bytes(client_ca.pem)

    @property
    def options(self) -> dict[str, str]:
        """The options of a server with these files; client certificates are asked for when there is a file of CAs."""
        options = {"tls_cert": str(self.cert), "tls_key": str(self.key)}
        return {**options, "tls_client_ca": str(self.client_ca)} if self.client_ca.exists() else options


def grpc_channel(address: str, trusted: Authority, shown: Leaf | None = None) -> grpc.Channel:
    """A stock client's channel; the server is called by a name that its certificate holds."""
    pair = (shown.key, shown.chain) if shown else ()
    credentials = grpc.ssl_channel_credentials(trusted.pem, *pair)
    port = address.rpartition(":")[2]
    return grpc.secure_channel(f"localhost:{port}", credentials, options=[("grpc.enable_http_proxy", 0)])


def client_context(
    trusted: Authority,
    shown: Leaf | None = None,
    *,
    folder: Path | None = None,
    version: ssl.TLSVersion | None = None,
    alpn: tuple[str, ...] = ("h2",),
) -> ssl.SSLContext:
    """A context of a client; `folder` is where its certificate is written, which `ssl` wants as a file."""
    context = ssl.create_default_context(cadata=trusted.pem.decode())
    if shown is not None:
        assert folder is not None
        files = TlsFolder(folder)
        files.write(shown)
        context.load_cert_chain(files.cert, files.key)
    if version is not None:
        context.minimum_version = context.maximum_version = version
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


def tls_connection(
    address: str, context: ssl.SSLContext, *, name: str = "localhost", session: ssl.SSLSession | None = None
) -> ssl.SSLSocket:
    """A client's connection after its own side of the handshake; a refusal by the server may come only later."""
    host, _, port = address.rpartition(":")
    plain = socket.create_connection((host, int(port)), timeout=TIMEOUT_S)
    return context.wrap_socket(plain, server_hostname=name, session=session)


def answers(connection: ssl.SSLSocket, data: bytes = HTTP2_PREFACE) -> bool:
    """Whether the server says anything to `data`; one that has refused the handshake does not."""
    try:
        connection.sendall(data)
        return bool(connection.recv(9))
    except (ConnectionError, ssl.SSLError):
        return False
