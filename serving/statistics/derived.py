"""Features of a whole row, beside those of its elements: what no element shows alone. Numpy only.

Of an input of several numbers: the Mahalanobis distance and the reconstruction error of its principal components, which
see when numbers no longer go together as they did, and seeded random projections; of a wide one, such as an embedding,
its norm instead of the first two. Of scores: the chosen class, confidence, margin and entropy. Of texts: their length.
"""

import base64
import enum
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

DIMENSIONS_MAX = 64
"""Of wider tensors, whose matrices would be large, the norm stands for the quadratic forms."""
VECTOR_MAX = 256
PROJECTIONS = 3
TEXTS_MAX = 16
"""Columns of a tensor of texts whose lengths are watched."""
ROWS_PER_DIMENSION_MIN = 20
"""With fewer rows of reference the forms would know these rows, and find others strange."""
_VARIANCE_KEPT = 0.9
_RIDGE = 0.01
HELD = 1e3
"""So many spreads from the centre at most: what is farther is seen by the element's own feature."""
_BITS = 14

Reals = NDArray[np.float64]


class Derivation(enum.Enum):
    """How a feature's values come from a row of its tensor."""

    ELEMENT = "element"
    MAHALANOBIS = "mahalanobis"
    RECONSTRUCTION = "reconstruction"
    NORM = "norm"
    PROJECTION = "projection"
    CLASS = "class"
    CONFIDENCE = "confidence"
    MARGIN = "margin"
    ENTROPY = "entropy"
    LENGTH = "length"


CODES = {derivation: code for code, derivation in enumerate(Derivation)}
"""What the kernel calls them."""
VECTORS = 2
"""Vectors of a transform before its projections: centres, and one by the spreads."""
OF_NUMBERS = frozenset(
    (Derivation.MAHALANOBIS, Derivation.RECONSTRUCTION, Derivation.NORM, Derivation.PROJECTION)
)  # fmt: skip
"""These need the tensor's transform."""


@dataclass(frozen=True, slots=True, eq=False)
class Transform:
    """What an input's numbers are measured by: centres and spreads [d], and two symmetric forms [d, d] unless wide."""

    centre: Reals
    spread: Reals
    inverse: Reals | None
    residual: Reals | None

    @classmethod
    def of(cls, x: NDArray[Any]) -> Self:
        """Fit one to x [rows, d]. Numbers are rounded, so that the same rows give the same bytes on every machine."""
        finite = np.where(np.isfinite(numbers := x.astype(np.float64)), numbers, np.nan)
        with np.errstate(all="ignore"):
            counted = np.maximum(1, np.isfinite(finite).sum(0))
            centre = _plain(np.nansum(finite, axis=0) / counted)
            spread = _plain(np.sqrt(np.nansum((finite - centre) ** 2, axis=0) / counted))
        spread = np.where(spread > 0, spread, np.maximum(1.0, np.abs(centre)))
        one = cls(
            centre.astype(np.float32).astype(np.float64), spread.astype(np.float32).astype(np.float64), None, None
        )
        if x.shape[1] > DIMENSIONS_MAX or len(x) < ROWS_PER_DIMENSION_MIN * x.shape[1]:
            return one
        z = one.standardised(x)
        correlation = (1 - _RIDGE) * (z.T @ z) / len(z) + _RIDGE * np.eye(z.shape[1])
        return cls(one.centre, one.spread, _rounded(np.asarray(np.linalg.inv(correlation))), _residual(correlation))

    def standardised(self, x: NDArray[Any]) -> Reals:
        """Return (x - centre) / spread, 0 for what is missing or infinite, held within bounds."""
        with np.errstate(all="ignore"):
            z = (x.astype(np.float64) - self.centre) * (1.0 / self.spread)
        z[~np.isfinite(z)] = 0.0
        return np.clip(z, -HELD, HELD, out=z)

    def to_json(self) -> dict[str, Any]:
        """Return the arrays as texts; of a symmetric form its upper half, in units of its own."""
        said: dict[str, Any] = {"centre": _packed(self.centre, "<f4"), "spread": _packed(self.spread, "<f4")}
        for name, form in (("inverse", self.inverse), ("residual", self.residual)):
            if form is not None:
                unit = _unit(form)
                said[name] = {"unit": unit, "half": _packed(form[np.triu_indices(len(form))] / unit, "<i2")}
        return said

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> Self:
        """Read what `to_json` returned; nothing in it is trusted. Raises ValueError, KeyError or TypeError."""
        centre, spread = _unpacked(said["centre"], "<f4"), _unpacked(said["spread"], "<f4")
        if not 2 <= len(centre) <= VECTOR_MAX or spread.shape != centre.shape or not (spread > 0).all():
            raise ValueError("the vectors of a transform")
        if not (np.isfinite(centre).all() and np.isfinite(spread).all()):
            raise ValueError("the numbers of a transform")
        return cls(centre, spread, *(_symmetric(said.get(name), len(centre)) for name in ("inverse", "residual")))


