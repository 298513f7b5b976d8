"""The reference profile: how the features of a model were distributed when it was trained, as counts in fixed slots.

A number has 32 bins: below the smallest, 30 between quantiles of the reference, above the largest; then a slot for NaN
and one for infinities. A category has a slot for each of at most 62 known keys, one for what is unseen and one for what
is missing. Counts are exact and add up over batches, instances and replicas; everything else derives from them.

The profile travels as an `.npz` of bounded size, without pickle, the same bytes for the same data. Numpy only: this
knows no model, no package and no server, so that converters can use it.
"""

import enum
import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from serving.errors import ConfigError
from serving.statistics.array_file import ArrayFile
from serving.statistics.derived import OF_NUMBERS, Derivation, Deriver, Transform, derivations, names_of

BINS = 32
EDGES = BINS - 1
NAN_SLOT, INF_SLOT = BINS, BINS + 1
NUMBER_SLOTS = BINS + 2
KEYS_MAX = 62
SLOTS_MAX = KEYS_MAX + 2
"""A row of a block of counts has so many slots; a feature uses the first `Feature.slots` of them."""
FEATURES_MAX = 1024
COLUMNS_PER_TENSOR_MAX = 256
"""Of a tensor with more elements per row, so many evenly spaced ones are watched."""
KEY_CHARACTERS_MAX = 200
"""Longer texts are never known keys."""
NAME_CHARACTERS_MAX = 200
SPREAD_MIN = 1e-150
"""A smaller spread has no use as a unit: its inverse, squared, would not be finite."""
_MARGIN = 1e-6  # of a spread: so far beyond the sample a value still counts as within its range
DEVIATION_MAX = 1e6
"""A value counts in sums and squares as at most so many spreads from the centre."""

FILE_BYTES_MAX = 4 << 20
_FILE = ArrayFile(
    "a reference profile",
    1,
    {"edges": np.dtype("<f8"), "counts": np.dtype("<u4"), "moments": np.dtype("<f8")},
    FILE_BYTES_MAX,
)

Counts = NDArray[np.int64]
Values = NDArray[Any]


class Kind(enum.Enum):
    """What the values of a feature are."""

    NUMBER = "number"
    CATEGORY = "category"
    """Whole numbers `keys[0]` to `keys[-1]` without gaps: a direct index."""
    TEXT = "text"


class Role(enum.Enum):
    """On which side of the model a feature stands."""

    INPUT = "input"
    OUTPUT = "output"


@dataclass(frozen=True, slots=True, eq=False)
class Feature:
    """One feature and its reference.

    Element `column` of a row of `tensor`, in row-major order. `edges` are the 31 edges of a number's bins, ascending
    float64, empty for categories. `keys` are the known ones of a category. `counts` are int64 [slots]. Deviations
    z = (x - centre) / spread of finite numbers have the sum `total` and the sum of squares `squares`.

    With a `derivation` the values are not elements of a row but derived from it; `column` says which of several. Of a
    confidence, `held_out` counts labelled rows by slot and `held_out_right` those that were predicted right.
    """

    name: str
    tensor: str
    column: int
    role: Role
    kind: Kind
    edges: NDArray[np.float64]
    keys: tuple[int, ...] | tuple[str, ...]
    counts: Counts
    centre: float
    spread: float
    total: float
    squares: float
    derivation: Derivation = Derivation.ELEMENT
    held_out: Counts | None = None
    held_out_right: Counts | None = None

    @property
    def slots(self) -> int:
        """How many slots its counts have."""
        return NUMBER_SLOTS if self.kind is Kind.NUMBER else len(self.keys) + 2

    @property
    def missing_slot(self) -> int:
        """The slot of NaN, or of what is missing in a category."""
        return NAN_SLOT if self.kind is Kind.NUMBER else len(self.keys) + 1

    def slots_of(self, values: Values) -> NDArray[np.int64]:
        """Return the slot of every value of a column."""
        if self.kind is Kind.TEXT:
            return text_slots(values, self.keys)
        if self.kind is Kind.CATEGORY:
            return category_slots(values, int(self.keys[0]), len(self.keys))
        return number_slots(values, self.edges)

    def slot_names(self) -> list[str]:
        """Return what each slot counts, for people."""
        if self.kind is not Kind.NUMBER:
            return [str(key) for key in self.keys] + ["unseen", "missing"]
        inner = [f"{low:.6g} to {high:.6g}" for low, high in zip(self.edges[:-1], self.edges[1:], strict=True)]
        return [f"below {self.edges[0]:.6g}", *inner, f"above {self.edges[-1]:.6g}", "NaN", "infinite"]


