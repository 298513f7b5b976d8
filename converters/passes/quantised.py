"""8-bit weights and activations with scales fixed from the sample: QDQ, static.

Dynamic quantisation is not offered: its scale spans all rows of a batch, so that one client's outlier changes the
answers of others (62 of 256 in one measurement).
"""

import contextlib
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from converters import graph as graphs
from converters.runner import Runner, quiet, rows_of
from converters.sample import Tensors
from converters.target import Target
from serving.errors import ConfigError

CALIBRATION_ROWS_MAX = 512
_ROWS_AT_A_TIME = 32
_QUANTISED = {"MatMul", "Gemm", "Conv"}


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep the advice of onnxruntime's tools off the root logger."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


class _Rows:
    """Hands the sample to the calibration, some rows at a time."""

    def __init__(self, tensors: Tensors) -> None:
        self._parts: Iterator[Tensors] = (
            rows_of(tensors, slice(at, at + _ROWS_AT_A_TIME))
            for at in range(0, len(next(iter(tensors.values()))), _ROWS_AT_A_TIME)
        )

    def get_next(self) -> dict[str, object] | None:
        """See onnxruntime's CalibrationDataReader."""
        part = next(self._parts, None)
        return None if part is None else dict(part)


def apply(graph: bytes, exact: Tensors, _target: Target, seed: int) -> bytes:
    """Return a quantised graph. Raises ConfigError for one without products of matrices or convolutions."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static  # noqa: PLC0415 - slow to import

    model = graphs.load(graph)
    if not _QUANTISED & {node.op_type for node in model.graph.node}:
        raise ConfigError("pass int8-static finds neither MatMul, Gemm nor Conv in this graph, so it would do nothing")
    rows = len(next(iter(exact.values())))
    chosen = np.sort(np.random.default_rng(seed).choice(rows, min(rows, CALIBRATION_ROWS_MAX), replace=False))
    calibration = _Rows(Runner(graph).cast(rows_of(exact, chosen)))
    with tempfile.TemporaryDirectory() as folder, quiet(), _silence():
        before, after = Path(folder) / "before.onnx", Path(folder) / "after.onnx"
        before.write_bytes(graph)
        quantize_static(
            str(before), str(after), calibration, quant_format=QuantFormat.QDQ, per_channel=True,
            weight_type=QuantType.QInt8, activation_type=QuantType.QInt8,
            op_types_to_quantize=sorted(_QUANTISED),
        )  # fmt: skip
        return after.read_bytes()
