"""The blobs of all packages in one OCI image layout, on a disk or in an object store that fsspec knows.

Every blob is digested on its way in and on its way out. A blob appears under its name when it is complete, never
before. Knows nothing of models, versions or aliases.
"""

import contextlib
import json
import os
import secrets
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from serving.errors import PackageError, RegistryAway, RegistryDamaged, RegistryError
from serving.package.manifest import INDEX_TYPE, layout_bytes
from serving.package.parts import Descriptor
from serving.package.storage import CHUNK_BYTES, OpenFile, checked_chunks
from serving.registry.names import check_digest

INDEX_BYTES_MAX = 64 << 20
_PARTIAL_AGE_S_MAX = 86_400.0


class BlobStore:
    """Content-addressed blobs below `root`. Threads and processes may share it: what is written twice is the same.

    Every method raises RegistryAway when the store cannot be reached or written.
    """

    def __init__(self, files: fsspec.AbstractFileSystem, root: str) -> None:
        self._files = files
        self.root = root.rstrip("/")
        self._blobs = f"{self.root}/blobs/sha256"
        self._partial = f"{self.root}/partial"
        self._is_local = isinstance(files, LocalFileSystem)

    @classmethod
    def at(cls, uri: str) -> "BlobStore":
        """Return the store at a path or URI. Raises RegistryError for a URI that nothing here can open."""
        if "://" not in uri:
            return cls(LocalFileSystem(), uri)
        try:
            # A listing that is remembered would hide what others have stored, removed or tampered with since.
            files, root = fsspec.core.url_to_fs(uri, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise RegistryError(f"store {uri} cannot be opened: {error}") from None
        return cls(files, root)

    def put(self, blob: Descriptor, chunks: Iterable[bytes]) -> None:
        """Store what the chunks make up, unless it is there, whole, already.

        Raises RegistryDamaged when they do not make up the blob.
        """
        if self.problem(blob) is None:
            return
        path = self._path(blob.digest)
        with self._translated():
            self._prepare()
            write = self._write_local if self._is_local else self._write_remote
            write(path, checked_chunks("what is stored", blob, iter(chunks)))

    def chunks(self, blob: Descriptor) -> Iterator[bytes]:
        """Yield a blob; its bytes are to be trusted when the last chunk has come.

        Raises RegistryDamaged, at the latest then, when it is missing or not what its name says.
        """
        source = self.open(blob.digest)
        with self._translated(), source.stream as stream:
            yield from checked_chunks(f"store {self.root}", blob, _read(stream, blob.bytes_count))

    def read(self, blob: Descriptor) -> bytes:
        """Return a blob whose length the caller has bounded. Raises RegistryDamaged."""
        return b"".join(self.chunks(blob))

    def open(self, digest: str) -> OpenFile:
        """Open a blob without looking at its bytes. Raises RegistryDamaged when it is missing. The caller closes it."""
        path = self._path(digest)
        with self._translated():
            try:
                return OpenFile(self._files.open(path, "rb"), int(self._files.info(path)["size"]))
            except FileNotFoundError:
                raise RegistryDamaged(f"store {self.root}: blob {digest} is missing") from None

    def problem(self, blob: Descriptor) -> str | None:
        """Say what is wrong with a blob, missing included; None when it is whole."""
        with self._translated():
            try:
                length = int(self._files.info(self._path(blob.digest))["size"])
            except FileNotFoundError:
                return "it is missing"
        if length != blob.bytes_count:
            return f"it has {length} bytes, expected {blob.bytes_count}"
        try:
            for _ in self.chunks(blob):
                pass
        except RegistryDamaged as error:
            return str(error)
        return None

    def digests(self) -> set[str]:
        """Return the digests of all blobs."""
        with self._translated():
            try:
                names = self._files.ls(self._blobs, detail=False)
            except FileNotFoundError:
                return set()
        return {"sha256:" + str(name).rpartition("/")[2] for name in names}

    def write_index(self, manifests: list[dict[str, Any]]) -> None:
        """Write the layout's index.json, which lets other tools find the packages; Penstock asks the catalogue."""
        index = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": manifests}
        with self._translated():
            self._prepare()
            self._write_file("index.json", json.dumps(index, indent=1, ensure_ascii=False).encode())

    def read_index(self) -> list[dict[str, Any]]:
        """Return the manifests that index.json lists; none when it is missing or cannot be read."""
        with self._translated():
            try:
                with self._files.open(f"{self.root}/index.json", "rb") as source:
                    index = json.loads(source.read(INDEX_BYTES_MAX))
            except (FileNotFoundError, ValueError, RecursionError):
                return []
        manifests = index.get("manifests") if isinstance(index, dict) else None
        return manifests if isinstance(manifests, list) else []

    def _prepare(self) -> None:
        """Make the layout's folders and its marker, and remove what writers left that died long ago."""
        self._files.makedirs(self._blobs, exist_ok=True)
        if self._is_local:
            self._files.makedirs(self._partial, exist_ok=True)
            for facts in self._files.ls(self._partial, detail=True):
                if time.time() - facts["mtime"] > _PARTIAL_AGE_S_MAX:
                    with contextlib.suppress(FileNotFoundError):
                        self._files.rm_file(facts["name"])
        if not self._files.exists(f"{self.root}/oci-layout"):
            self._write_file("oci-layout", layout_bytes())

    def _write_file(self, name: str, content: bytes) -> None:
        write = self._write_local if self._is_local else self._write_remote
        write(f"{self.root}/{name}", iter([content]))

    def _write_local(self, path: str, chunks: Iterator[bytes]) -> None:
        """Write under another name, flush to the disk, rename."""
        draft = f"{self._partial}/{secrets.token_hex(16)}"
        try:
            with self._files.open(draft, "wb") as target:
                for chunk in chunks:
                    target.write(chunk)
                target.flush()
                os.fsync(target.fileno())
            Path(draft).replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                self._files.rm_file(draft)
            raise
        _flush_folder(Path(path).parent)

    def _write_remote(self, path: str, chunks: Iterator[bytes]) -> None:
        """Upload, and let the object appear once it is complete."""
        target = self._files.open(path, "wb", autocommit=False)
        try:
            for chunk in chunks:
                target.write(chunk)
            target.close()
            target.commit()
        except BaseException:
            with contextlib.suppress(Exception):
                target.discard()
            with contextlib.suppress(AttributeError):  # of files that need no such thing
                target.closed = True  # or else fsspec begins another upload when it collects the file
            raise

    def _path(self, digest: str) -> str:
        return f"{self._blobs}/{check_digest(digest)[7:]}"

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Say in our words what file systems say in theirs: object stores have errors of their own beside OSError."""
        try:
            yield
        except (RegistryError, AssertionError, GeneratorExit):
            raise
        except PackageError as error:
            raise RegistryDamaged(str(error)) from None
        except OSError as error:
            raise RegistryAway(f"store {self.root} cannot be used: {error.strerror or error}") from error
        except Exception as error:
            raise RegistryAway(f"store {self.root} cannot be used: {type(error).__name__}: {error}") from error


class StoredFiles:
    """The blobs of a store as a package reads them, see `serving.package.storage.Storage`."""

    def __init__(self, store: BlobStore) -> None:
        self.path = Path(store.root)
        self._store = store

    def open(self, name: str) -> OpenFile:
        """Open `blobs/sha256/...`."""
        return self._store.open("sha256:" + name.rpartition("/")[2])


def _read(source: IO[bytes], length: int) -> Iterator[bytes]:
    """Yield what a file holds, up to one byte more than expected."""
    left = length + 1
    while left and (chunk := source.read(min(CHUNK_BYTES, left))):
        left -= len(chunk)
        yield chunk


def _flush_folder(folder: Path) -> None:
    """Make a rename last through a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