Derive = Callable[..., None]
"""Writes the derived features of rows, see `drift.kernels.deriving`."""


class Deriver:
    """Computes derived features of one tensor: how, and which of several, with the transform that some of them need.

    Immutable. `watched` are the elements of a row that it looks at.
    """

    def __init__(
        self, columns: Sequence[tuple[Derivation, int]], watched: NDArray[np.int64], transform: Transform | None
    ) -> None:
        self.columns = tuple(columns)
        self._watched = watched
        self._transform = transform
        wide = len(watched)
        self._table = np.array([(CODES[derivation], index) for derivation, index in columns], np.int64).reshape(-1, 2)
        self._vectors: Reals = np.empty((0, wide))
        self._forms = np.zeros((2, wide, wide) if wide <= DIMENSIONS_MAX else (2, 0, 0))
        if transform is not None:
            projections = [signs(index, wide) for index in range(PROJECTIONS)]
            self._vectors = np.stack([transform.centre, 1.0 / transform.spread, *projections])
            for place, form in enumerate((transform.inverse, transform.residual)):
                if form is not None:
                    self._forms[place] = form
        self.is_of_texts = any(derivation is Derivation.LENGTH for derivation, _ in columns)

    def __call__(self, x: NDArray[Any], derive: Derive | None = None, start: int = 0, step: int = 1) -> NDArray[Any]:
        """Return the values [rows, columns] of rows `start`, `start + step`, ... of x [rows, elements] as FP32.

        `derive` is the kernel for the datatype of x, if it is to be used.
        """
        rows = len(range(start, len(x), step))
        values = np.empty((rows, len(self.columns)), np.float32)
        if derive is not None and not self.is_of_texts:
            scratch = np.empty((2, len(self._watched)))
            derive(x, start, step, self._table, self._watched, self._vectors, self._forms, scratch, values)
            return values
        sampled = x[start::step]
        seen = sampled if len(self._watched) == x.shape[1] else sampled[:, self._watched]
        z = self._transform.standardised(seen) if self._transform is not None else np.empty((0, 0))
        for column, (derivation, index) in enumerate(self.columns):
            values[:, column] = _values(derivation, index, seen, z, self._transform)
        return values


def derivations(x: NDArray[Any], *, is_output: bool) -> Iterator[tuple[Derivation, int]]:
    """Yield what is derived from a tensor whose watched columns are x [rows, d]."""
    kind, wide = x.dtype.kind, x.shape[1]
    if kind in "OSU":
        if not is_output and wide <= TEXTS_MAX:
            yield from ((Derivation.LENGTH, column) for column in range(wide))
    elif wide < 2 or kind not in "fiub":
        return
    elif is_output:
        if kind == "f":
            yield from ((one, 0) for one in (Derivation.CLASS, Derivation.CONFIDENCE, Derivation.MARGIN))
            if _are_shares(x):
                yield Derivation.ENTROPY, 0
    elif len(x) >= ROWS_PER_DIMENSION_MIN:
        if wide > DIMENSIONS_MAX:
            yield Derivation.NORM, 0
        elif len(x) // 2 >= ROWS_PER_DIMENSION_MIN * wide:
            yield Derivation.MAHALANOBIS, 0
            yield Derivation.RECONSTRUCTION, 0
        yield from ((Derivation.PROJECTION, index) for index in range(PROJECTIONS))


def names_of(columns: Sequence[tuple[Derivation, int]], tensor: str) -> list[str]:
    """Name derived features, for people."""
    several = {derivation for derivation, index in columns if index}
    return [f"{tensor}: {one.value}{f' {index}' if one in several else ''}" for one, index in columns]


