"""Opens the files of a package, a folder or a plain tar, without trusting any of them.

A folder is walked with O_NOFOLLOW, so that no symbolic link inside it leads anywhere, and only regular files are read.
A tar is indexed once, without extracting: only plain members with the names of a layout, each once; links, devices,
sparse files and compression are refused. Blobs are read in chunks and hashed on the way; their bytes are to be trusted
only when the last chunk has come.
"""

import hashlib
import os
import re
import stat
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from serving.errors import PackageError
from serving.package.parts import Descriptor

CHUNK_BYTES = 1 << 20
MEMBERS_MAX = 10_000  # tarfile keeps them all in memory
_HEADER_BYTES_MAX = 64 << 10  # of a tar's extended header; a layout needs none
_BLOBS = "blobs/sha256/"
_MEMBER = re.compile(r"oci-layout|index\.json|blobs/sha256/[0-9a-f]{64}")
_FOLDERS = frozenset({"", ".", "blobs", "blobs/sha256"})


class Storage(Protocol):
    """The files of a layout by their name in it."""

    @property
    def path(self) -> Path:
        """The folder or the tar."""

    def open(self, name: str) -> "OpenFile":
        """Open a file of the layout. Raises PackageError when it is missing or no regular file."""


@dataclass(frozen=True, slots=True)
class OpenFile:
    """A file of a layout, at its first byte; `length` is how many bytes of the stream are its own. Close it."""

    stream: IO[bytes]
    length: int


class FolderStorage:
    """A package that is a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self, name: str) -> OpenFile:
        """See Storage."""
        *folders, file = name.split("/")
        with _os_errors(self.path, name):
            folder = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                for step in folders:
                    inner = os.open(step, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
                    os.close(folder)
                    folder = inner
                opened = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
            finally:
                os.close(folder)
        facts = os.fstat(opened)
        if not stat.S_ISREG(facts.st_mode):
            os.close(opened)
            raise PackageError(f"{self.path}: {name} is no regular file")
        return OpenFile(os.fdopen(opened, "rb"), facts.st_size)


class TarStorage:
    """A package that is a plain tar. It is indexed when made; the file must not change until the last `open`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with _os_errors(path, ""), path.open("rb") as stream:
            self._members = _index(path, stream)

    def open(self, name: str) -> OpenFile:
        """See Storage."""
        if name not in self._members:
            raise PackageError(f"{self.path}: {name} is missing")
        start, length = self._members[name]
        with _os_errors(self.path, name):
            stream = self.path.open("rb")
            stream.seek(start)
        return OpenFile(stream, length)


def open_storage(path: Path) -> Storage:
    """Open a folder or a tar. Raises PackageError."""
    if path.is_dir():
        return FolderStorage(path)
    if path.exists() and not path.is_file():
        raise PackageError(f"{path}: neither a folder nor a file, so no package")
    return TarStorage(path)


def read_small(storage: Storage, name: str, bytes_max: int) -> bytes:
    """Read a whole file of at most `bytes_max` bytes, whose digest nobody knows."""
    file = storage.open(name)
    with file.stream, _os_errors(storage.path, name):
        if file.length > bytes_max:
            raise PackageError(f"{storage.path}: {name} has {file.length} bytes, expected at most {bytes_max}")
        return file.stream.read(file.length)


def blob_chunks(storage: Storage, blob: Descriptor) -> Iterator[bytes]:
    """Yield a blob's bytes. Raises PackageError, at the latest after the last chunk, unless they are what they must be.

    A blob of another length is refused before the first chunk.
    """
    name = _BLOBS + blob.digest.removeprefix("sha256:")
    file = storage.open(name)
    with file.stream, _os_errors(storage.path, name):
        if file.length != blob.bytes_count:
            raise PackageError(
                f"{storage.path}: blob {_called(blob)} has {file.length} bytes, its descriptor says {blob.bytes_count}"
            )
        yield from checked_chunks(storage.path, blob, _stream_chunks(file))


