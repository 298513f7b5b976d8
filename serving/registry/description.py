"""What a package says of itself, as one JSON object, for people and for comparisons. Reads no model or weights."""

from typing import Any

from serving.package import Package
from serving.types import TensorSpec


def describe_package(package: Package) -> dict[str, Any]:
    """Return name, signature, documents, and each part's digest by its file's name. Raises PackageError."""
    documents = {"parity": package.parity, "evaluation": package.evaluation, "lineage": package.lineage}
    return {
        "digest": package.digest,
        "name": package.name,
        "signature": {
            "batchable": package.signature.batchable,
            "inputs": {spec.name: _spec(spec) for spec in package.signature.inputs},
            "outputs": {spec.name: _spec(spec) for spec in package.signature.outputs},
        },
        "columns": {name: list(columns) for name, columns in package.columns.items()},
        "labels": {name: list(labels) for name, labels in package.labels.items()},
        "passes": list(package.passes),
        "waivers": {waiver.check: waiver.reason for waiver in package.waivers},
        "parts": {blob.title: blob.digest for blob in package.blobs},
        "signatures": [blob.digest for blob in package.signature_blobs],
        **{name: document for name, document in documents.items() if document is not None},
    }


def _spec(spec: TensorSpec) -> dict[str, Any]:
    return {"datatype": spec.datatype.wire_name, "shape": list(spec.shape)}
