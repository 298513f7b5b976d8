"""What people write to name a package: NAME/SEQ, NAME@ALIAS, and digests. Pure."""

import re
from dataclasses import dataclass

from serving.errors import RegistryError

_WORD = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,126}[A-Za-z0-9])?"
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_SEQUENCE = r"[1-9][0-9]{0,17}"


@dataclass(frozen=True, slots=True)
class Version:
    """A package of a model by its place in the order of pushes, which begins with 1."""

    model: str
    sequence: int

    def __str__(self) -> str:
        return f"{self.model}/{self.sequence}"


@dataclass(frozen=True, slots=True)
class Alias:
    """A name that moves from package to package of one model."""

    model: str
    name: str

    def __str__(self) -> str:
        return f"{self.model}@{self.name}"


Reference = Version | Alias


def parse_reference(text: str, expected: str = "NAME/SEQ such as fraud/3, or NAME@ALIAS") -> Reference:
    """Read NAME/SEQ or NAME@ALIAS. Raises RegistryError, which names what the caller has `expected`."""
    if match := re.fullmatch(rf"({_WORD})/({_SEQUENCE})", text):
        return Version(match[1], int(match[2]))
    if match := re.fullmatch(rf"({_WORD})@({_WORD})", text):
        return Alias(match[1], match[2])
    raise RegistryError(f"{text!r} names no package; expected {expected}")


def parse_version(text: str) -> Version:
    """Read NAME/SEQ. Raises RegistryError."""
    reference = parse_reference(text, "NAME/SEQ such as fraud/3")
    if not isinstance(reference, Version):
        raise RegistryError(f"{text!r} is an alias, which may move; expected NAME/SEQ such as {reference.model}/3")
    return reference


def parse_alias(text: str) -> Alias:
    """Read NAME@ALIAS. Raises RegistryError."""
    reference = parse_reference(text, "NAME@ALIAS such as fraud@production")
    if not isinstance(reference, Alias):
        raise RegistryError(f"{text!r} is a package; expected NAME@ALIAS such as {reference.model}@production")
    return reference


def is_word(text: str) -> bool:
    """Say whether a text can name a model, an alias or a kind of record."""
    return re.fullmatch(_WORD, text) is not None


def is_digest(text: str) -> bool:
    """Say whether a text is a digest as OCI writes them."""
    return _DIGEST.fullmatch(text) is not None


def check_word(what: str, text: str) -> str:
    """Return a name of a model, an alias or a kind of record that can be used. Raises RegistryError."""
    if not is_word(text):
        raise RegistryError(
            f"{text!r} cannot be {what}; expected up to 128 letters, digits, '.', '_' and '-', "
            "a letter or digit first and last"
        )
    return text


def check_digest(text: str) -> str:
    """Return a digest. Raises RegistryError."""
    if not is_digest(text):
        raise RegistryError(f"{text[:100]!r} is no digest; expected sha256: and 64 hexadecimal digits")
    return text
