"""Runs a graph that takes batches of some sizes only: pads what is smaller, and cuts the outputs back.

Padding stands between everything else and the graph, so nobody else sees it: not the steps of a pipeline, not what
counts rows for drift, not who is answered. It repeats the batch's last row: that is one the model is asked to compute
anyway, whereas zeros may be nothing that it can take, an index that is not there or a number to divide by, and would
fail its batchmates. Knows arrays and sizes, and neither requests nor what a size costs.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from serving.errors import LoadError
from serving.execution.session import Session
from serving.types import DYNAMIC, Array, Signature, TensorSpec


class OutputWithoutRowsError(Exception):
    """An output of a padded batch has another number of rows, so nobody can tell which are those of the padding."""


class PaddedSession:
    """A session whose batches have one of `rows_allowed`, ascending. As `Session`, of any rows up to the largest.

    Its signature has an open first dimension, also where the graph fixes it: then that is the one size to allow.
    Any thread may run it. What is padded is copied; a batch of an allowed size is not. Padding is done on the host, so
    nothing is left on, or taken from, a GPU that the graph runs on: `gpu` is None.
    """

    gpu = None

    def __init__(self, session: Session, rows_allowed: Sequence[int]) -> None:
        self.signature = opened(session.signature, rows_allowed)
        self.runs_on_caller = session.runs_on_caller
        self._session = session
        self._allowed = tuple(rows_allowed)

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """See `Session`; the first dimension of all inputs and outputs counts rows."""
        rows = len(inputs[0])
        padded_rows = self._allowed[bisect_left(self._allowed, rows)]
        if padded_rows == rows:
            return self._session.run(inputs)
        outputs = self._session.run([_padded(array, padded_rows) for array in inputs])
        for spec, output in zip(self.signature.outputs, outputs, strict=True):
            if output.ndim == 0 or len(output) != padded_rows:
                raise OutputWithoutRowsError(
                    f"output '{spec.name}' has shape {list(output.shape)} for a batch of {padded_rows} rows, so it "
                    "does not follow rows and the model cannot be padded; leave batch_rows_allowed out"
                )
        return [output[:rows] for output in outputs]

    def close(self) -> None:
        """See `Session`."""
        self._session.close()


AnySession = Session | PaddedSession
"""What runs a graph."""


def fitted(session: Session, rows_allowed: Sequence[int]) -> AnySession:
    """Return what runs batches of any size in the allowed ones. Raises LoadError where the graph cannot be padded."""
    return PaddedSession(session, rows_allowed) if tuple(rows_allowed) not in {(), (1,)} else session


def fixed_rows(signature: Signature) -> int:
    """Return the number at which a graph fixes the first dimension of all its inputs and outputs, or 0."""
    firsts = {spec.shape[0] if spec.shape else 0 for spec in (*signature.inputs, *signature.outputs)}
    return max(0, firsts.pop()) if len(firsts) == 1 else 0


def opened(signature: Signature, rows_allowed: Sequence[int]) -> Signature:
    """Return a signature whose first dimension counts rows, however many the graph says they are. Raises LoadError."""
    for spec in (*signature.inputs, *signature.outputs):
        first = spec.shape[0] if spec.shape else DYNAMIC  # outputs of unknown rank are found out by running
        if first != DYNAMIC and list(rows_allowed) != [first]:
            raise LoadError(
                f"batch_rows_allowed = {list(rows_allowed)}, but the graph fixes the first dimension of '{spec.name}' "
                f"at {first}; give [{first}] if it counts rows, or leave batch_rows_allowed out"
            )
    if not signature.inputs or not all(spec.shape for spec in signature.inputs):
        raise LoadError("batch_rows_allowed is for graphs whose inputs have rows; leave it out")
    inputs, outputs = tuple(map(_open, signature.inputs)), tuple(map(_open, signature.outputs))
    return Signature(inputs, outputs, batchable=all(spec.shape for spec in outputs))


def _open(spec: TensorSpec) -> TensorSpec:
    return replace(spec, shape=(DYNAMIC, *spec.shape[1:])) if spec.shape else spec


def _padded(array: Array, rows: int) -> Array:
    """Return an array of `rows` rows: those that are there, then the last one again; zeros where there is none."""
    padded = np.empty((rows, *array.shape[1:]), array.dtype)
    padded[: len(array)] = array
    padded[len(array) :] = array[-1] if len(array) else ("" if array.dtype == np.object_ else 0)
    return padded