def checked_chunks(where: Path | str, blob: Descriptor, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield chunks that came from anywhere, and raise PackageError unless they make up the blob."""
    key, left = hashlib.sha256(), blob.bytes_count
    for chunk in chunks:
        left -= len(chunk)
        if left < 0:
            raise PackageError(f"{where}: blob {_called(blob)} is longer than its {blob.bytes_count} bytes")
        key.update(chunk)
        yield chunk
    if left:
        raise PackageError(f"{where}: blob {_called(blob)} ends {left} bytes early")
    if f"sha256:{key.hexdigest()}" != blob.digest:
        raise PackageError(
            f"{where}: blob {_called(blob)} is damaged: its bytes have the digest sha256:{key.hexdigest()}"
        )


def _called(blob: Descriptor) -> str:
    return f"'{blob.title}' ({blob.digest})" if blob.title else blob.digest


def _stream_chunks(file: OpenFile) -> Iterator[bytes]:
    left = file.length
    while left and (chunk := file.stream.read(min(CHUNK_BYTES, left))):
        left -= len(chunk)
        yield chunk


@contextmanager
def _os_errors(path: Path, name: str) -> Iterator[None]:
    """Translate what the system says about a file of a package."""
    try:
        yield
    except FileNotFoundError:
        raise PackageError(f"{path}: {name or 'no such file'}{' is missing' if name else ''}") from None
    except OSError as error:  # also ELOOP and ENOTDIR, which is how O_NOFOLLOW refuses a symbolic link
        raise PackageError(f"{path}: {name or 'the file'} cannot be opened as a plain file: {error.strerror}") from None


# ---- tar -----------------------------------------------------------------------------------------------------------


class _HeaderReads:
    """A stream for tarfile that refuses to read more at a time than a header has, since it reads those whole."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.tell, self.seek = stream.tell, stream.seek

    def read(self, count: int) -> bytes:
        if not 0 <= count <= _HEADER_BYTES_MAX:
            raise PackageError(f"an extended header of {count} bytes, expected at most {_HEADER_BYTES_MAX}")
        return self._stream.read(count)


def _index(path: Path, stream: IO[bytes]) -> dict[str, tuple[int, int]]:
    """Return where each member's bytes begin, and how many they are."""
    try:
        archive = tarfile.TarFile(fileobj=_HeaderReads(stream), mode="r", errorlevel=2)  # type: ignore[arg-type]
        return _index_members(archive, os.fstat(stream.fileno()).st_size)
    except (tarfile.TarError, ValueError, OverflowError) as error:
        raise PackageError(f"{path}: not a plain tar of a package (compressed ones are not taken): {error}") from None
    except PackageError as error:
        raise PackageError(f"{path}: {error}") from None


def _index_members(archive: tarfile.TarFile, file_bytes: int) -> dict[str, tuple[int, int]]:
    members: dict[str, tuple[int, int]] = {}
    for count, member in enumerate(iter(archive.next, None)):
        if count >= MEMBERS_MAX:
            raise PackageError(f"the tar has more than {MEMBERS_MAX} members")
        name = _member_name(member)
        if name is None:
            continue
        if name in members:
            raise PackageError(f"member {name} comes twice")
        if not 0 <= member.size <= file_bytes - member.offset_data:
            raise PackageError(f"the tar ends within {name}; it was cut off")
        members[name] = (member.offset_data, member.size)
    return members


def _member_name(member: tarfile.TarInfo) -> str | None:
    """Return a member's name in the layout, None for a folder of the layout. Raises PackageError for all else."""
    name = member.name.removeprefix("./")
    if member.isdir() and name in _FOLDERS:
        return None
    if member.type not in {tarfile.REGTYPE, tarfile.AREGTYPE} or member.sparse is not None:
        raise PackageError(f"member {member.name[:200]!r} is no plain file (type {member.type!r})")
    if not _MEMBER.fullmatch(name):
        raise PackageError(
            f"member {member.name[:200]!r} is none of a package, which holds oci-layout, index.json and {_BLOBS}..."
        )
    return name
