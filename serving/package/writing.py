"""Writing a package: from contents, or blob by blob from wherever a registry keeps it.

A package appears whole or not at all: it is written under a hidden name beside its place, every file and folder is
flushed to the disk, and one rename puts it there. What is there already is never overwritten; the same package is left
as it is.
"""

import contextlib
import os
import secrets
import shutil
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import IO

from serving.errors import PackageError
from serving.package.contents import Contents, Source
from serving.package.manifest import (
    BLOB_BYTES_MAX,
    LAYERS_MAX,
    MANIFEST_BYTES_MAX,
    MANIFEST_TYPE,
    SIGNATURES_MAX,
    Manifest,
    canonical_json,
    config_bytes,
    index_bytes,
    layout_bytes,
    manifest_bytes,
    parse_manifest,
    waived_checks,
)
from serving.package.parts import JSON_BYTES_MAX, Descriptor, Part, check_title, digest_of
from serving.package.reading import Package, read
from serving.package.storage import CHUNK_BYTES, checked_chunks

Fetch = Callable[[Descriptor], Iterable[bytes]]
"""Yields a blob's bytes; what it yields is verified."""


@dataclass(frozen=True, slots=True)
class SignatureBlobs:
    """One signature of a package: the bytes of its manifest, and of each blob that this manifest names."""

    manifest: bytes
    blobs: tuple[bytes, ...]


Sign = Callable[[bytes], SignatureBlobs]
"""Signs a manifest."""


def write(contents: Contents, path: Path, *, sign: Sign | None = None) -> str:
    """Write a package as a folder, or as a tar where `path` ends in .tar; return its digest.

    `sign` is given the manifest and returns a signature to put beside it. Raises PackageError, also when something
    else is at `path` already.
    """
    with _draft(path) as draft:
        config = draft.add(config_bytes(contents), Part.CONFIG)
        layers = tuple(draft.add(source, part, title) for part, title, source in _sources(contents))
        if len(layers) > LAYERS_MAX:
            raise PackageError(f"the package has {len(layers)} parts, expected at most {LAYERS_MAX}")
        data = manifest_bytes(Manifest(contents.name, config, layers, waived_checks(contents.waivers)))
        return draft.finish(data, _signatures(sign, data))


def assemble(manifest: bytes, fetch: Fetch, path: Path, *, signatures: Sequence[SignatureBlobs] = ()) -> str:
    """Write the package of a manifest, taking each blob from `fetch`; return its digest. Raises PackageError.

    The caller compares the digest with the one that it asked for; `digest_of(manifest)` tells it before.
    """
    parsed = parse_manifest(manifest)
    with _draft(path) as draft:
        for blob in parsed.blobs:
            draft.copy(blob, fetch(blob))
        return draft.finish(manifest, signatures)


def export(package: Package, path: Path, *, sign: Sign | None = None) -> str:
    """Write a package to another place, as a folder or a tar, its signatures included; return its digest."""
    from serving.package.signing import signatures_of  # noqa: PLC0415 - it writes with what is here

    signatures = [*signatures_of(package), *_signatures(sign, package.manifest_bytes)]
    unique = list({signature.manifest: signature for signature in signatures}.values())
    return assemble(package.manifest_bytes, package.chunks, path, signatures=unique)


def _signatures(sign: Sign | None, manifest: bytes) -> list[SignatureBlobs]:
    return [] if sign is None else [sign(manifest)]


def _sources(contents: Contents) -> Iterator[tuple[Part, str, Source]]:
    """Yield the layers in their fixed order: part, title, bytes."""
    yield Part.MODEL, Part.MODEL.title, contents.model
    for title, weights in sorted(contents.weights.items()):
        check_title(title, Part.WEIGHTS)
        yield Part.WEIGHTS, title, weights
    documents = (
        (Part.PROFILE, contents.profile),
        (Part.PARITY, contents.parity),
        (Part.EVALUATION, contents.evaluation),
        (Part.GOLDEN, contents.golden),
        (Part.LINEAGE, contents.lineage),
        (Part.LICENCE, contents.licence),
    )
    for title, file in sorted(contents.files.items()):
        check_title(title, Part.FILE)
        yield Part.FILE, title, file
    for part, value in documents:
        if value is None:
            continue
        if isinstance(value, str):
            yield part, part.title, _encoded(part, value)
        elif isinstance(value, bytes | Path):
            yield part, part.title, value
        else:
            yield part, part.title, _document(part, value)


