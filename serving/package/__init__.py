"""The package format: one immutable, content-addressed bundle of one model. Written, read, verified, signed.

A package is an OCI image layout with one manifest, as a folder or as a plain `.tar` of it:

    oci-layout                       the layout's version
    index.json                       one package, and the signatures of it
    blobs/sha256/...                 the manifest, `package.json` and the parts, each under its own digest

The digest of a package is that of its manifest. It holds no dates and no facts of the host, so the same contents give
the same digest. `contents` says what goes in, `parts` names the parts, `manifest` is the JSON (pure), `storage` opens a
folder or a tar without trusting it, `reading` and `writing` are what others call, `signing` knows keys, `arrays` writes
reproducible .npz files. Standard library and numpy only; `signing` loads `cryptography` when it is used.
"""

from serving.package.arrays import Golden, npz_bytes, read_npz
from serving.package.contents import Contents, Waiver
from serving.package.parts import Descriptor, Part
from serving.package.reading import Package, read, verify
from serving.package.writing import assemble, export, write

__all__ = [
    "Contents",
    "Descriptor",
    "Golden",
    "Package",
    "Part",
    "Waiver",
    "assemble",
    "export",
    "npz_bytes",
    "read",
    "read_npz",
    "verify",
    "write",
]
