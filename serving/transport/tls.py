"""TLS for the server: reads certificate, key and client CAs, follows changes of their files, and makes contexts.

Theory of operation. `Certificates` owns the newest `Identity` that could be used; a transport asks it anew for every
connection, so a reload is one assignment: connections that live go on with the identity they began with, later ones
get the new one. An `ssl.SSLContext` is never changed: a CA cannot be taken out of one, and sessions that a client may
resume belong to the context they began in. For this second reason `ReloadingContext` hands a handshake to the newest
context as a whole, and leaves out `sni_callback`: that swaps the certificate and keeps the sessions, by which a client
whose CA has been removed could come in again without showing a certificate (tests/integration/test_tls_on_uvloop.py).

It knows `ssl` and PEM files; it must know neither gRPC, nor HTTP/2 beyond its name, nor which transport asks.
"""

import asyncio
import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from serving.config import ServerConfig
from serving.errors import ConfigError
from serving.transport.pem import KeyPair, describe_exposure, read_pem, use_authorities, use_key_pair

_HTTP2 = "h2"
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"  # of TLS 1.2; HTTP/2 forbids most others (RFC 9113, appendix A)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Contents:
    """What the files of the server hold, unjudged."""

    pair: KeyPair
    client_ca: bytes | None


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Where the server's PEM files are. With `client_ca` a client must show a certificate of one of these CAs."""

    cert: Path
    key: Path
    client_ca: Path | None = None

    @classmethod
    def of(cls, config: ServerConfig) -> Self | None:
        """Return the files of a configuration; nothing when it wants no TLS."""
        if not config.tls_cert:
            return None
        return cls(
            Path(config.tls_cert), Path(config.tls_key), Path(config.tls_client_ca) if config.tls_client_ca else None
        )

    def read(self) -> Contents:
        """Read all files, through symbolic links as they are now. Raises ConfigError."""
        client_ca = read_pem(self.client_ca) if self.client_ca else None
        return Contents(KeyPair(read_pem(self.cert), read_pem(self.key)), client_ca)


@dataclass(frozen=True, slots=True)
class Identity:
    """What the server shows and whom it trusts: one reading of the files, and a context made of it."""

    contents: Contents
    context: ssl.SSLContext

    @classmethod
    def of(cls, contents: Contents, files: TlsFiles) -> Self:
        """Make a context. Raises ConfigError that names the file which cannot be used."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET
        context.num_tickets = 0  # gRPC keeps its connections, so a session is not worth resuming
        context.set_ciphers(_CIPHERS)
        context.set_alpn_protocols([_HTTP2])
        use_key_pair(context, contents.pair, cert=files.cert, key=files.key)
        if contents.client_ca is not None:
            assert files.client_ca is not None, "bug: CAs without a file"
            use_authorities(context, contents.client_ca, files.client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return cls(contents, context)


class Certificates:
    """The server's certificate, key and client CAs, as they were at the last look that could use them.

    Lives on the I/O thread and reads files on others; `current` may be asked for on any thread. Call `load` first.
    """

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._current: Identity | None = None
        self._seen: Contents | str = ""  # what the last look found: contents, or why there are none
        self._judged: Contents | str = ""  # the last of these that was taken or complained about

    @property
    def current(self) -> Identity:
        """The identity for a connection that begins now."""
        assert self._current is not None, "bug: certificates were asked for before they were loaded"
        return self._current

    @property
    def requires_client_certificate(self) -> bool:
        """Whether clients must show a certificate. Never changes."""
        return self._files.client_ca is not None

    async def load(self) -> None:
        """Read the files for the first time. Raises ConfigError that says which of them cannot be used, and why."""
        contents = await asyncio.to_thread(self._files.read)
        self._seen = self._judged = contents
        self._current = await asyncio.to_thread(self._identity, contents)
        who = f"; clients show a certificate of {self._files.client_ca}" if self._files.client_ca else ""
        _log.info("TLS with the certificate in %s%s", self._files.cert, who)

    async def follow(self, interval_s: float) -> None:
        """Look for changes again and again, until cancelled."""
        while True:
            await asyncio.sleep(interval_s)
            try:
                await self.look()
            except Exception:  # noqa: BLE001 - a mistake of ours leaves the server with what it has
                _log.exception("looking for changed TLS files failed; trying again")

    async def look(self) -> None:
        """Read the files again and take what they hold, or log once why it cannot be used and keep the old.

        A change counts once two looks in a row found the same, so files that are being written one after the other
        are left alone.
        """
        seen = await asyncio.to_thread(self._read)
        settled, self._seen = seen == self._seen, seen
        if not settled or seen == self._judged:
            return
        self._judged = seen
        try:
            self._current = await asyncio.to_thread(self._identity, seen)
        except ConfigError as error:
            _log.error("TLS files changed and cannot be used, keeping the old ones: %s", error)
        else:
            _log.info("TLS files changed; new connections get the certificate in %s", self._files.cert)

    def _read(self) -> Contents | str:
        try:
            return self._files.read()
        except ConfigError as error:
            return str(error)

    def _identity(self, contents: Contents | str) -> Identity:
        if isinstance(contents, str):
            raise ConfigError(contents)
        identity = Identity.of(contents, self._files)
        if exposure := describe_exposure(self._files.key):
            _log.warning(exposure)
        return identity


class ReloadingContext(ssl.SSLContext):
    """The context of a listening socket, for `loop.create_server(ssl=...)`: every handshake gets the newest identity.

    asyncio and uvloop ask a context for one thing, `wrap_bio`, once per connection. This one holds no certificate, so
    whoever would use it in another way fails the handshake. A protocol hears of a connection behind its handshake, so
    whoever wants to know before gives `begun`: it gets each handshake, and refuses it by an OSError.
    """

    def __new__(cls, *_: object) -> Self:
        """Make a context of a server."""
        return super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)

    def __init__(self, certificates: Certificates, begun: Callable[[ssl.SSLObject], None] | None = None) -> None:
        self._certificates = certificates
        self._begun = begun

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = True,
        server_hostname: str | bytes | None = None,  # noqa: ARG002
        session: ssl.SSLSession | None = None,  # noqa: ARG002
    ) -> ssl.SSLObject:
        """See ssl.SSLContext. Called on the I/O thread."""
        assert server_side, "bug: the server's certificate shown as a client"
        handshake = self._certificates.current.context.wrap_bio(incoming, outgoing, server_side=True)
        if self._begun is not None:
            self._begun(handshake)
        return handshake


def speaks_http2(connection: ssl.SSLObject) -> bool:
    """Say whether the peer negotiated HTTP/2 (ALPN `h2`), as RFC 9113 section 3.2 demands of it over TLS."""
    return connection.selected_alpn_protocol() == _HTTP2


def peer_names(connection: ssl.SSLObject) -> tuple[str, ...]:
    """Return the names in the peer's verified certificate: subject common names, then DNS names; empty without one."""
    certificate: dict[str, Any] = connection.getpeercert() or {}
    subject = [attribute for part in certificate.get("subject", ()) for attribute in part]
    common = [value for name, value in subject if name == "commonName"]
    return (*common, *(value for kind, value in certificate.get("subjectAltName", ()) if kind == "DNS"))
