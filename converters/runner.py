"""A graph on onnxruntime, as conversion needs it: tensors of any precision in, answers by name out."""

import contextlib
import warnings
from collections.abc import Iterator

import numpy as np
import onnxruntime as ort

from converters.graph import input_dtypes, load
from converters.sample import Array, Tensors
from serving.errors import ConfigError

THREADS = 1
"""One, so that sums are formed in the same order in every run and on every machine of a kind."""


class Runner:
    """A loaded graph. `cast` rounds tensors to what it takes, `run` computes. Used by one thread.

    Raises ConfigError when onnxruntime cannot load the graph.
    """

    def __init__(self, graph: bytes, *, threads: int = THREADS) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = threads
        options.log_severity_level = 4
        try:
            self._session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise ConfigError(f"onnxruntime cannot load the converted graph: {one_line(error)}") from None
        self.dtypes = input_dtypes(load(graph))
        self.outputs = tuple(value.name for value in self._session.get_outputs())
        self.inputs = tuple(value.name for value in self._session.get_inputs())

    def cast(self, tensors: Tensors) -> Tensors:
        """Round tensors to the datatypes of the inputs; what a float32 cannot hold becomes infinite."""
        with np.errstate(over="ignore", invalid="ignore"):
            return {name: np.ascontiguousarray(tensors[name], self.dtypes[name]) for name in self.inputs}

    def run(self, tensors: Tensors) -> dict[str, Array]:
        """Compute the outputs of cast tensors. Raises whatever onnxruntime raises."""
        return dict(zip(self.outputs, self._session.run(None, dict(tensors)), strict=True))

    def run_in_batches(self, tensors: Tensors, batch_rows: int) -> dict[str, Array]:
        """Compute the outputs a few rows at a time."""
        rows = len(next(iter(tensors.values())))
        parts = [self.run(rows_of(tensors, slice(at, at + batch_rows))) for at in range(0, rows, batch_rows)]
        return {name: np.concatenate([part[name] for part in parts]) for name in self.outputs}


def rows_of(tensors: Tensors, which: slice | Array) -> Tensors:
    """Return some rows of every tensor."""
    return {name: item[which] for name, item in tensors.items()}


def joined(*parts: Tensors) -> Tensors:
    """Return the rows of all parts, one after the other."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Let numpy and frameworks compute with NaN and infinities without warnings: that is what edge rows are for."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield


def one_line(error: BaseException | str, length: int = 300) -> str:
    """Write an error of a library in one line."""
    return " ".join(str(error).split())[:length] or type(error).__name__
