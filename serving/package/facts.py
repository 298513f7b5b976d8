"""What a bare ONNX file says about itself in its `metadata_props`, for a model that came in no package. Pure.

The converters write `penstock.features` and `penstock.labels` (JSON lists of names) and `penstock.passes` (separated by
commas). Others may write anything there, so what does not fit is left aside.
"""

import json
from collections.abc import Mapping, Sequence

from serving.errors import PackageError
from serving.package.contents import check_columns, check_text
from serving.types import Signature, TensorSpec

FEATURES, LABELS, PASSES = "penstock.features", "penstock.labels", "penstock.passes"


def columns_of(facts: Mapping[str, str], signature: Signature) -> dict[str, tuple[str, ...]]:
    """Return the names of the columns: those of the one matrix, or of each input that is one column."""
    names = _names(facts, FEATURES)
    if len(signature.inputs) == 1 and _fits("columns", names, signature.inputs[0]):
        return {signature.inputs[0].name: names}
    alone = {spec.name: (spec.name,) for spec in signature.inputs if spec.name in names}
    return {spec.name: alone[spec.name] for spec in signature.inputs
            if spec.name in alone and _fits("columns", alone[spec.name], spec)}  # fmt: skip


def labels_of(facts: Mapping[str, str], signature: Signature) -> dict[str, tuple[str, ...]]:
    """Return the names of the classes, for each output of scores that has as many columns."""
    labels = _names(facts, LABELS)
    wide = [spec for spec in signature.outputs if len(spec.shape) == 2 and spec.shape[1] == len(labels)]
    return {spec.name: labels for spec in wide if _fits("labels", labels, spec)}


def passes_of(facts: Mapping[str, str]) -> tuple[str, ...]:
    """Return the optimisation passes that were applied."""
    names = tuple(name.strip() for name in facts.get(PASSES, "").split(",") if name.strip())
    return names if _are_texts(names) else ()


def _names(facts: Mapping[str, str], key: str) -> tuple[str, ...]:
    try:
        names = json.loads(facts.get(key, "[]"))
    except (ValueError, RecursionError):
        return ()
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return ()
    return tuple(names) if _are_texts(names) else ()


def _are_texts(names: Sequence[str]) -> bool:
    try:
        for name in names:
            check_text("a name", name)
    except PackageError:
        return False
    return True


def _fits(what: str, names: tuple[str, ...], spec: TensorSpec) -> bool:
    try:
        check_columns(what, {spec.name: names}, (spec,))
    except PackageError:
        return False
    return len(spec.shape) == 2 or (what == "columns" and len(names) == 1)
