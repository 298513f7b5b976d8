"""PEM files: reads certificates, private keys and CAs, and says in a person's words what is wrong with one.

Both ends of the wire use it. It knows OpenSSL by way of `ssl`, and must know neither gRPC nor who connects to whom.
"""

import contextlib
import os
import re
import ssl
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from serving.errors import ConfigError

PEM_BYTES_MAX = 1 << 20
_OTHER_KEY = frozenset({"KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED"})


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate with the chain above it, and its private key. `repr` leaves the key out."""

    chain: bytes
    key: bytes = field(repr=False)


def read_pem(path: Path) -> bytes:
    """Read a file of bounded length. Raises ConfigError."""
    try:
        with path.open("rb") as file:
            data = file.read(PEM_BYTES_MAX + 1)
    except (OSError, ValueError) as error:  # a ValueError is a path with a null character
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{path}: {reason}; name a PEM file that the server's user may read") from None
    if len(data) > PEM_BYTES_MAX:
        raise ConfigError(f"{path}: longer than {PEM_BYTES_MAX} bytes, expected a PEM file of certificates or a key")
    return data


def read_key_pair(cert: Path, key: Path) -> KeyPair:
    """Read a certificate chain and its private key. Raises ConfigError unless they can be used together."""
    pair = KeyPair(read_pem(cert), read_pem(key))
    use_key_pair(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), pair, cert=cert, key=key)
    return pair


def read_authorities(path: Path) -> bytes:
    """Read the certificates of CAs. Raises ConfigError."""
    data = read_pem(path)
    use_authorities(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), data, path)
    return data


def read_system_authorities() -> bytes:
    """Read the CAs that this machine trusts, where OpenSSL and SSL_CERT_FILE say. Raises ConfigError."""
    paths = ssl.get_default_verify_paths()
    if paths.cafile:
        return read_authorities(Path(paths.cafile))
    files = sorted(Path(paths.capath).glob("*.[0-9]")) if paths.capath else []  # as c_rehash names them
    if not files:
        raise ConfigError("this machine has no list of trusted CAs; name the PEM file of the server's CA with --tls-ca")
    return b"\n".join(map(read_pem, files))


def use_key_pair(context: ssl.SSLContext, pair: KeyPair, *, cert: Path, key: Path) -> None:
    """Make a context show a certificate. Raises ConfigError that names the guilty one of the two files."""
    use_authorities(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), pair.chain, cert)  # reads every certificate of the chain
    try:
        with _as_path(pair.chain) as chain_path, _as_path(pair.key) as key_path:
            context.load_cert_chain(chain_path, key_path, password=_refuse_passphrase)
    except _PassphraseAskedError:
        raise ConfigError(
            f"{key}: the private key is locked with a passphrase, expected one without: openssl pkey -in {key} -out NEW"
        ) from None
    except ssl.SSLError as error:
        if error.reason in _OTHER_KEY:
            raise ConfigError(
                f"{key}: not the private key of the certificate in {cert}; "
                "expected the two that were made together, the server's own certificate first in its file"
            ) from None
        if error.reason:
            raise ConfigError(f"{cert}: cannot be used: {_words(error.reason)}; have another one issued") from None
        raise ConfigError(f"{key}: {_found(pair.key, 'KEY')}, expected one PRIVATE KEY in PEM") from None


def use_authorities(context: ssl.SSLContext, data: bytes, path: Path) -> None:
    """Make a context trust CAs. Raises ConfigError that names their file."""
    try:
        with _as_path(data) as copy:
            context.load_verify_locations(cafile=copy)
    except ssl.SSLError:
        raise ConfigError(f"{path}: {_found(data, 'CERTIFICATE')}, expected one or more CERTIFICATEs in PEM") from None


def describe_exposure(path: Path) -> str:
    """Say that a private key can be read by every user of the machine; nothing when it cannot."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError:  # it was read a moment ago and is gone
        return ""
    if not mode & stat.S_IROTH:
        return ""
    return f"{path}: every user of this machine may read this private key (mode {mode:04o}); chmod 600 it"


class _PassphraseAskedError(Exception):
    pass


def _refuse_passphrase() -> NoReturn:
    raise _PassphraseAskedError  # without it OpenSSL would ask on the terminal


@contextlib.contextmanager
def _as_path(data: bytes) -> Iterator[str]:
    """Yield a path at which OpenSSL, which takes only paths, finds these very bytes; a key touches no disk by it."""
    descriptor = os.memfd_create("penstock-pem")
    try:
        with os.fdopen(descriptor, "wb", closefd=False) as file:
            file.write(data)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _found(data: bytes, expected: str) -> str:
    labels = sorted({label.decode() for label in re.findall(rb"-----BEGIN ([A-Z0-9 ]{1,40})-----", data)})
    if not labels:
        return "holds nothing in PEM"
    damaged = " that is damaged or cut short" if any(label.endswith(expected) for label in labels) else ""
    return f"holds {', '.join(labels)}{damaged}"


def _words(reason: str) -> str:
    return reason.lower().replace("_", " ")
