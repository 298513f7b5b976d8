"""Detached signatures of packages: made with a private ed25519 key, checked against a folder of public ones.

A signature signs the digest of the package's manifest, and through it every byte of the package. It lies beside the
package as a manifest of its own that names the package as its subject, so signing changes no digest, and several keys
may sign. Keys are PEM files as `openssl genpkey -algorithm ed25519` and `openssl pkey -pubout` write them, without a
passphrase. `cryptography` is loaded when a key is used.

Sources: RFC 8032 (ed25519), OCI image specification 1.1 (`subject`).
"""

import base64
import binascii
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from serving.errors import ConfigError, PackageError
from serving.package.manifest import (
    EMPTY_TYPE,
    MANIFEST_BYTES_MAX,
    MANIFEST_TYPE,
    SIGNATURE_TYPE,
    canonical_json,
    descriptor_json,
    parse_descriptor,
    parse_json,
)
from serving.package.parts import Descriptor, digest_of
from serving.package.reading import Package
from serving.package.writing import SignatureBlobs

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

SIGNATURE_BLOB_TYPE = "application/vnd.penstock.signature.v1+json"
SIGNATURE_BLOB_BYTES_MAX = 4_096
KEY_FILE_BYTES_MAX = 64 << 10
KEYS_MAX = 1_000
_EMPTY = b"{}"
_PREFIX = b"penstock package signature 1\n"
"""Goes before the digest, so that a signature of something else can never be taken for one of a package."""


@dataclass(frozen=True, slots=True)
class TrustedKeys:
    """Public keys that packages must be signed with, by their id, and the folder that they came from."""

    folder: Path
    keys: Mapping[str, "Ed25519PublicKey"]

    def check(self, package: Package) -> str:
        """Return the id of a trusted key that signed the package. Raises PackageError when none did."""
        found = read_signatures(package)
        for signature in found:
            key = self.keys.get(signature.key_id)
            if key is not None:
                _verify(package, signature, key)
                return signature.key_id
        if not found:
            raise PackageError(f"{package.path}: the package is not signed, a key in {self.folder} must have signed it")
        signers = ", ".join(signature.key_id[:16] for signature in found)
        raise PackageError(
            f"{package.path}: the package is signed by {signers}, which {self.folder} does not hold; "
            "add that key when you trust it"
        )


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature as it lies beside a package. `key_id` is the SHA-256 of the public key's 32 bytes, in hex."""

    key_id: str
    value: bytes


def signer(key_file: Path) -> Callable[[bytes], SignatureBlobs]:
    """Return what signs manifests with a private key. Raises ConfigError."""
    ed25519, serialization = _cryptography()
    try:
        key = serialization.load_pem_private_key(_read_key_file(key_file), password=None)
    except (ValueError, TypeError) as error:  # TypeError: it wants a passphrase
        raise ConfigError(f"{key_file} is no private key in PEM without a passphrase: {error}") from None
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise ConfigError(f"{key_file} is a {type(key).__name__}, expected an ed25519 key")
    key_id = _key_id(key.public_key())

    def sign(manifest: bytes) -> SignatureBlobs:
        value = key.sign(_PREFIX + digest_of(manifest).encode())
        blob = canonical_json({"algorithm": "ed25519", "key": key_id, "signature": base64.b64encode(value).decode()})
        return SignatureBlobs(_signature_manifest(manifest, blob), (_EMPTY, blob))

    return sign


def trusted_keys(folder: Path) -> TrustedKeys:
    """Read a folder of public keys: each `.pem` or `.pub` file in it. Raises ConfigError."""
    try:
        files = sorted(file for file in folder.iterdir() if file.suffix in {".pem", ".pub"})
    except OSError as error:
        raise ConfigError(f"the folder of keys {folder} cannot be read: {error.strerror}") from None
    if not 0 < len(files) <= KEYS_MAX:
        raise ConfigError(f"{folder} holds {len(files)} keys (.pem or .pub), expected 1 to {KEYS_MAX}")
    keys = [public_key(file) for file in files]
    return TrustedKeys(folder, {_key_id(key): key for key in keys})


def trusted_key(file: Path) -> TrustedKeys:
    """Trust one public key. Raises ConfigError."""
    key = public_key(file)
    return TrustedKeys(file, {_key_id(key): key})


