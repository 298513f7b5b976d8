"""What a follower asks of a registry, so that others than our own can be followed."""

from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from serving.registry.catalogue import Pushed
from serving.registry.names import Alias, Version


class Source(Protocol):
    """Tells what an alias names and hands that out; entered for each look.

    Raises RegistryError, PackageError and OSError.
    """

    def __enter__(self) -> Self:
        """Begin a look."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> bool | None:
        """End a look."""

    def resolve(self, reference: Alias, /) -> Pushed:
        """Return the package that an alias names now."""

    def pull(self, version: Version, path: Path, /) -> Pushed:
        """Write a package, verified, to a folder that is not there yet."""
