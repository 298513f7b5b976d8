"""The JSON of a package: index, manifest and `package.json`, made and parsed. Pure; trusts nothing that it parses.

Sources: OCI image specification 1.1, image-layout.md, manifest.md and index.md.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from serving.errors import PackageError
from serving.package.contents import (
    FILES_MAX,
    Contents,
    Waiver,
    check_columns,
    check_name,
    check_signature,
    check_text,
)
from serving.package.parts import DIGEST, PARTS_BY_MEDIA_TYPE, Descriptor, Part, check_title
from serving.types import DATATYPES, Signature, TensorSpec

FORMAT = 1
"""The format that is written. A reader knows it and every older one in `FORMATS_READ`, and refuses newer ones."""
FORMATS_READ = frozenset({1})

MANIFEST_BYTES_MAX = 4 << 20
INDEX_BYTES_MAX = 1 << 20
LAYERS_MAX = 4_096
SIGNATURES_MAX = 16
BLOB_BYTES_MAX = 1 << 40
WAIVERS_MAX = PASSES_MAX = 1_000
JSON_DEPTH_MAX = 64

INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
PACKAGE_TYPE = "application/vnd.penstock.package.v1+json"
SIGNATURE_TYPE = "application/vnd.penstock.signature.v1+json"
EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
TITLE = "org.opencontainers.image.title"
FORMAT_KEY = "dev.penstock.format"
WAIVED_KEY = "dev.penstock.waived"

LAYOUT_VERSION = "1.0.0"


@dataclass(frozen=True, slots=True)
class Config:
    """What `package.json` says."""

    name: str
    signature: Signature
    columns: Mapping[str, tuple[str, ...]]
    labels: Mapping[str, tuple[str, ...]]
    passes: tuple[str, ...]
    waivers: tuple[Waiver, ...]
    files: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a package's manifest says. `config` is `package.json`, `layers` the other parts in the order written."""

    name: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    waived: tuple[str, ...]

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        """Every blob that the manifest names."""
        return (self.config, *self.layers)


# ---- making --------------------------------------------------------------------------------------------------------


def canonical_json(value: Any) -> bytes:
    """Write JSON in the one form that packages use: keys sorted, no spaces, UTF-8. Raises PackageError for NaN."""
    try:
        _check_depth(value)
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return text.encode()
    except (TypeError, ValueError, RecursionError) as error:  # also text that is not valid Unicode
        raise PackageError(f"cannot be written as JSON, which has no NaN and no infinity: {error}") from None


def config_bytes(contents: Contents) -> bytes:
    """Write `package.json`."""
    value = {
        "format": FORMAT,
        "name": contents.name,
        "signature": {
            "batchable": contents.signature.batchable,
            "inputs": [_spec_json(spec, "columns", contents.columns) for spec in contents.signature.inputs],
            "outputs": [_spec_json(spec, "labels", contents.labels) for spec in contents.signature.outputs],
        },
        "passes": list(contents.passes),
        "waivers": [{"check": waiver.check, "reason": waiver.reason} for waiver in contents.waivers],
    }
    if contents.files:  # a package without any keeps the digest that it had before there were any
        value["files"] = sorted(contents.files)
    return canonical_json(value)


def manifest_bytes(manifest: Manifest) -> bytes:
    """Write the manifest of a package."""
    annotations = {TITLE: manifest.name, FORMAT_KEY: str(FORMAT)}
    if manifest.waived:
        annotations[WAIVED_KEY] = ",".join(manifest.waived)
    return canonical_json(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "artifactType": PACKAGE_TYPE,
            "config": descriptor_json(manifest.config),
            "layers": [descriptor_json(layer) for layer in manifest.layers],
            "annotations": annotations,
        }
    )