@dataclass(frozen=True, slots=True, eq=False)
class ReferenceProfile:
    """The features of a model and how many rows they were counted on.

    `data_digest` names the data. `is_self_reference`: the rows were the first that a server saw, nobody vouches for
    them. `transforms` are what rows of an input are measured by, by its name. Raises ConfigError for what cannot be a
    profile.
    """

    features: tuple[Feature, ...]
    rows: int
    data_digest: str
    is_self_reference: bool = False
    transforms: Mapping[str, Transform] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 1 <= len(self.features) <= FEATURES_MAX:
            raise ConfigError(f"a profile has 1 to {FEATURES_MAX} features, not {len(self.features)}")
        if not 1 <= self.rows < 1 << 32:
            raise ConfigError(f"a profile is counted on 1 to 2^32 - 1 rows, not {self.rows}")
        if len({feature.name for feature in self.features}) != len(self.features):
            raise ConfigError("two features of a profile have the same name; give every column a name of its own")

    @classmethod
    def of_tensors(
        cls, inputs: Mapping[str, Values], outputs: Mapping[str, Values], *,
        names: Mapping[str, Sequence[str]] | None = None, kinds: Mapping[str, Kind] | None = None,
        data_digest: str = "", is_self_reference: bool = False,
    ) -> Self:  # fmt: skip
        """Count a sample of rows: tensors of [rows, ...] by the model's own names for them.

        `names` gives the columns of a tensor names, otherwise `tensor[3]`; `kinds` says by feature name what is not
        plain from the data (texts are TEXT, whole numbers over at most 62 values CATEGORY, others NUMBER).
        """
        if not inputs or len({len(array) for array in (*inputs.values(), *outputs.values())}) != 1:
            lengths = {name: len(array) for name, array in (*inputs.items(), *outputs.items())}
            raise ConfigError(f"a profile needs inputs, and as many rows in every tensor; got {lengths}")
        features: list[Feature] = []
        derived: list[Feature] = []
        transforms: dict[str, Transform] = {}
        for role, tensors in ((Role.INPUT, inputs), (Role.OUTPUT, outputs)):
            for tensor, array in tensors.items():
                features += _features(tensor, array, role, (names or {}).get(tensor), kinds or {})
                if is_self_reference and array.dtype.kind in "OSU":
                    continue  # of long texts only the beginnings were kept
                own, transform = _derived(tensor, array, role)
                derived += own
                if transform is not None:
                    transforms[tensor] = transform
        rows = len(next(iter(inputs.values())))
        digest = data_digest or digest_of({**inputs, **outputs})
        by_name = {feature.name: feature for feature in derived}
        for feature in features:  # an element that is called so keeps its name
            by_name.pop(feature.name, None)
        kept = list(by_name.values())[: FEATURES_MAX - len(features)]
        return cls((*features, *kept), rows, digest, is_self_reference, transforms)

    def to_bytes(self) -> bytes:
        """Return the profile as the bytes of an `.npz` file, the same ones for the same profile."""
        elements = [feature for feature in self.features if feature.derivation is Derivation.ELEMENT]
        derived = [feature for feature in self.features if feature.derivation is not Derivation.ELEMENT]
        header: dict[str, Any] = {
            "rows": self.rows,
            "data_digest": self.data_digest,
            "is_self_reference": self.is_self_reference,
            "features": [_describe(feature) for feature in elements],
        }
        if derived:  # apart, so that who does not know them refuses them
            header["derived"] = [_describe_derived(feature) for feature in derived]
            header["transforms"] = {tensor: transform.to_json() for tensor, transform in self.transforms.items()}
        ordered = elements + derived
        numbers = [feature.edges for feature in ordered if feature.kind is Kind.NUMBER]
        moments = [[f.centre, f.spread, f.total, f.squares] for f in ordered]
        return _FILE.write(
            header,
            edges=np.array(numbers, np.float64).reshape(-1, EDGES),
            counts=np.concatenate([feature.counts for feature in ordered]).astype(np.uint32),
            moments=np.array(moments, np.float64),
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read what `to_bytes` returned; nothing in it is trusted. Raises ConfigError."""
        header, arrays = _FILE.read(data)
        try:
            described = [*header["features"], *header.get("derived", [])]
            transforms = {str(name): Transform.from_json(item) for name, item in header.get("transforms", {}).items()}
            return cls(
                tuple(_read_features(described, arrays)),
                int(header["rows"]),
                str(header["data_digest"])[:NAME_CHARACTERS_MAX],
                bool(header["is_self_reference"]),
                transforms,
            )
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, StopIteration, OverflowError) as error:
            raise ConfigError(f"the reference profile contradicts itself: {error!r}; build it again") from None


def number_slots(values: Values, edges: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the slot of each number: how many edges are not above it, or those of NaN and infinities."""
    numbers = np.asarray(values, np.float64)
    slots: NDArray[np.int64] = np.searchsorted(edges, numbers, side="right").astype(np.int64)
    slots[np.isnan(numbers)] = NAN_SLOT
    slots[np.isinf(numbers)] = INF_SLOT
    return slots


def category_slots(values: Values, first: int, known: int) -> NDArray[np.int64]:
    """Return the slot of each whole number: its distance from `first`, or `known` when unseen, `known` + 1 for NaN."""
    numbers = np.asarray(values, np.float64)
    offsets = numbers - first
    is_known = (offsets >= 0) & (offsets < known) & (offsets == np.floor(offsets))
    slots = np.where(is_known, np.where(is_known, offsets, 0).astype(np.int64), known)
    return np.where(np.isnan(numbers), known + 1, slots)


def text_slots(values: Values, keys: Sequence[int | str]) -> NDArray[np.int64]:
    """Return the slot of each text; an empty one is missing."""
    slot_of: dict[Any, int] = {key: slot for slot, key in enumerate(keys)}
    slot_of[""] = len(keys) + 1
    unseen = len(keys)
    return np.fromiter((slot_of.get(_text(value), unseen) for value in values), np.int64, len(values))


def deviations(values: Values, centre: float, spread: float) -> NDArray[np.float64]:
    """Return (x - centre) / spread of the finite values, held within `DEVIATION_MAX`."""
    numbers = np.asarray(values, np.float64)
    finite = numbers[np.isfinite(numbers)]
    with np.errstate(over="ignore"):
        return np.clip((finite - centre) * (1.0 / spread), -DEVIATION_MAX, DEVIATION_MAX)


def digest_of(tensors: Mapping[str, Values]) -> str:
    """Return a digest of arrays: names, datatypes, shapes and contents."""
    state = hashlib.sha256()
    for name in sorted(tensors):
        array = tensors[name]
        state.update(repr((name, array.dtype.str, array.shape)).encode())
        if array.dtype == np.object_:
            for value in array.reshape(-1):
                encoded = _text(value).encode()
                state.update(len(encoded).to_bytes(8, "little") + encoded)
        else:
            state.update(np.ascontiguousarray(array).tobytes())
    return f"sha256:{state.hexdigest()}"


def columns_watched(elements: int) -> NDArray[np.int64]:
    """Return which elements of a row are features: all, or `COLUMNS_PER_TENSOR_MAX` evenly spaced ones."""
    if elements <= COLUMNS_PER_TENSOR_MAX:
        return np.arange(elements, dtype=np.int64)
    return np.linspace(0, elements - 1, COLUMNS_PER_TENSOR_MAX).astype(np.int64)


def _features(
    tensor: str, array: Values, role: Role, names: Sequence[str] | None, kinds: Mapping[str, Kind]
) -> Iterable[Feature]:
    if len(array) == 0:
        raise ConfigError(f"tensor '{tensor}' has no rows to make a profile of")
    matrix = array.reshape(len(array), -1)
    elements = matrix.shape[1]
    if names is not None and len(names) != elements:
        raise ConfigError(f"tensor '{tensor}' has {elements} columns and {len(names)} names")
    for column in columns_watched(elements):
        plain = tensor if array.ndim == 1 else f"{tensor}[{column}]"
        name = names[column] if names is not None else plain
        yield _feature(name[:NAME_CHARACTERS_MAX], tensor, int(column), role, matrix[:, column], kinds.get(name))


def _derived(tensor: str, array: Values, role: Role) -> tuple[list[Feature], Transform | None]:
    """Make the derived features of a tensor, measured by what is fitted to half of the rows, counted on the other half.

    Otherwise the reference would look closer than rows that nobody has fitted anything to.
    """
    matrix = array.reshape(len(array), -1)
    matrix = matrix[:, columns_watched(matrix.shape[1])]
    wanted = list(derivations(matrix, is_output=role is Role.OUTPUT))
    transform = None
    if any(derivation in OF_NUMBERS for derivation, _ in wanted):
        transform, matrix = Transform.of(matrix[::2]), matrix[1::2]
    if not wanted:
        return [], None
    values = Deriver(tuple(wanted), np.arange(matrix.shape[1]), transform)(matrix)
    features = []
    for place, (name, (derivation, index)) in enumerate(zip(names_of(wanted, tensor), wanted, strict=True)):
        is_class = derivation is Derivation.CLASS and matrix.shape[1] <= KEYS_MAX
        kind = Kind.CATEGORY if is_class else Kind.NUMBER
        feature = _feature(name[:NAME_CHARACTERS_MAX], tensor, index, role, values[:, place], kind)
        features.append(replace(feature, derivation=derivation))
    return features, transform


def _feature(name: str, tensor: str, column: int, role: Role, values: Values, kind: Kind | None) -> Feature:
    kind = kind or _kind(values)
    keys: tuple[int, ...] | tuple[str, ...] = ()
    edges, centre, spread = np.empty(0), 0.0, 1.0
    if kind is Kind.TEXT:
        keys = _frequent(values)
    elif kind is Kind.CATEGORY:
        keys = _known_range(name, values)
    else:
        edges, centre, spread = _number_reference(values)
    empty = Feature(name, tensor, column, role, kind, edges, keys, np.empty(0, np.int64), centre, spread, 0.0, 0.0)
    counts = np.bincount(empty.slots_of(values), minlength=empty.slots).astype(np.int64)
    z = deviations(values, centre, spread) if kind is Kind.NUMBER else np.empty(0)
    return Feature(
        name, tensor, column, role, kind, edges, keys, counts, centre, spread, float(z.sum()), float((z * z).sum())
    )


def _kind(values: Values) -> Kind:
    if values.dtype.kind in "OSU":
        return Kind.TEXT
    if values.dtype.kind == "b":
        return Kind.CATEGORY
    if values.dtype.kind in "iu" and int(values.max()) - int(values.min()) < KEYS_MAX:
        return Kind.CATEGORY
    return Kind.NUMBER


def _frequent(values: Values) -> tuple[str, ...]:
    """Return the most frequent texts, ties in alphabetical order, sorted."""
    counted = Counter(_text(value) for value in values)
    counted = Counter({text: n for text, n in counted.items() if 0 < len(text) <= KEY_CHARACTERS_MAX})
    ranked = sorted(counted, key=lambda text: (-counted[text], text))
    return tuple(sorted(ranked[:KEYS_MAX]))


def _known_range(name: str, values: Values) -> tuple[int, ...]:
    numbers = np.asarray(values, np.float64)
    finite = numbers[np.isfinite(numbers)]
    if not len(finite):
        return (0,)
    low, high = int(np.floor(finite.min())), int(np.ceil(finite.max()))
    if high - low >= KEYS_MAX:
        raise ConfigError(f"feature '{name}' spans {low} to {high}; a category has at most {KEYS_MAX} keys in a row")
    return tuple(range(low, high + 1))


def _number_reference(values: Values) -> tuple[NDArray[np.float64], float, float]:
    """Return the edges of the bins, the centre and the spread of a number.

    Few distinct values get a bin each. Edges that would coincide are one, and the top edge is repeated in their stead:
    those bins stay empty.
    """
    numbers = np.asarray(values, np.float64)
    finite = np.sort(numbers[np.isfinite(numbers)])
    if not len(finite):
        return np.zeros(EDGES), 0.0, 1.0
    with np.errstate(over="ignore", invalid="ignore"):
        centre, spread = float(np.mean(finite)), float(np.std(finite))
    if not np.isfinite(centre):
        centre = 0.0
    if not (np.isfinite(spread) and spread >= SPREAD_MIN):
        spread = max(abs(centre), 1.0)
    distinct = np.unique(finite)
    begins = np.arange(len(distinct))
    if len(distinct) >= EDGES:  # else where each of 30 equal parts of the sample begins
        begins = np.unique(np.searchsorted(distinct, finite[np.arange(EDGES - 1) * len(finite) // (EDGES - 1)]))
    return _edges(distinct, begins, spread), centre, spread


def _edges(distinct: NDArray[np.float64], begins: NDArray[np.intp], spread: float) -> NDArray[np.float64]:
    """Return edges in the middle between the values that they part, so that rounding moves no value over one."""
    largest = np.finfo(np.float64).max
    margin = _MARGIN * spread
    with np.errstate(over="ignore"):
        top = min(max(distinct[-1] + margin, np.nextafter(distinct[-1], np.inf)), largest)
        bottom = max(distinct[0] - margin, -largest)
    edges = np.full(EDGES, top)
    edges[0] = bottom
    values, before = distinct[begins[1:]], distinct[begins[1:] - 1]
    middle = before / 2 + values / 2
    edges[1 : len(begins)] = np.where((middle > before) & (middle <= values), middle, values)
    return edges


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _describe(feature: Feature) -> dict[str, Any]:
    return {
        "name": feature.name,
        "tensor": feature.tensor,
        "column": feature.column,
        "role": feature.role.value,
        "kind": feature.kind.value,
        "keys": list(feature.keys),
    }


def _describe_derived(feature: Feature) -> dict[str, Any]:
    said = _describe(feature) | {"derivation": feature.derivation.value}
    if feature.held_out is not None and feature.held_out_right is not None:
        said |= {"held_out": feature.held_out.tolist(), "held_out_right": feature.held_out_right.tolist()}
    return said


def _read_features(described: Sequence[Mapping[str, Any]], arrays: Mapping[str, Values]) -> Iterable[Feature]:
    """Put the features together of what the file holds, checking what counting relies on."""
    if len(described) > FEATURES_MAX or arrays["moments"].shape != (len(described), 4):
        raise ValueError("moments do not fit the features")
    edges = iter(arrays["edges"].reshape(-1, EDGES))
    begin = 0
    for item, moments in zip(described, arrays["moments"].tolist(), strict=True):
        kind = Kind(item["kind"])
        own = next(edges) if kind is Kind.NUMBER else np.empty(0)
        slots = NUMBER_SLOTS if kind is Kind.NUMBER else len(item["keys"]) + 2
        counts = arrays["counts"][begin : begin + slots].astype(np.int64)
        begin += slots
        centre, spread, total, squares = moments
        feature = Feature(
            str(item["name"])[:NAME_CHARACTERS_MAX], str(item["tensor"])[:NAME_CHARACTERS_MAX], int(item["column"]),
            Role(item["role"]), kind, own, _read_keys(kind, item["keys"]), counts, centre, spread, total, squares,
            derivation=Derivation(item.get("derivation", "element")), held_out=_read_held_out(item, slots, "held_out"),
            held_out_right=_read_held_out(item, slots, "held_out_right"),
        )  # fmt: skip
        _check(feature)
        yield feature
    if begin != len(arrays["counts"]) or next(edges, None) is not None:
        raise ValueError("more counts or edges than features")


def _read_held_out(item: Mapping[str, Any], slots: int, name: str) -> Counts | None:
    if name not in item:
        return None
    counts = np.array(item[name], np.int64)
    if counts.shape != (slots,) or (counts < 0).any() or (counts > np.array(item["held_out"], np.int64)).any():
        raise ValueError("counts of held-out rows")
    return counts


def _read_keys(kind: Kind, keys: Sequence[Any]) -> tuple[int, ...] | tuple[str, ...]:
    if len(keys) > KEYS_MAX or (kind is Kind.NUMBER and keys):
        raise ValueError("too many keys")
    if kind is Kind.CATEGORY:
        first = int(keys[0])
        if abs(first) > 1 << 53 or list(keys) != list(range(first, first + len(keys))):
            raise ValueError("keys of a category follow each other")
        return tuple(int(key) for key in keys)
    return tuple(str(key)[:KEY_CHARACTERS_MAX] for key in keys)


def _check(feature: Feature) -> None:
    numbers = [feature.centre, feature.spread, feature.total, feature.squares]
    if not np.isfinite(numbers).all() or feature.spread < SPREAD_MIN or len(feature.counts) != feature.slots:
        raise ValueError(f"moments or counts of '{feature.name}'")
    if not 0 <= feature.column < 1 << 40:
        raise ValueError(f"column of '{feature.name}'")
    if not np.isfinite(feature.edges).all() or (np.diff(feature.edges) < 0).any():
        raise ValueError(f"edges of '{feature.name}'")
