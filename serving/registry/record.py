"""One record of the ledger: who, when, what, on which evidence; and how records are chained. Pure.

A record is stored as one line of canonical JSON. Its digest is the SHA-256 of that line, and the line holds the digest
of the record before it, so the digest of the last record, the head, vouches for every record that was ever written.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from serving.errors import RegistryError
from serving.registry.names import is_digest, is_word

GENESIS = "sha256:" + "0" * 64
"""What stands for the digest before the first record."""

RECORD_BYTES_MAX = 1 << 20
DEPTH_MAX = 32
_KEYS = frozenset({"position", "at", "who", "kind", "model", "facts", "previous"})
_FACTS: Mapping[str, Callable[[Any], bool]] = MappingProxyType({
    "sequence": lambda value: type(value) is int and value > 0,
    "package": lambda value: isinstance(value, str) and is_digest(value),
    "alias": lambda value: isinstance(value, str) and is_word(value),
})  # fmt: skip
"""Facts that mean the same in records of every kind, because the catalogue's views are made of them."""


@dataclass(frozen=True, slots=True)
class Record:
    """A record in its place: `position` counts from 1, `previous` is the digest of the record before it.

    `at` is the time in UTC as ISO 8601, `kind` what was done, `model` to which model, `facts` all that belongs to it.
    """

    position: int
    at: str
    who: str
    kind: str
    model: str
    facts: Mapping[str, Any]
    previous: str

    @property
    def text(self) -> str:
        """The record as canonical JSON, the bytes that are digested."""
        return canonical({name: getattr(self, name) for name in self.__slots__})

    @property
    def digest(self) -> str:
        """The head of the ledger when this is its last record."""
        return digest_of(self.text.encode())

    def describe(self) -> dict[str, Any]:
        """Return the record for people and machines that read it, its digest included."""
        return {**{name: getattr(self, name) for name in self.__slots__}, "digest": self.digest}


def canonical(value: object) -> str:
    """Return the one JSON text of a value: keys sorted, no spaces, UTF-8, the shortest digits that give each float.

    Raises RegistryError for what JSON cannot say, such as NaN, and beyond `RECORD_BYTES_MAX` and `DEPTH_MAX`.
    """
    try:
        _check_depth(value, DEPTH_MAX)
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        length = len(text.encode())
    except (TypeError, ValueError) as error:  # UnicodeEncodeError, of a lone surrogate, is a ValueError
        raise RegistryError(f"a record cannot hold this: {error}") from None
    if length > RECORD_BYTES_MAX:
        raise RegistryError(f"a record of {length} bytes; at most {RECORD_BYTES_MAX}: store a digest of what is long")
    return text


def parse(text: str) -> Record:
    """Read a record back. Raises RegistryError unless it is one, in canonical form."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise RegistryError("not JSON") from None
    if not isinstance(value, dict) or value.keys() != _KEYS or not _are_fields(value):
        raise RegistryError("not the fields of a record")
    record = Record(**value)
    for name, is_right in _FACTS.items():
        if name in record.facts and not is_right(record.facts[name]):
            raise RegistryError(f"a record whose {name} is {record.facts[name]!r:.80}")
    if record.text != text:
        raise RegistryError("not in canonical form")
    return record


def digest_of(content: bytes) -> str:
    """Return the SHA-256 of bytes, as OCI writes digests."""
    return "sha256:" + hashlib.sha256(content).hexdigest()


def _are_fields(value: Mapping[str, Any]) -> bool:
    texts = all(isinstance(value[name], str) for name in ("at", "who", "kind", "model", "previous"))
    return texts and type(value["position"]) is int and isinstance(value["facts"], dict)


def _check_depth(value: object, depth: int) -> None:
    if depth == 0:
        raise ValueError(f"it is nested more than {DEPTH_MAX} deep")
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise TypeError("a key is not text")
        children = list(value.values())
    else:
        children = list(value) if isinstance(value, list | tuple) else []
    for child in children:
        _check_depth(child, depth - 1)
