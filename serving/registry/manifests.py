"""The manifests of a push: how its record names them, and which blobs they name. Pure; trusts nothing that it parses.

Source: OCI image specification 1.1, manifest.md and descriptor.md. What the blobs mean is the package format's matter.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from serving.errors import PackageError, RegistryError
from serving.package.manifest import (
    LAYERS_MAX,
    MANIFEST_BYTES_MAX,
    MANIFEST_TYPE,
    PACKAGE_TYPE,
    SIGNATURE_TYPE,
    SIGNATURES_MAX,
    descriptor_json,
    parse_descriptor,
)
from serving.package.parts import Descriptor
from serving.registry.record import Record

DIGESTS_BYTES_MAX = 1 << 30
"""Digests of training rows; they are read into memory."""

REF_NAME = "org.opencontainers.image.ref.name"


def manifest_facts(manifests: Sequence[Descriptor]) -> list[dict[str, Any]]:
    """Return what the record of a push says: the package's manifest first, then those of its signatures."""
    return [{"digest": manifest.digest, "bytes": manifest.bytes_count} for manifest in manifests]


def manifests_of(facts: Mapping[str, Any]) -> tuple[Descriptor, ...]:
    """Return the manifests that the facts of a push name. Raises RegistryError when they do not."""
    items = facts.get("manifests")
    if not isinstance(items, list) or not 0 < len(items) <= SIGNATURES_MAX + 1:
        raise RegistryError("a push that names no manifests")
    return tuple(_manifest(item) for item in items)


def index_of(pushes: Sequence[Record]) -> list[dict[str, Any]]:
    """Return what index.json lists: each package, called NAME:SEQ, and the signatures of all."""
    entries: dict[str, dict[str, Any]] = {}
    for push in pushes:
        package, *signatures = manifests_of(push.facts)
        name = f"{push.model}:{push.facts['sequence']}"
        entries[name] = {**descriptor_json(package), "artifactType": PACKAGE_TYPE, "annotations": {REF_NAME: name}}
        for signature in signatures:
            entries[signature.digest] = {**descriptor_json(signature), "artifactType": SIGNATURE_TYPE}
    return list(entries.values())


def blobs_of(manifest: bytes) -> list[Descriptor]:
    """Return each blob that a manifest names. Raises RegistryError when it is no manifest."""
    try:
        value = json.loads(manifest)
        layers = value.get("layers") if isinstance(value, dict) else None
        if not isinstance(layers, list) or len(layers) > LAYERS_MAX:
            raise RegistryError(f"it is no manifest of up to {LAYERS_MAX} layers")
        return [parse_descriptor("the manifest", item) for item in (value.get("config"), *layers)]
    except (ValueError, RecursionError):
        raise RegistryError("it is no manifest: not JSON") from None
    except PackageError as error:
        raise RegistryError(str(error)) from None


def row_digests_of(facts: Mapping[str, Any]) -> Descriptor | None:
    """Return the blob of row digests that a record of data names, None when it names none. Raises RegistryError."""
    if "row_digests" not in facts:
        return None
    try:
        value = _descriptor("application/octet-stream", facts["row_digests"])
        return parse_descriptor("a record of data", value, bytes_max=DIGESTS_BYTES_MAX)
    except PackageError as error:
        raise RegistryError(str(error)) from None


def _manifest(item: Any) -> Descriptor:
    try:
        return parse_descriptor("a push", _descriptor(MANIFEST_TYPE, item), bytes_max=MANIFEST_BYTES_MAX)
    except PackageError as error:
        raise RegistryError(str(error)) from None


def _descriptor(media_type: str, item: Any) -> dict[str, Any]:
    value = item if isinstance(item, dict) else {}
    return {"mediaType": media_type, "digest": value.get("digest"), "size": value.get("bytes")}
