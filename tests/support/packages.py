"""Packages for tests: contents that use every part, and ways to rewrite a package by hand."""

import json
import tarfile
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from serving.package import Contents, Golden, Waiver, npz_bytes
from serving.package.parts import digest_of
from serving.types import Datatype, Signature, TensorSpec
from tests.support import graphs

AFFINE = Signature(
    (TensorSpec("x", Datatype.FP32, (-1, 4)),), (TensorSpec("y", Datatype.FP32, (-1, 4)),), batchable=True
)


def contents(**changes) -> Contents:
    """A package of `graphs.affine` that has every part but weights."""
    rows = np.arange(8, dtype=np.float32).reshape(2, 4)
    values = {
        "name": "affine",
        "model": graphs.affine(),
        "signature": AFFINE,
        "columns": {"x": ("a", "b", "c", "d")},
        "labels": {"y": ("one", "two", "three", "four")},
        "profile": npz_bytes({"edges": np.arange(5.0)}),
        "golden": Golden({"x": rows}, {"y": 2 * rows + 1}).to_bytes(),
        "parity": {"max_abs": 0.0, "rows": 2},
        "evaluation": {"accuracy": 0.9},
        "lineage": {"commit": "0" * 40, "seed": 7},
        "licence": "Apache-2.0\n",
        "passes": ("slim",),
        "waivers": (Waiver("parity", "known to differ at 0"),),
    }
    return Contents(**{**values, **changes})


def blob_path(package: Path, digest: str) -> Path:
    return package / "blobs" / "sha256" / digest.removeprefix("sha256:")


def put_blob(package: Path, data: bytes) -> dict:
    """Add a blob; return the fields of its descriptor."""
    blob_path(package, digest_of(data)).write_bytes(data)
    return {"digest": digest_of(data), "size": len(data)}


def manifest_of(package: Path) -> dict:
    index = json.loads((package / "index.json").read_text())
    return json.loads(blob_path(package, index["manifests"][0]["digest"]).read_text())


def rewrite(package: Path, change) -> None:
    """Change a package's manifest in place, with digests that fit: what a hostile author can always do."""
    manifest = manifest_of(package)
    change(manifest)
    index = json.loads((package / "index.json").read_text())
    index["manifests"][0].update(put_blob(package, json.dumps(manifest).encode()))
    (package / "index.json").write_text(json.dumps(index))


def rewrite_config(package: Path, change) -> None:
    """Change `package.json` in place, with digests that fit."""

    def with_config(manifest):
        config = json.loads(blob_path(package, manifest["config"]["digest"]).read_text())
        change(config)
        manifest["config"].update(put_blob(package, json.dumps(config).encode()))

    rewrite(package, with_config)


def tar_of(package: Path, path: Path, *, mode: str = "w", extra=()) -> Path:
    """Write a tar of a layout as a person would; `extra` are members to add, (TarInfo, stream)."""
    with tarfile.open(path, mode) as archive:
        archive.add(package, ".")
        for member, stream in extra:
            archive.addfile(member, stream)
    return path


def write_key_pair(folder: Path, name: str = "release") -> tuple[Path, Path]:
    """Write NAME.key, and keys/NAME.pem; return both paths."""
    key = Ed25519PrivateKey.generate()
    private, public = folder / f"{name}.key", folder / "keys" / f"{name}.pem"
    public.parent.mkdir(exist_ok=True)
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    private.write_bytes(key.private_bytes(pem, pkcs8, serialization.NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))
    return private, public
