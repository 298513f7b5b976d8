"""The parts of a package: their media types, the files they are called, and descriptors that point at them. Pure."""

import enum
import hashlib
import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from serving.errors import PackageError

DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
TITLE_CHARACTERS_MAX = 255
JSON_BYTES_MAX = 64 << 20
"""The most bytes of a part that is JSON or text, and of a file of a pipeline; such a part is read whole."""


class Part(enum.Enum):
    """A kind of part. `title` is its file's name in an unpacked folder.

    Weights are called as the graph calls them, and files as the steps of a pipeline do.
    """

    def __init__(self, media_type: str, title: str) -> None:
        self.media_type = media_type
        self.title = title

    CONFIG = ("application/vnd.penstock.config.v1+json", "package.json")
    MODEL = ("application/vnd.penstock.model.v1+onnx", "model.onnx")
    WEIGHTS = ("application/vnd.penstock.weights.v1", "")
    PROFILE = ("application/vnd.penstock.profile.v1+zip", "profile.npz")
    PARITY = ("application/vnd.penstock.parity.v1+json", "parity.json")
    EVALUATION = ("application/vnd.penstock.evaluation.v1+json", "evaluation.json")
    GOLDEN = ("application/vnd.penstock.golden.v1+zip", "golden.npz")
    LINEAGE = ("application/vnd.penstock.lineage.v1+json", "lineage.json")
    LICENCE = ("application/vnd.penstock.licence.v1", "LICENCE.txt")
    FILE = ("application/vnd.penstock.file.v1", "")

    @property
    def is_small(self) -> bool:
        """Whether the part is bounded by JSON_BYTES_MAX: JSON, text, or a file of a pipeline."""
        return self in {Part.LICENCE, Part.FILE} or self.media_type.endswith("+json")


PARTS_BY_MEDIA_TYPE = {part.media_type: part for part in Part}
_TITLES = frozenset(part.title for part in Part if part.title)


@dataclass(frozen=True, slots=True)
class Descriptor:
    """Points at a blob: its media type, its digest (`sha256:` and 64 hex digits), its length, and its file's name."""

    media_type: str
    digest: str
    bytes_count: int
    title: str = ""

    @property
    def part(self) -> Part:
        """The kind of part that this is."""
        return PARTS_BY_MEDIA_TYPE[self.media_type]


def digest_of(data: bytes) -> str:
    """Return the digest of bytes, as descriptors write it."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def check_title(title: str, part: Part) -> None:
    """Refuse a file name that is not the part's own or, for weights and files, that leads out of its folder."""
    if part.title:
        if title != part.title:
            raise PackageError(f"part {part.media_type} is called {title!r}, expected '{part.title}'")
        return
    components = title.split("/")
    fits = len(title) <= TITLE_CHARACTERS_MAX and title.isprintable() and "\\" not in title
    plain = str(PurePosixPath(title)) == title and not any(name.startswith(".") or not name for name in components)
    if not (fits and plain and len(components) <= 2) or title in _TITLES:
        kind = "weights are" if part is Part.WEIGHTS else "a file is"
        raise PackageError(f"{kind} called {title!r}, expected a visible file beside the graph or one folder below it")
