"""Reading a package: what it says of itself, and its parts, each verified against its digest as it is read."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from serving.errors import PackageError
from serving.package.contents import Waiver
from serving.package.manifest import (
    INDEX_BYTES_MAX,
    Config,
    Manifest,
    parse_config,
    parse_index,
    parse_json,
    parse_layout,
    parse_manifest,
    waived_checks,
)
from serving.package.parts import JSON_BYTES_MAX, Descriptor, Part
from serving.package.storage import Storage, blob_chunks, open_storage, read_small
from serving.types import Signature


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """A package that lies somewhere; its manifest is parsed and its parts are opened when asked for.

    `digest` is the package's own. `manifest_blob` and `blobs` (`package.json` first) are what a registry pushes:
    `manifest_bytes` as the manifest, `chunks` for each blob. `signature_blobs` are the manifests of its signatures.
    Every method that reads raises PackageError when the bytes are not those of the digest. Holds no open files, so it
    needs no closing; thread-safe.
    """

    path: Path
    digest: str
    name: str
    signature: Signature
    columns: Mapping[str, tuple[str, ...]]
    labels: Mapping[str, tuple[str, ...]]
    passes: tuple[str, ...]
    waivers: tuple[Waiver, ...]
    manifest_blob: Descriptor
    manifest_bytes: bytes
    blobs: tuple[Descriptor, ...]
    signature_blobs: tuple[Descriptor, ...]
    _storage: Storage = field(repr=False)

    def find(self, part: Part) -> Descriptor | None:
        """Return the descriptor of a part, None when the package has none such."""
        return next((blob for blob in self.blobs if blob.part is part), None)

    def chunks(self, blob: Descriptor) -> Iterator[bytes]:
        """Yield the bytes of a blob, verified; they are to be trusted when the last chunk has come."""
        return blob_chunks(self._storage, blob)

    def read_blob(self, blob: Descriptor, *, bytes_max: int | None = None) -> bytes:
        """Return the bytes of a blob, verified."""
        if bytes_max is not None and blob.bytes_count > bytes_max:
            raise PackageError(
                f"{self.path}: '{blob.title or blob.digest}' has {blob.bytes_count} bytes, expected at most {bytes_max}"
            )
        return b"".join(self.chunks(blob))

    def read_part(self, part: Part) -> bytes | None:
        """Return the bytes of a part, None when the package has none such."""
        blob = self.find(part)
        return None if blob is None else self.read_blob(blob, bytes_max=JSON_BYTES_MAX if part.is_small else None)

    @property
    def model(self) -> bytes:
        """The ONNX graph."""
        model = self.read_part(Part.MODEL)
        assert model is not None, "bug: a manifest without a model was parsed"
        return model

    @property
    def weights(self) -> dict[str, bytes]:
        """The graph's external data by the names that the graph uses."""
        return {blob.title: self.read_blob(blob) for blob in self.blobs if blob.part is Part.WEIGHTS}

    @property
    def files(self) -> dict[str, bytes]:
        """What steps of a pipeline need, by the names that they use."""
        files = (blob for blob in self.blobs if blob.part is Part.FILE)
        return {blob.title: self.read_blob(blob, bytes_max=JSON_BYTES_MAX) for blob in files}

    @property
    def profile(self) -> bytes | None:
        """The reference profile, a .npz file."""
        return self.read_part(Part.PROFILE)

    @property
    def golden(self) -> bytes | None:
        """Golden requests with their answers, for `Golden.from_bytes`."""
        return self.read_part(Part.GOLDEN)

    @property
    def parity(self) -> dict[str, Any] | None:
        """The parity report."""
        return self._json(Part.PARITY)

    @property
    def evaluation(self) -> dict[str, Any] | None:
        """What was measured of the model's quality."""
        return self._json(Part.EVALUATION)

    @property
    def lineage(self) -> dict[str, Any] | None:
        """Where the model comes from: commit, digests of data, parameters, versions, seeds."""
        return self._json(Part.LINEAGE)

    @property
    def licence(self) -> str | None:
        """The licence's text."""
        data = self.read_part(Part.LICENCE)
        try:
            return None if data is None else data.decode()
        except UnicodeDecodeError:
            raise PackageError(f"{self.path}: {Part.LICENCE.title} is not valid UTF-8") from None

    def verify(self) -> None:
        """Read every blob, and the signatures' too, against its digest. Whose signatures they are is for `signing`."""
        for blob in (self.manifest_blob, *self.blobs, *self.signature_blobs):
            for _ in self.chunks(blob):
                pass

    def _json(self, part: Part) -> dict[str, Any] | None:
        data = self.read_part(part)
        return None if data is None else parse_json(f"{self.path}: {part.title}", data)


def read(path: Path) -> Package:
    """Open a package, a folder or a plain tar. Its manifest and `package.json` are verified, the other parts later.

    Raises PackageError.
    """
    storage = open_storage(path)
    try:
        parse_layout(read_small(storage, "oci-layout", INDEX_BYTES_MAX))
        manifest_blob, signatures = parse_index(read_small(storage, "index.json", INDEX_BYTES_MAX))
        data = b"".join(blob_chunks(storage, manifest_blob))
        return package_of(storage, manifest_blob, data, signatures)
    except PackageError as error:
        raise _placed(path, error) from None


def verify(path: Path) -> Package:
    """Open a package and verify every byte of it. Raises PackageError."""
    package = read(path)
    package.verify()
    return package


def package_of(storage: Storage, manifest_blob: Descriptor, data: bytes, signatures: tuple[Descriptor, ...]) -> Package:
    """Make a package of its manifest's bytes, and of `package.json` as it lies in the storage."""
    manifest = parse_manifest(data)
    if manifest.config.bytes_count > JSON_BYTES_MAX:
        raise PackageError(f"package.json has {manifest.config.bytes_count} bytes, expected at most {JSON_BYTES_MAX}")
    config = parse_config(b"".join(blob_chunks(storage, manifest.config)))
    _check_agreement(manifest, config)
    return Package(
        path=storage.path,
        digest=manifest_blob.digest,
        name=config.name,
        signature=config.signature,
        columns=config.columns,
        labels=config.labels,
        passes=config.passes,
        waivers=config.waivers,
        manifest_blob=manifest_blob,
        manifest_bytes=data,
        blobs=manifest.blobs,
        signature_blobs=signatures,
        _storage=storage,
    )


def _check_agreement(manifest: Manifest, config: Config) -> None:
    """What both the manifest and `package.json` say must be the same."""
    files = sorted(layer.title for layer in manifest.layers if layer.part is Part.FILE)
    said = [manifest.name, list(manifest.waived), files]
    repeated = [config.name, list(waived_checks(config.waivers)), sorted(config.files)]
    if said != repeated:
        raise PackageError(
            f"the manifest says {json.dumps(said)[:300]}, package.json says {json.dumps(repeated)[:300]}; "
            "the package contradicts itself"
        )


def _placed(path: Path, error: PackageError) -> PackageError:
    """Name the package in a message that does not yet."""
    return error if str(error).startswith(str(path)) else PackageError(f"{path}: {error}")
