"""The files that steps name: labels, tokenizers, Python of the model's own. Knows folders and bytes, and no step.

They lie beside the graph: in the version's folder, or in the package that it came in, whose bytes were verified.
"""

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from serving.config import PipelineConfig, nearest

FILE_BYTES_MAX = 64 << 20
"""The longest file that a step may name."""
NAMING_KEYS = ("file", "labels_file")
"""The keys of a step whose value is the name of a file."""


class UnreadableFileError(Exception):
    """A file cannot be read; the message says which and why."""


class Files(Protocol):
    """Where files are read from, by the names that steps give them. Any thread."""

    def read(self, name: str) -> bytes:
        """Return the bytes of a file, of at most FILE_BYTES_MAX. Raises UnreadableFileError."""


@dataclass(frozen=True, slots=True)
class FolderFiles:
    """The files in a version's folder, whatever is named: nothing outside of it is read."""

    folder: Path

    def read(self, name: str) -> bytes:
        """See `Files`."""
        try:
            path = (self.folder / name).resolve()
            if not path.is_relative_to(self.folder.resolve()):
                raise UnreadableFileError(f"{name!r} lies outside of the version's folder {self.folder.name}/")
            # A pipe would be waited for, for ever, if it were opened in the usual way.
            with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise UnreadableFileError(f"{name!r} in the version's folder is no file")
                data = file.read(FILE_BYTES_MAX + 1)
        except (OSError, ValueError, RuntimeError) as error:  # also a name with a NUL, links that lead round
            reason = getattr(error, "strerror", None) or str(error)
            raise UnreadableFileError(f"{name!r} in the version's folder cannot be read: {reason}") from None
        if len(data) > FILE_BYTES_MAX:
            raise UnreadableFileError(f"{name!r} is longer than {FILE_BYTES_MAX} bytes")
        return data


@dataclass(frozen=True, slots=True)
class PackedFiles:
    """The files of a package, by their names, verified when the package was read."""

    contents: Mapping[str, bytes] = field(default_factory=dict)

    def read(self, name: str) -> bytes:
        """See `Files`."""
        if name not in self.contents:
            known = nearest(name, self.contents) if self.contents else ", which holds no files of steps"
            raise UnreadableFileError(f"{name!r} is not in the package{known}; pack the version again with it")
        return self.contents[name]


def files_named(config: PipelineConfig) -> tuple[str, ...]:
    """Return the names of the files that the steps of a pipeline need, each once."""
    steps = (*config.preprocess, *config.postprocess)
    names = (step[key] for step in steps for key in NAMING_KEYS if isinstance(step.get(key), str))
    return tuple(sorted({str(name) for name in names}))
