"""Held-out rows: inputs, labels and slices in one `.npz`, and whether rows of it were trained on.

INPUT          an array per input of the model, rows first
label          the truth, one per row
slice/NAME     optional: the group of each row, such as slice/country
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serving.errors import ConfigError, PackageError
from serving.package import read_npz
from serving.types import DYNAMIC, Array, Signature, TensorSpec

LABEL, SLICE = "label", "slice/"
BYTES_MAX = 4 << 30
ROWS_MAX = 50_000_000
GROUPS_MAX = 1_000
_DIGEST_BYTES = 8


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Rows that no model was trained on. All arrays have the same number of rows; `label` has the shape (rows,)."""

    inputs: Mapping[str, Array]
    label: Array
    slices: Mapping[str, Array]

    @property
    def rows(self) -> int:
        """How many there are."""
        return len(self.label)


def read_held_out(path: Path, signature: Signature) -> HeldOut:
    """Read held-out rows for a model of this signature. Raises ConfigError."""
    arrays = read_rows(path, signature, more=(LABEL,))
    label = arrays[LABEL].reshape(-1)
    inputs = {spec.name: arrays[spec.name] for spec in signature.inputs}
    slices = {name.removeprefix(SLICE): array for name, array in arrays.items() if name.startswith(SLICE)}
    for name, array in slices.items():
        if array.shape != label.shape or len(np.unique(array)) > GROUPS_MAX:
            raise ConfigError(f"{path}: {SLICE}{name} has shape {array.shape}, expected {label.shape} and up to "
                              f"{GROUPS_MAX} groups")  # fmt: skip
    if not len(label):
        raise ConfigError(f"{path} holds no rows")
    return HeldOut(inputs, label, slices)


def read_rows(path: Path, signature: Signature | None = None, *, more: tuple[str, ...] = ()) -> dict[str, Array]:
    """Read arrays of the same number of rows; with a signature, its inputs among them, as its datatypes.

    Raises ConfigError.
    """
    try:
        if path.stat().st_size > BYTES_MAX:
            raise ConfigError(f"{path} is longer than {BYTES_MAX} bytes")
        arrays = read_npz(path.read_bytes(), bytes_max=BYTES_MAX)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    except PackageError as error:
        raise ConfigError(f"{path}: {error}") from None
    specs = signature.inputs if signature is not None else ()
    for name in (*(spec.name for spec in specs), *more):
        if name not in arrays:
            raise ConfigError(f"{path} holds no '{name}'; it has: {', '.join(sorted(arrays)) or 'nothing'}")
    counts = {name: len(array) if array.ndim else -1 for name, array in arrays.items()}
    if len(set(counts.values())) != 1 or not 0 <= max(counts.values()) <= ROWS_MAX:
        raise ConfigError(f"{path}: arrays of different numbers of rows, or of none: {counts}")
    return arrays | {spec.name: _as_input(path, spec, arrays[spec.name]) for spec in specs}


def row_digests(inputs: Mapping[str, Array]) -> NDArray[np.uint64]:
    """Return a digest of 64 bits of each row of the inputs, shape (rows,); numbers count as FP32.

    Among n training and m held-out rows that all differ, two share one by chance with probability below n m / 2^64.
    """
    columns = [_comparable(inputs[name]) for name in sorted(inputs)]
    digests = np.empty(len(columns[0]), np.uint64)
    for row in range(len(digests)):
        state = hashlib.blake2b(digest_size=_DIGEST_BYTES)
        for column in columns:
            state.update(column[row])
        digests[row] = int.from_bytes(state.digest(), "little")
    return digests


def digests_to_bytes(digests: NDArray[np.uint64]) -> bytes:
    """Return row digests as the blob that a `data` record names: sorted, 8 bytes each, little-endian."""
    return np.unique(digests).astype("<u8").tobytes()


def training_digests(path: Path) -> bytes:
    """Return the digests of the training rows in an .npz, for a record of data; it may have labels and slices too.

    Raises ConfigError for a file that has none.
    """
    inputs = {name: array for name, array in read_rows(path).items() if name != LABEL and "/" not in name}
    if not inputs:
        raise ConfigError(f"{path} holds no array of an input")
    return digests_to_bytes(row_digests(inputs))


def shared_rows(held_out: NDArray[np.uint64], training: bytes) -> int:
    """Return how many held-out rows are among the training rows. Raises ConfigError for what is no such blob."""
    if len(training) % _DIGEST_BYTES:
        raise ConfigError(f"digests of training rows of {len(training)} bytes, expected a multiple of {_DIGEST_BYTES}")
    return int(np.isin(held_out, np.frombuffer(training, "<u8")).sum())


def _as_input(path: Path, spec: TensorSpec, array: Array) -> Array:
    fits = array.ndim == len(spec.shape) and all(
        wanted in {DYNAMIC, found} for wanted, found in zip(spec.shape[1:], array.shape[1:], strict=False)
    )
    if not fits:
        raise ConfigError(f"{path}: '{spec.name}' has shape {list(array.shape)}, expected {list(spec.shape)}")
    return array.astype(spec.datatype.dtype)


def _comparable(array: Array) -> list[bytes]:
    """Return the bytes of each row, the same for the same values whatever their datatype."""
    rows = array.reshape(len(array), -1)
    if rows.dtype.kind in "OUS":
        return ["\0".join(map(str, row)).encode("utf-8", "surrogatepass") + b"\0" for row in rows.tolist()]
    with np.errstate(over="ignore"):
        numbers = rows.astype("<f4") + np.float32(0)  # which turns -0 into 0
    numbers[np.isnan(numbers)] = np.nan
    return [row.tobytes() for row in numbers]