def index_bytes(package: Descriptor, signatures: Iterable[Descriptor] = ()) -> bytes:
    """Write `index.json`: the package's manifest, then the manifests of its signatures."""
    entries = [{**descriptor_json(package), "artifactType": PACKAGE_TYPE}]
    entries += [{**descriptor_json(signature), "artifactType": SIGNATURE_TYPE} for signature in signatures]
    return canonical_json({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": entries})


def layout_bytes() -> bytes:
    """Write `oci-layout`."""
    return canonical_json({"imageLayoutVersion": LAYOUT_VERSION})


def descriptor_json(descriptor: Descriptor) -> dict[str, Any]:
    """Write a descriptor as OCI does."""
    value = {"mediaType": descriptor.media_type, "digest": descriptor.digest, "size": descriptor.bytes_count}
    return {**value, "annotations": {TITLE: descriptor.title}} if descriptor.title else value


def _spec_json(spec: TensorSpec, key: str, names: Mapping[str, tuple[str, ...]]) -> dict[str, Any]:
    value = {"name": spec.name, "datatype": spec.datatype.wire_name, "shape": list(spec.shape)}
    return {**value, key: list(names[spec.name])} if spec.name in names else value


# ---- parsing -------------------------------------------------------------------------------------------------------


def parse_json(what: str, data: bytes) -> dict[str, Any]:
    """Parse a JSON object, refusing doubled keys, NaN and depths that no package has."""
    try:
        value = json.loads(data, object_pairs_hook=_unique, parse_constant=_refuse_constant)
        _check_depth(value)
    except (ValueError, RecursionError) as error:
        raise PackageError(f"{what} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise PackageError(f"{what} holds a JSON {type(value).__name__}, expected an object")
    return value


def parse_layout(data: bytes) -> None:
    """Check `oci-layout`."""
    version = parse_json("oci-layout", data).get("imageLayoutVersion")
    if version != LAYOUT_VERSION:
        raise PackageError(f"oci-layout says version {version!r}, expected '{LAYOUT_VERSION}'")


def parse_index(data: bytes) -> tuple[Descriptor, tuple[Descriptor, ...]]:
    """Return the package's manifest and the manifests of its signatures."""
    entries = _list("index.json", parse_json("index.json", data), "manifests", SIGNATURES_MAX + 1)
    packages: list[Descriptor] = []
    signatures: list[Descriptor] = []
    for entry in entries:
        kind = entry.get("artifactType") if isinstance(entry, dict) else None
        descriptor = parse_descriptor("index.json", entry, bytes_max=MANIFEST_BYTES_MAX)
        if descriptor.media_type != MANIFEST_TYPE or kind not in (PACKAGE_TYPE, SIGNATURE_TYPE):
            raise PackageError(
                f"index.json names a {descriptor.media_type} of type {kind!r}; this is no package of Penstock's, "
                "or one that a newer version made"
            )
        (packages if kind == PACKAGE_TYPE else signatures).append(descriptor)
    if len(packages) != 1:
        raise PackageError(f"index.json names {len(packages)} packages, expected one")
    return packages[0], tuple(signatures)


def parse_manifest(data: bytes) -> Manifest:
    """Parse a package's manifest, of a format that this version knows."""
    value = parse_json("the manifest", data)
    annotations = _annotations("the manifest", value)
    _check_format("the manifest", annotations.get(FORMAT_KEY))
    kinds = (value.get("schemaVersion"), value.get("mediaType"), value.get("artifactType"))
    if kinds != (2, MANIFEST_TYPE, PACKAGE_TYPE):
        raise PackageError(f"the manifest is of type {kinds!r}, expected {(2, MANIFEST_TYPE, PACKAGE_TYPE)!r}")
    config = _parse_part(value.get("config"))
    if config.part is not Part.CONFIG:
        raise PackageError(f"the manifest's config is a {config.media_type}, expected {Part.CONFIG.media_type}")
    layers = tuple(map(_parse_part, _list("the manifest", value, "layers", LAYERS_MAX)))
    _check_layers(layers)
    name = annotations.get(TITLE, "")
    check_name(name)
    waived = tuple(filter(None, annotations.get(WAIVED_KEY, "").split(",")))
    return Manifest(name, config, layers, waived)


def parse_config(data: bytes) -> Config:
    """Parse `package.json`."""
    value = parse_json("package.json", data)
    _check_format("package.json", value.get("format"))
    name = _text("package.json", value, "name")
    check_name(name)
    signature = _object("package.json", value, "signature")
    inputs = [_parse_spec(spec) for spec in _list("the signature", signature, "inputs", LAYERS_MAX)]
    outputs = [_parse_spec(spec) for spec in _list("the signature", signature, "outputs", LAYERS_MAX)]
    batchable = signature.get("batchable")
    if not isinstance(batchable, bool):
        raise PackageError(f"the signature says batchable = {batchable!r}, expected true or false")
    config = Config(
        name=name,
        signature=Signature(tuple(inputs), tuple(outputs), batchable),
        columns=_parse_names(signature["inputs"], "columns"),
        labels=_parse_names(signature["outputs"], "labels"),
        passes=tuple(_strings("package.json", value, "passes", PASSES_MAX)),
        waivers=tuple(_parse_waiver(item) for item in _list("package.json", value, "waivers", WAIVERS_MAX)),
        files=tuple(_strings("package.json", value, "files", FILES_MAX)) if "files" in value else (),
    )
    check_signature(config.signature)
    check_columns("columns", config.columns, config.signature.inputs)
    check_columns("labels", config.labels, config.signature.outputs)
    for file in config.files:
        check_title(file, Part.FILE)
    return config


def waived_checks(waivers: Iterable[Waiver]) -> tuple[str, ...]:
    """Name the waived checks, as the manifest does."""
    return tuple(sorted({waiver.check.replace(",", " ") for waiver in waivers}))


def parse_descriptor(where: str, value: Any, *, bytes_max: int = BLOB_BYTES_MAX) -> Descriptor:
    """Parse a descriptor of a blob of at most `bytes_max` bytes."""
    if not isinstance(value, dict):
        raise PackageError(f"{where} holds a JSON {type(value).__name__} in place of a descriptor")
    media_type, digest = _text(where, value, "mediaType"), _text(where, value, "digest")
    length = value.get("size")
    if not DIGEST.fullmatch(digest):
        raise PackageError(f"{where} names digest {digest[:100]!r}, expected sha256: and 64 hex digits")
    if type(length) is not int or not 0 <= length <= bytes_max:
        raise PackageError(f"{where} says a blob has {length!r} bytes, expected 0 to {bytes_max}")
    return Descriptor(media_type, digest, length, _annotations(where, value).get(TITLE, ""))


def _parse_part(value: Any) -> Descriptor:
    descriptor = parse_descriptor("the manifest", value)
    part = PARTS_BY_MEDIA_TYPE.get(descriptor.media_type)
    if part is None:
        raise PackageError(
            f"the manifest names a part of type {descriptor.media_type[:200]!r}, which this version does not know; "
            "a newer Penstock may have made it"
        )
    check_title(descriptor.title, part)
    return descriptor


def _check_layers(layers: tuple[Descriptor, ...]) -> None:
    titles = [layer.title for layer in layers]
    doubled = sorted({title for title in titles if titles.count(title) > 1}) if len(set(titles)) < len(titles) else []
    if doubled:
        raise PackageError(f"the manifest names '{doubled[0]}' twice, expected each part once")
    if Part.MODEL.title not in titles:
        raise PackageError(f"the manifest names no {Part.MODEL.title}; a package holds one")
    if Part.CONFIG.title in titles:
        raise PackageError(f"the manifest names '{Part.CONFIG.title}' among its layers, expected it as its config")


def _check_format(where: str, said: Any) -> None:
    if not str(said).isascii() or not str(said).isdigit() or len(str(said)) > 9:
        raise PackageError(f"{where} says format {said!r}, expected a number; this is no package of Penstock's")
    number = int(said)
    if number > FORMAT:
        raise PackageError(
            f"{where} says package format {number}, this version reads up to {FORMAT}; update Penstock to use it"
        )
    if number not in FORMATS_READ:
        raise PackageError(f"{where} says package format {number}, which never was released; pack the model again")


def _parse_spec(value: Any) -> TensorSpec:
    if not isinstance(value, dict):
        raise PackageError(f"the signature holds a JSON {type(value).__name__} in place of a tensor")
    name, datatype = _text("the signature", value, "name"), _text("the signature", value, "datatype")
    if datatype not in DATATYPES:
        raise PackageError(f"tensor '{name}' is of datatype {datatype[:80]!r}, expected one of {', '.join(DATATYPES)}")
    shape = value.get("shape")
    if not isinstance(shape, list) or not all(type(dimension) is int for dimension in shape):
        raise PackageError(f"tensor '{name}' has a shape that is no list of whole numbers")
    return TensorSpec(name, DATATYPES[datatype], tuple(shape))


def _parse_names(specs: list[dict[str, Any]], key: str) -> dict[str, tuple[str, ...]]:
    return {spec["name"]: tuple(_strings("the signature", spec, key, None)) for spec in specs if key in spec}


def _parse_waiver(value: Any) -> Waiver:
    if not isinstance(value, dict):
        raise PackageError(f"package.json holds a JSON {type(value).__name__} in place of a waiver")
    return Waiver(_text("a waiver", value, "check"), _text("a waiver", value, "reason"))


def _annotations(where: str, value: Mapping[str, Any]) -> dict[str, str]:
    annotations = value.get("annotations", {})
    if not isinstance(annotations, dict) or not all(isinstance(text, str) for text in annotations.values()):
        raise PackageError(f"{where} has annotations that are no object of strings")
    return annotations


def _object(where: str, value: Mapping[str, Any], key: str) -> dict[str, Any]:
    item = value.get(key)
    if not isinstance(item, dict):
        raise PackageError(f"{where} holds {key} = {str(item)[:80]!r}, expected an object")
    return item


def _list(where: str, value: Mapping[str, Any], key: str, length_max: int | None) -> list[Any]:
    items = value.get(key)
    if not isinstance(items, list):
        raise PackageError(f"{where} holds {key} = {str(items)[:80]!r}, expected a list")
    if length_max is not None and len(items) > length_max:
        raise PackageError(f"{where} has {len(items)} {key}, expected at most {length_max}")
    return items


def _strings(where: str, value: Mapping[str, Any], key: str, length_max: int | None) -> list[str]:
    items = _list(where, value, key, length_max)
    for item in items:
        if not isinstance(item, str):
            raise PackageError(f"{where} holds {str(item)[:80]!r} among its {key}, expected text")
        check_text(f"one of the {key}", item)
    return items


def _text(where: str, value: Mapping[str, Any], key: str) -> str:
    text = value.get(key)
    if not isinstance(text, str):
        raise PackageError(f"{where} holds {key} = {str(text)[:80]!r}, expected text")
    check_text(f"{key} in {where}", text)
    return text


def _check_depth(value: Any) -> None:
    """Refuse what is nested too deep for all that walks through it; raises ValueError."""
    level = [value]
    for _ in range(JSON_DEPTH_MAX):
        level = [child for item in level if isinstance(item, dict | list | tuple) for child in _children(item)]
        if not level:
            return
    raise ValueError(f"it is nested more than {JSON_DEPTH_MAX} levels deep")


def _children(item: Any) -> Iterable[Any]:
    return item.values() if isinstance(item, dict) else item


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("an object names a key twice")
    return value


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is no number of JSON")
