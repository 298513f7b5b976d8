"""What a few runs tell about a graph that its declarations do not: unknown ranks, and whether rows can share a batch.

A probe is a screen and no proof: it sees what inputs of zeros and of small random numbers show. Pure but for the runs.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from serving.tensors import ragged
from serving.types import DYNAMIC, Array, Datatype, Signature, TensorSpec

Run = Callable[[Sequence[Array]], list[Array]]
"""Runs a graph on inputs in the model's order."""

_TOLERANCE = 1e-2  # far above what another batch does to rounding, far below what mixing rows does


def probed(signature: Signature, run: Run) -> Signature:
    """Return the signature, corrected by what runs of one and two rows give. Raises what the graph raises on zeros."""
    runs = [run([_zeros(spec, rows) for spec in signature.inputs]) for rows in (1, 2)]
    corrected = _with_ranks(signature, runs)
    if corrected.batchable and depends_on_batchmates(signature, run):
        return replace(corrected, batchable=False)
    return corrected


def depends_on_batchmates(signature: Signature, run: Run) -> bool:
    """Say whether two random rows get other answers together than alone; a graph that is random itself passes."""
    random = np.random.default_rng(0)
    rows = [[_random(spec, random) for spec in signature.inputs] for _ in range(2)]
    both = [np.concatenate(pair) for pair in zip(*rows, strict=True)]
    try:
        together, alone = run(both), [run(row) for row in rows]
        if _agree(together, [np.concatenate(pair) for pair in zip(*alone, strict=True)]):
            return False
        return _agree(together, run(both))
    except Exception:  # noqa: BLE001 - random numbers may be nothing that this model can take
        return False


def _with_ranks(signature: Signature, runs: Sequence[Sequence[Array]]) -> Signature:
    """Take the rank of an output from the runs where the graph does not tell, and check that rows lead everywhere."""
    outputs = tuple(
        spec if spec.shape else replace(spec, shape=(DYNAMIC,) * one.ndim)
        for spec, one in zip(signature.outputs, runs[0], strict=True)
    )
    follows = all(array.ndim > 0 and len(array) == rows for rows, arrays in enumerate(runs, 1) for array in arrays)
    leads = all(spec.shape and spec.shape[0] == DYNAMIC for spec in signature.inputs + outputs)
    return Signature(signature.inputs, outputs, batchable=bool(signature.inputs) and follows and leads)


def _agree(some: Sequence[Array], others: Sequence[Array]) -> bool:
    """Say whether the floating-point arrays are the same, but for rounding."""
    pairs = [pair for pair in zip(some, others, strict=True) if np.issubdtype(pair[0].dtype, np.floating)]
    return all(
        one.shape == other.shape
        and np.allclose(one.astype(np.float64), other.astype(np.float64), _TOLERANCE, _TOLERANCE, equal_nan=True)
        for one, other in pairs
    )


def zeros(signature: Signature) -> list[Array]:
    """Return inputs of one row of zeros, whose other open dimensions are 1."""
    return [_zeros(spec, 1) for spec in signature.inputs]


def random_rows(signature: Signature, rows: int) -> list[Array]:
    """Return inputs of so many rows of numbers between 0 and 1, zeros where they are whole; open dimensions are 1."""
    random = np.random.default_rng(0)
    return [_random(spec, random, rows) for spec in signature.inputs]


def _zeros(spec: TensorSpec, rows: int) -> Array:
    """Make an input of `rows` rows whose other open dimensions are 1."""
    shape = [1 if dimension == DYNAMIC else dimension for dimension in spec.shape]
    if spec.shape and spec.shape[0] == DYNAMIC:
        shape[0] = rows
    if spec.datatype is Datatype.BYTES:
        return np.full(shape, "", np.object_)
    array: Array = np.zeros(shape, spec.datatype.dtype)
    return ragged(array) if spec.is_ragged else array


def _random(spec: TensorSpec, random: np.random.Generator, rows: int = 1) -> Array:
    """Make rows of numbers between 0 and 1 where the datatype has them, and of zeros elsewhere."""
    array = _zeros(spec, rows)
    return random.random(array.shape).astype(array.dtype) if np.issubdtype(array.dtype, np.floating) else array
