"""Where the features of a model lie in the arrays of a batch, as tables for counting.

A layout joins a reference profile with a signature, once. Pure.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from serving.errors import ConfigError
from serving.statistics.derived import OF_NUMBERS, PROJECTIONS, Derivation, Deriver, Transform
from serving.statistics.profile import EDGES, SLOTS_MAX, Feature, Kind, ReferenceProfile, Role, columns_watched
from serving.types import DYNAMIC, Datatype, Signature, TensorSpec

COLUMN, KNOWN, FIRST_KEY = range(3)
"""Columns of `TensorTable.table`."""
CENTRE, INVERSE = EDGES, EDGES + 1
"""Columns of `TensorTable.reals` behind the edges."""

COUNTED: tuple[Datatype, ...] = tuple(datatype for datatype in Datatype if datatype is not Datatype.BF16)
"""Datatypes whose values are looked at. BF16 lies as its bits, which no numpy arithmetic understands."""


@dataclass(frozen=True, slots=True, eq=False)
class TensorTable:
    """The features of one tensor, which are rows [first, last) of a block.

    `position` counts inputs, then outputs, in the model's order. `elements` per row is what a batch's array must have.
    `table` is int64 [features, 3], `reals` float64 [features, 33]. `texts` are the slots of known texts by feature.
    With `derive` the features are columns of what it makes of a row.
    """

    position: int
    elements: int
    first: int
    last: int
    table: NDArray[np.int64]
    reals: NDArray[np.float64]
    texts: tuple[dict[Any, int], ...] = ()
    derive: Deriver | None = None
    is_of_texts: bool = False

    @classmethod
    def of(
        cls, position: int, elements: int, first: int, features: Sequence[Feature], derive: Deriver | None = None
    ) -> Self:  # fmt: skip
        """Make the tables of a tensor's features, which follow each other in a block from row `first` on."""
        table = np.zeros((len(features), 3), np.int64)
        reals = np.zeros((len(features), EDGES + 2), np.float64)
        for row, feature in enumerate(features):
            table[row, COLUMN] = feature.column if derive is None else row
            if feature.kind is Kind.CATEGORY:
                table[row, KNOWN], table[row, FIRST_KEY] = len(feature.keys), int(feature.keys[0])
            elif feature.kind is Kind.NUMBER:
                reals[row, :EDGES] = feature.edges
                reals[row, CENTRE], reals[row, INVERSE] = feature.centre, 1.0 / feature.spread
        texts = tuple(_text_slots(feature) for feature in features if feature.kind is Kind.TEXT)
        is_of_texts = derive is not None and derive.is_of_texts
        return cls(position, elements, first, first + len(features), table, reals, texts, derive, is_of_texts)


class Layout:
    """The features of a profile in the order in which the arrays of a batch hold them. Immutable.

    Raises ConfigError when the profile speaks of what the model does not have.
    """

    def __init__(self, profile: ReferenceProfile, signature: Signature) -> None:
        self.profile = profile
        self.features: tuple[Feature, ...] = ()
        self.tables: tuple[TensorTable, ...] = ()
        tables: list[TensorTable] = []
        features: list[Feature] = []
        for position, (role, spec, elements) in enumerate(tensors(signature)):
            own = [f for f in profile.features if f.role is role and f.tensor == spec.name]
            if not own:
                continue
            plain = [feature for feature in own if feature.derivation is Derivation.ELEMENT]
            if plain:
                _check(plain, spec, elements)
                tables.append(TensorTable.of(position, elements, len(features), plain))
                features += plain
            if derived := [feature for feature in own if feature.derivation is not Derivation.ELEMENT]:
                derive = _deriver(derived, profile.transforms.get(spec.name), spec, elements)
                tables.append(TensorTable.of(position, elements, len(features), derived, derive))
                features += derived
        if len(features) != len(profile.features):
            strange = next(f for f in profile.features if f not in features)
            raise ConfigError(f"the reference profile has {strange.role.value} '{strange.tensor}', the model has not")
        self.tables, self.features = tuple(tables), tuple(features)
        self.input_count = len(signature.inputs)
        self.reference = np.zeros((len(features), SLOTS_MAX), np.int64)
        for row, feature in enumerate(features):
            self.reference[row, : feature.slots] = feature.counts


def tensors(signature: Signature) -> list[tuple[Role, TensorSpec, int]]:
    """Return every input, then every output, and how many elements a row of it has; 0 when that is open or unread."""
    both = [(Role.INPUT, spec) for spec in signature.inputs] + [(Role.OUTPUT, spec) for spec in signature.outputs]
    return [(role, spec, _elements(spec, batchable=signature.batchable)) for role, spec in both]


def _elements(spec: TensorSpec, *, batchable: bool) -> int:
    dimensions = spec.shape[1:] if batchable else spec.shape
    if DYNAMIC in dimensions or spec.datatype not in COUNTED:
        return 0
    return int(np.prod(dimensions, dtype=np.int64))


def _check(features: Sequence[Feature], spec: TensorSpec, elements: int) -> None:
    for feature in features:
        if feature.column >= elements:
            place = f"column {feature.column} of '{spec.name}'"
            raise ConfigError(f"the reference profile has {place}, whose rows have {elements} elements")
        if (feature.kind is Kind.TEXT) != (spec.datatype is Datatype.BYTES):
            found = f"'{spec.name}' is {spec.datatype.name}"
            raise ConfigError(f"the reference profile has '{feature.name}' as {feature.kind.value}, but {found}")


def _deriver(features: Sequence[Feature], transform: Transform | None, spec: TensorSpec, elements: int) -> Deriver:
    """Return what derives features of a tensor. Raises ConfigError when they are not for this one."""
    watched = columns_watched(elements)
    for feature in features:
        if feature.kind is Kind.TEXT or not _fits(feature, transform, spec, len(watched)):
            raise ConfigError(f"the reference profile has '{feature.name}', which '{spec.name}' cannot have")
    needs_transform = any(feature.derivation in OF_NUMBERS for feature in features)
    columns = tuple((feature.derivation, feature.column) for feature in features)
    return Deriver(columns, watched, transform if needs_transform else None)


def _fits(feature: Feature, transform: Transform | None, spec: TensorSpec, watched: int) -> bool:
    """Say whether a derived feature is one of a tensor of which so many elements are watched.

    Its column is checked too, since the kernel goes where that leads.
    """
    derivation, is_of_texts = feature.derivation, spec.datatype is Datatype.BYTES
    if is_of_texts or derivation is Derivation.LENGTH:
        return is_of_texts and derivation is Derivation.LENGTH and feature.column < watched
    if feature.column >= (PROJECTIONS if derivation is Derivation.PROJECTION else 1):
        return False
    if derivation not in OF_NUMBERS:
        return watched > 1
    if transform is None or len(transform.centre) != watched:
        return False
    forms = {Derivation.MAHALANOBIS: transform.inverse, Derivation.RECONSTRUCTION: transform.residual}
    return derivation not in forms or forms[derivation] is not None


def _text_slots(feature: Feature) -> dict[Any, int]:
    slots: dict[Any, int] = {key: slot for slot, key in enumerate(feature.keys)}
    slots[""] = feature.missing_slot
    return slots