def signs(index: int, wide: int) -> Reals:
    """Return a random projection [wide]: signs that depend on these two numbers alone, scaled to length 1."""
    octets = hashlib.shake_256(f"penstock projection {index} of {wide}".encode()).digest(-(-wide // 8))
    bits = np.unpackbits(np.frombuffer(octets, np.uint8))[:wide].astype(np.float64)
    return np.asarray((2.0 * bits - 1.0) / np.sqrt(wide))


def _values(derivation: Derivation, index: int, x: NDArray[Any], z: Reals, transform: Transform | None) -> NDArray[Any]:
    if derivation is Derivation.LENGTH:
        return np.fromiter((len(text) for text in x[:, index]), np.float64, len(x))
    if derivation in OF_NUMBERS:
        assert transform is not None, "bug: numbers are derived without what to measure them by"
        if derivation is Derivation.PROJECTION:
            return np.asarray(z @ signs(index, z.shape[1]))
        if derivation is Derivation.NORM:
            return np.asarray(np.sqrt((z * z).mean(axis=1)))
        form = transform.inverse if derivation is Derivation.MAHALANOBIS else transform.residual
        assert form is not None, "bug: a form is derived that was not fitted"
        return np.asarray(np.sqrt(np.maximum(0.0, ((z @ form) * z).sum(axis=1))))
    return _of_scores(derivation, x.astype(np.float64))


def _of_scores(derivation: Derivation, scores: Reals) -> NDArray[Any]:
    """Return the chosen class, and how sure it is; NaN where a score is."""
    if derivation is Derivation.CLASS:
        return np.where(np.isnan(scores).any(axis=1), np.nan, scores.argmax(axis=1))
    if derivation is Derivation.CONFIDENCE:
        return np.asarray(scores.max(axis=1))
    if derivation is Derivation.MARGIN:
        with np.errstate(invalid="ignore"):
            top = np.partition(scores, -2, axis=1)
            return np.asarray(top[:, -1] - top[:, -2])
    with np.errstate(all="ignore"):
        return np.asarray(-np.where(scores > 0, scores * np.log(scores), 0.0 * scores).sum(axis=1))


def _are_shares(x: NDArray[Any]) -> bool:
    """Say whether every row looks like probabilities."""
    with np.errstate(invalid="ignore"):
        return bool((x >= 0).all() and np.allclose(x.sum(axis=1, dtype=np.float64), 1.0, atol=1e-3))


def _residual(correlation: Reals) -> Reals:
    """Return the projector to what the first principal components, with 90 % of the variance, leave out."""
    variances, directions = np.linalg.eigh(correlation)
    share = np.cumsum(variances[::-1]) / variances.sum()
    kept = min(int(np.searchsorted(share, _VARIANCE_KEPT)) + 1, len(share) - 1)
    first = directions[:, ::-1][:, :kept]
    return _rounded(np.eye(len(share)) - first @ first.T)


def _rounded(form: Reals) -> Reals:
    """Make a form symmetric, in whole multiples of its unit."""
    unit = _unit(form)
    return np.asarray(np.round((form + form.T) / (2.0 * unit)) * unit)


def _unit(form: Reals) -> float:
    """Return a power of two of which no number of a form has more than fit 16 bits."""
    return float(2.0 ** (np.ceil(np.log2(np.abs(form).max())) - _BITS))


def _packed(array: Reals, dtype: str) -> str:
    return base64.b64encode(array.astype(dtype).tobytes()).decode()


def _unpacked(text: Any, dtype: str) -> Reals:
    return np.frombuffer(base64.b64decode(str(text), validate=True), dtype).astype(np.float64)


def _symmetric(said: Mapping[str, Any] | None, wide: int) -> Reals | None:
    """Read a form. Raises ValueError."""
    if said is None:
        return None
    half, unit = _unpacked(said["half"], "<i2"), float(said["unit"])
    if wide > DIMENSIONS_MAX or len(half) != wide * (wide + 1) // 2 or not 0 < unit < 1e9:
        raise ValueError("the forms of a transform")
    form = np.zeros((wide, wide))
    form[np.triu_indices(wide)] = half * unit
    return form + np.triu(form, 1).T


def _plain(numbers: Reals) -> Reals:
    return np.where(np.isfinite(numbers) & (np.abs(numbers) < 1e30), numbers, 0.0)
