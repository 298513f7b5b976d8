"""Features of whole rows, compiled; `serving.statistics.derived.Deriver` says the same in numpy, but for rounding.

A form is applied by its rows, so that the sums of a row's columns do not wait for each other. The kernel allocates
nothing and gives the GIL up.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.statistics.derived import CODES, HELD, VECTORS, Derivation
from serving.wire.compiler import inlined, kernel, unsigned

_SIGNATURE = (
    "void({dtype}[:, ::1], int64, int64, int64[:, ::1], int64[::1], float64[:, ::1], float64[:, :, ::1], "
    "float64[:, ::1], float32[:, ::1])"
)
_LARGEST = float(np.finfo(np.float64).max)
_MAHALANOBIS, _RECONSTRUCTION = CODES[Derivation.MAHALANOBIS], CODES[Derivation.RECONSTRUCTION]
_NORM, _PROJECTION = CODES[Derivation.NORM], CODES[Derivation.PROJECTION]
_CLASS, _CONFIDENCE, _MARGIN = CODES[Derivation.CLASS], CODES[Derivation.CONFIDENCE], CODES[Derivation.MARGIN]


@inlined
def _root_of_form(z: NDArray[np.float64], form: NDArray[np.float64], sums: NDArray[np.float64]) -> float:
    """Return the root of z' form z, 0 where rounding makes it negative."""
    wide = z.shape[0]
    for i in range(wide):
        sums[unsigned(i)] = 0.0
    for j in range(wide):
        factor = z[unsigned(j)]
        for i in range(wide):
            sums[unsigned(i)] += factor * form[unsigned(j), unsigned(i)]
    total = 0.0
    for i in range(wide):
        total += z[unsigned(i)] * sums[unsigned(i)]
    return float(np.sqrt(max(total, 0.0)))


@inlined
def _dot(z: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    total = 0.0
    for i in range(z.shape[0]):
        total += z[unsigned(i)] * other[unsigned(i)]
    return total


@inlined
def _of_scores(code: int, scores: NDArray[np.float64]) -> float:
    """Return the chosen class, or how sure it is; NaN where a score is."""
    best, second, chosen, entropy, sound = -np.inf, -np.inf, 0, 0.0, 0.0
    for i in range(scores.shape[0]):
        score = scores[i]
        sound += 0.0 * score if not np.isinf(score) else 0.0
        if score > best:
            best, second, chosen = score, best, i
        elif score > second:
            second = score
        if score > 0.0:
            entropy -= score * np.log(score)
    if code == _CLASS:
        return chosen + sound
    if code == _CONFIDENCE:
        return best + sound
    if code == _MARGIN:
        return best - second + sound
    return entropy + sound


def _derive(
    x: NDArray[Any], start: int, step: int, columns: NDArray[np.int64], watched: NDArray[np.int64],
    vectors: NDArray[np.float64], forms: NDArray[np.float64], scratch: NDArray[np.float64], out: NDArray[np.float32],
) -> None:  # fmt: skip
    """Write the derived features of rows `start`, `start + step`, ... of x [rows, elements] to out [rows, columns]."""
    wide, features = watched.shape[0], columns.shape[0]
    assert min(start, step - 1) >= 0, "bug: these are no rows"
    assert out.shape[0] >= (x.shape[0] - start + step - 1) // step, "bug: there is no place for so many rows"
    assert out.shape[1] == features, "bug: another number of features"
    assert columns.shape[1] == 2, "bug: this does not say what is derived"
    assert scratch.shape[0] == 2, "bug: there is no place to compute"
    assert scratch.shape[1] == wide, "bug: there is no place for a row"
    has_transform = vectors.shape[0] > 0
    z, sums = scratch[0], scratch[1]
    for number, row in enumerate(range(start, x.shape[0], step)):
        for i in range(wide):
            value: float = np.float64(x[row, watched[i]])
            if has_transform:
                value = (value - vectors[0, i]) * vectors[1, i]
                value = min(max(value, -HELD), HELD) if abs(value) <= _LARGEST else 0.0
            z[i] = value
        for feature in range(features):
            code, index = columns[feature, 0], columns[feature, 1]
            result = 0.0
            if code == _MAHALANOBIS:
                result = _root_of_form(z, forms[0], sums)
            elif code == _RECONSTRUCTION:
                result = _root_of_form(z, forms[1], sums)
            elif code == _NORM:
                result = np.sqrt(_dot(z, z) / wide)
            elif code == _PROJECTION:
                result = _dot(z, vectors[VECTORS + index])
            else:
                result = _of_scores(code, z)
            out[number, feature] = result


def _kernel(dtype: str) -> Callable[..., None]:
    return kernel(_SIGNATURE.format(dtype=dtype), nogil=True)(_derive)


DERIVE: Mapping[np.dtype[Any], Callable[..., None]] = {
    np.dtype(name): _kernel(name) for name in ("float32", "float64", "int64")
}
"""By the datatype of x; others are converted to one of these."""
