"""What runs on a GPU: `pytest tests/gpu -n 0` where there is one, `NUMBA_ENABLE_CUDASIM=1` before it elsewhere.

Without either these tests are skipped; `tests/unit/pipeline/gpu/test_simulator.py` runs them in numba's simulator.
"""

import numpy as np
import pytest

from serving.config import PipelineConfig
from serving.errors import LoadError
from serving.gpu.device import IS_SIMULATED, Gpu
from serving.pipeline.composition import Surroundings
from serving.pipeline.files import PackedFiles
from serving.pipeline.flaws import RefusedRowsError
from serving.pipeline.pipeline import Pipeline
from serving.types import DYNAMIC, Datatype, Signature, TensorSpec


@pytest.fixture(scope="session")
def gpu():
    try:
        return Gpu(0)
    except LoadError as error:
        pytest.skip(f"needs a GPU, or numba's simulator with NUMBA_ENABLE_CUDASIM=1: {error}")


@pytest.fixture(scope="session")
def place():
    """Return how `model.toml` says where a model runs; onnxruntime runs on the CPU when a GPU is simulated."""
    return {"kind": "gpu"}, {"providers": ("CPUExecutionProvider",)} if IS_SIMULATED else {}


@pytest.fixture(scope="session")
def both(gpu):
    """Build a pipeline for the CPU and one for the GPU."""
    built = {}

    def both(config, inputs=(), outputs=()):
        """Return both, of a declaration and a model's specs."""
        key = repr((config, inputs, outputs))
        if key not in built:
            unused = (TensorSpec("unused", Datatype.FP32, (DYNAMIC,)),)
            model = Signature(tuple(inputs) or unused, tuple(outputs) or unused, True)
            surroundings = Surroundings(PackedFiles())
            built[key] = Pipeline(config, model, surroundings), Pipeline(config, model, surroundings, gpu=gpu)
        return built[key]

    return both


@pytest.fixture(scope="session")
def preprocessed(both):
    """Run steps before the model on one array, on CPU and GPU; all of them must run on the GPU."""

    def preprocessed(steps, array, wanted, datatype=None):
        """Return what both give: arrays, or refusals. `wanted` is what the model takes: a datatype and dimensions."""
        kind = datatype or _OF_DTYPE[array.dtype]
        declared = {"name": "x", "datatype": kind.wire_name, "shape": [-1, *array.shape[1:]]}
        config = PipelineConfig(inputs=(declared,), preprocess=tuple({**step, "input": "x"} for step in steps))
        cpu, gpu = both(config, [TensorSpec("x", wanted[0], (DYNAMIC, *wanted[1]))])
        assert {line["runs_on"] for line in gpu.report()} == {"gpu"}
        return [_outcome(each, array) for each in (cpu, gpu)]

    return preprocessed


@pytest.fixture(scope="session")
def postprocessed(both):
    """Run steps behind the model on its outputs, on CPU and GPU; all of them must run on the GPU."""

    def postprocessed(steps, **arrays):
        """Return what both give: lists of arrays."""
        specs = [
            TensorSpec(name, _OF_DTYPE[array.dtype], (DYNAMIC, *array.shape[1:])) for name, array in arrays.items()
        ]
        cpu, gpu = both(PipelineConfig(postprocess=tuple(steps)), outputs=specs)
        assert {line["runs_on"] for line in gpu.report()} == {"gpu"}
        return [each.postprocess(list(arrays.values()), "test", ()) for each in (cpu, gpu)]

    return postprocessed


_OF_DTYPE = {kind.dtype: kind for kind in Datatype if kind is not Datatype.BF16}


def _outcome(pipeline, array):
    try:
        return np.array(pipeline.preprocess([array], "test")[0])
    except RefusedRowsError as refused:
        return refused.reasons