def public_key(file: Path) -> "Ed25519PublicKey":
    """Read a public key. Raises ConfigError."""
    ed25519, serialization = _cryptography()
    try:
        key = serialization.load_pem_public_key(_read_key_file(file))
    except ValueError as error:
        raise ConfigError(f"{file} is no public key in PEM: {error}") from None
    if not isinstance(key, ed25519.Ed25519PublicKey):
        raise ConfigError(f"{file} is a {type(key).__name__}, expected an ed25519 key")
    return cast("Ed25519PublicKey", key)


def read_signatures(package: Package) -> list[Signature]:
    """Return the signatures beside a package, checked to be about it and not yet against a key."""
    return [_parse_signature(package, _signature_blob(package, blob)) for blob in package.signature_blobs]


def signatures_of(package: Package) -> list[SignatureBlobs]:
    """Return the signatures beside a package as bytes, for a copy of it."""
    found: list[SignatureBlobs] = []
    for blob in package.signature_blobs:
        signature = _signature_blob(package, blob)
        found.append(SignatureBlobs(package.read_blob(blob), (_EMPTY, package.read_blob(signature))))
    return found


def _signature_manifest(manifest: bytes, blob: bytes) -> bytes:
    subject = Descriptor(MANIFEST_TYPE, digest_of(manifest), len(manifest))
    layer = Descriptor(SIGNATURE_BLOB_TYPE, digest_of(blob), len(blob))
    return canonical_json(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "artifactType": SIGNATURE_TYPE,
            "config": descriptor_json(Descriptor(EMPTY_TYPE, digest_of(_EMPTY), len(_EMPTY))),
            "layers": [descriptor_json(layer)],
            "subject": descriptor_json(subject),
        }
    )


def _signature_blob(package: Package, blob: Descriptor) -> Descriptor:
    """Return the blob that a signature's manifest names, having checked that it is about this package."""
    where = f"{package.path}: a signature's manifest"
    value = parse_json(where, package.read_blob(blob, bytes_max=MANIFEST_BYTES_MAX))
    subject = parse_descriptor(where, value.get("subject"), bytes_max=MANIFEST_BYTES_MAX)
    if subject.digest != package.digest:
        raise PackageError(f"{where} is about {subject.digest}, expected {package.digest}")
    layers = value.get("layers")
    if value.get("artifactType") != SIGNATURE_TYPE or not isinstance(layers, list) or len(layers) != 1:
        raise PackageError(f"{where} is of a kind that this version does not know")
    layer = parse_descriptor(where, layers[0], bytes_max=SIGNATURE_BLOB_BYTES_MAX)
    if layer.media_type != SIGNATURE_BLOB_TYPE:
        raise PackageError(f"{where} names a {layer.media_type[:200]}, expected a {SIGNATURE_BLOB_TYPE}")
    return layer


def _parse_signature(package: Package, blob: Descriptor) -> Signature:
    value = parse_json(f"{package.path}: a signature", package.read_blob(blob))
    key_id, text = value.get("key"), value.get("signature")
    if value.get("algorithm") != "ed25519" or not isinstance(key_id, str) or not isinstance(text, str):
        raise PackageError(f"{package.path}: a signature is not the ed25519 signature of a key")
    try:
        return Signature(key_id, base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError):
        raise PackageError(f"{package.path}: a signature is not valid base64") from None


def _verify(package: Package, signature: Signature, key: "Ed25519PublicKey") -> None:
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - behind the extra

    try:
        key.verify(signature.value, _PREFIX + package.digest.encode())
    except InvalidSignature:
        raise PackageError(
            f"{package.path}: the signature of key {signature.key_id[:16]} is not valid for {package.digest}"
        ) from None


def _key_id(key: "Ed25519PublicKey") -> str:
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()


def _read_key_file(file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            data = stream.read(KEY_FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"the key {file} cannot be read: {error.strerror}") from None
    if len(data) > KEY_FILE_BYTES_MAX:
        raise ConfigError(f"the key {file} has more than {KEY_FILE_BYTES_MAX} bytes; this cannot be a key")
    return data


def _cryptography() -> tuple[Any, Any]:
    try:
        from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 - behind the extra
        from cryptography.hazmat.primitives.asymmetric import ed25519  # noqa: PLC0415
    except ImportError:
        raise ConfigError("signatures of packages need cryptography: pip install 'penstock[sign]'") from None
    return ed25519, serialization
