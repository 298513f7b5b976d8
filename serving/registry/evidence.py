"""What the stages before a release leave as evidence: which facts a record of each kind may hold. Pure.

A record tells of a stage, it does not replace its files: those are named by their digests.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from serving.config import nearest
from serving.errors import RegistryError
from serving.registry.names import check_digest

_Types = tuple[type, ...]
_OBJECT: _Types = (dict,)
_TEXT: _Types = (str,)
_COUNT: _Types = (int,)

KINDS: Mapping[str, Mapping[str, _Types]] = MappingProxyType(
    {
        "data": {
            "digests": _OBJECT, "rows": _COUNT, "schema": _OBJECT, "profile": _TEXT, "source": _TEXT,
            "row_digests": _OBJECT,
        },
        "train": {
            "parameters": _OBJECT, "metrics": _OBJECT, "seeds": _OBJECT, "digests": _OBJECT, "commit": _TEXT,
            "lock": _TEXT, "command": _TEXT,
        },
        "evaluate": {
            "metrics": _OBJECT, "folds": _OBJECT, "train_metrics": _OBJECT, "slices": _OBJECT, "fairness": _OBJECT,
            "digests": _OBJECT, "rows": _COUNT,
        },
        "automl": {
            "tool": _TEXT, "trials": _COUNT, "best": _OBJECT, "space": _OBJECT, "seeds": _OBJECT, "digests": _OBJECT,
        },
        "note": {"text": _TEXT, "digests": _OBJECT},
    }
)  # fmt: skip
"""The kinds of record that people and pipelines write, and their facts with the JSON types of each.

`digests` names files by their SHA-256. `metrics` are numbers by name on held-out rows, `train_metrics` on the training
rows, `folds` lists of numbers by metric, one per fold. `commit` is the code's, `lock` the digest of the environment's
lock file, `profile` that of the reference profile, `row_digests` names a blob.
"""


def check_evidence(kind: str, facts: Mapping[str, Any]) -> None:
    """Refuse facts that a record of this kind does not have. Raises RegistryError."""
    if kind not in KINDS:
        raise RegistryError(f"'{kind}' is no kind of evidence{nearest(kind, KINDS)}")
    if not facts:
        raise RegistryError(f"a record of kind '{kind}' without facts; it can have: {', '.join(KINDS[kind])}")
    for name, value in facts.items():
        if name not in KINDS[kind]:
            raise RegistryError(f"a record of kind '{kind}' has no '{name}'{nearest(name, KINDS[kind])}")
        if not _fits(value, KINDS[kind][name]):
            expected = _JSON_NAMES[KINDS[kind][name]]
            raise RegistryError(f"'{name}' of a record of kind '{kind}' is {value!r:.80}, expected {expected}")
    for digest in facts.get("digests", {}).values():
        check_digest(str(digest))
    _check_numbers(facts)


def _check_numbers(facts: Mapping[str, Any]) -> None:
    """Refuse metrics that are no numbers, and folds that are no lists of them."""
    for metric, values in facts.get("folds", {}).items():
        if not isinstance(values, list) or len(values) < 2 or not all(map(_is_number, values)):
            raise RegistryError(f"'folds' of '{metric}' is {values!r:.80}, expected two or more numbers, one per fold")
    for name in ("metrics", "train_metrics"):
        for metric, value in facts.get(name, {}).items():
            if not _is_number(value):
                raise RegistryError(f"'{name}' of '{metric}' is {value!r:.80}, expected a number")


_JSON_NAMES = {_OBJECT: "an object", _TEXT: "text", _COUNT: "a whole number from 0"}


def _fits(value: Any, types: _Types) -> bool:
    return isinstance(value, types) and not isinstance(value, bool) and not (isinstance(value, int) and value < 0)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