def _encoded(part: Part, text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise PackageError(f"{part.title} is not valid text and cannot be written") from None


def _document(part: Part, value: object) -> bytes:
    try:
        return canonical_json(value)
    except PackageError as error:
        raise PackageError(f"{part.title} {error}") from None


# ---- the draft -----------------------------------------------------------------------------------------------------


class _Draft:
    """A layout under a hidden name, on its way to `path`."""

    def __init__(self, folder: Path, path: Path) -> None:
        self._folder = folder
        self._path = path
        self._blobs = folder / "blobs" / "sha256"
        self._blobs.mkdir(parents=True)

    def add(self, source: Source, part: Part, title: str = "") -> Descriptor:
        """Store a blob of which nobody knows the digest yet."""
        key, count = sha256(), 0
        draft = self._blobs / "next"
        with _open_new(draft) as file:
            for chunk in _chunks(source):
                key.update(chunk)
                count += len(chunk)
                file.write(chunk)
        bytes_max = JSON_BYTES_MAX if part.is_small else BLOB_BYTES_MAX
        if count > bytes_max:
            raise PackageError(f"{title or part.title} has {count} bytes, expected at most {bytes_max}")
        draft.rename(self._blobs / key.hexdigest())
        return Descriptor(part.media_type, f"sha256:{key.hexdigest()}", count, title or part.title)

    def copy(self, blob: Descriptor, chunks: Iterable[bytes]) -> None:
        """Store a blob of a known digest, verified."""
        target = self._blobs / blob.digest.removeprefix("sha256:")
        if target.exists():  # two parts of the same bytes
            if target.stat().st_size != blob.bytes_count:
                raise PackageError(f"blob {blob.digest} is named with two lengths, of which one must be wrong")
            return
        with _open_new(target) as file:
            for chunk in checked_chunks("what came", blob, iter(chunks)):
                file.write(chunk)

    def put(self, data: bytes) -> None:
        """Store bytes under their digest."""
        self.copy(Descriptor("", digest_of(data), len(data)), [data])

    def finish(self, manifest: bytes, signatures: Sequence[SignatureBlobs]) -> str:
        """Write the manifest and the index, read the whole as others will, and put it in its place."""
        if len(manifest) > MANIFEST_BYTES_MAX:
            raise PackageError(f"the manifest has {len(manifest)} bytes, expected at most {MANIFEST_BYTES_MAX}")
        if len(signatures) > SIGNATURES_MAX:
            raise PackageError(f"the package has {len(signatures)} signatures, expected at most {SIGNATURES_MAX}")
        self.put(manifest)
        for data in (data for signature in signatures for data in (signature.manifest, *signature.blobs)):
            self.put(data)
        (package, *others) = [
            Descriptor(MANIFEST_TYPE, digest_of(data), len(data))
            for data in (manifest, *(signature.manifest for signature in signatures))
        ]
        for name, data in (("oci-layout", layout_bytes()), ("index.json", index_bytes(package, others))):
            with _open_new(self._folder / name) as file:
                file.write(data)
        read(self._folder)
        for folder in (self._blobs, self._blobs.parent, self._folder):
            _flush_folder(folder)
        self._place(package.digest)
        return package.digest

    def _place(self, digest: str) -> None:
        made = self._folder
        if self._path.suffix == ".tar":
            made = self._folder.with_name(f"{self._folder.name}.tar")
            _write_tar(self._folder, made)
        if not os.path.lexists(self._path):
            try:
                made.rename(self._path)
            except OSError:
                if not os.path.lexists(self._path):  # or else somebody was faster
                    raise
            else:
                _flush_folder(self._path.parent)
                return
        _check_is_same(made, self._path, digest)


@contextlib.contextmanager
def _draft(path: Path) -> Iterator[_Draft]:
    """Make a hidden folder beside `path`, and remove what is left of it."""
    check_place(path)
    folder = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir()
        yield _Draft(folder, path)
    except OSError as error:
        raise PackageError(f"{path} cannot be written: {error}") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        folder.with_name(f"{folder.name}.tar").unlink(missing_ok=True)


def check_place(path: Path) -> None:
    """Refuse a path that names nothing, such as an empty one. Raises PackageError."""
    if not path.name:
        raise PackageError(f"{str(path)!r} names no file or folder to write; name one")


def _check_is_same(made: Path, path: Path, digest: str) -> None:
    """Leave the same package with the same signatures alone, and refuse to replace anything else."""
    try:
        there = read(path)
    except PackageError:
        raise PackageError(f"{path} is there already and is no package; name another place") from None
    if there.digest != digest:
        raise PackageError(f"{path} holds package {there.digest} already, which is not {digest}; name another place")
    if there.signature_blobs != read(made).signature_blobs:
        raise PackageError(f"{path} holds the same package with other signatures; name another place")
    there.verify()


def _chunks(source: Source) -> Iterator[bytes]:
    if isinstance(source, bytes):
        yield source
        return
    with source.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            yield chunk


@contextlib.contextmanager
def _open_new(path: Path) -> Iterator[IO[bytes]]:
    """Create a file, and flush it to the disk when it is written."""
    with path.open("xb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_tar(folder: Path, path: Path) -> None:
    """Write a layout as a tar whose bytes depend on nothing but the layout: names sorted, no owner, no date."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    with _open_new(path) as stream, tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for file in files:
            member = tarfile.TarInfo(file.relative_to(folder).as_posix())
            member.size, member.mode = file.stat().st_size, 0o644
            with file.open("rb") as content:
                archive.addfile(member, content)
