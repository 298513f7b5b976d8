"""What runs on a GPU is compiled to NVIDIA's assembler, PTX, which needs no GPU: the simulator takes any Python.

It needs numba-cuda with NVIDIA's compiler, which is not in [test]: pip install 'penstock[gpu]'.
"""

import contextlib
import re
import types

import pytest
from numba import cuda
from numba.core import config as numba_config

from serving.config import PipelineConfig
from serving.gpu.device import Compiled, Gpu, device_function
from serving.pipeline.composition import Surroundings, compose
from serving.pipeline.files import PackedFiles
from serving.pipeline.gpu import stages
from serving.pipeline.gpu.program import BeforeModel, BehindModel
from serving.types import DATATYPES, DYNAMIC, Datatype, Signature, TensorSpec

TURING = 7, 5
FLOATS = [Datatype.FP32, Datatype.FP64]


@pytest.fixture(scope="module")
def compiles():
    """Skip where there is no compiler for GPUs."""
    if numba_config.ENABLE_CUDASIM:
        pytest.skip("numba's simulator compiles nothing")
    if cuda.implementation == "Built-in":
        pytest.skip("needs numba-cuda: pip install 'penstock[gpu]'")


class Compiler(Gpu):
    """A GPU that is not there: functions are compiled for it, and nothing runs."""

    def __init__(self):
        self.functions, self.texts = [], []

    @contextlib.contextmanager
    def active(self):
        yield

    def compiled(self, function, arguments, share):
        text, _ = cuda.compile_ptx(function, tuple(arguments), cc=TURING)
        assert ".entry" in text
        self.functions.append(function)
        self.texts.append(text)
        return Compiled(None, share)


@pytest.fixture
def compiler(compiles, monkeypatch):
    from numba.cuda import dispatcher

    monkeypatch.setattr(stages, "uploaded", lambda array: array)
    device = types.SimpleNamespace(compute_capability=TURING)  # device functions are compiled for the GPU there is
    monkeypatch.setattr(dispatcher, "get_current_device", lambda: device)
    device_function.cache_clear()
    return Compiler()


def build(compiler, preprocess=(), postprocess=(), given=None, inputs=(), outputs=()):
    """Compile both halves of a pipeline, of which all steps must run on the GPU."""
    unused = (TensorSpec("unused", Datatype.FP32, (DYNAMIC,)),)
    config = PipelineConfig(
        inputs=() if given is None else (given,), preprocess=tuple(preprocess), postprocess=tuple(postprocess)
    )
    model = Signature(tuple(inputs) or unused, tuple(outputs) or unused, True)
    composed = compose(config, model, Surroundings(PackedFiles()))
    programs = BeforeModel(composed.before, compiler), BehindModel(composed.after, compiler)
    assert {place for program in programs for place in program.places} == {"gpu"}


def declared(kind, *dims):
    return {"name": "x", "datatype": kind.wire_name, "shape": [-1, *dims]}


def spec(name, kind, *dims):
    return TensorSpec(name, kind, (DYNAMIC, *dims))


ELEMENTS = [
    {"step": "impute", "value": 1.0}, {"step": "scale", "mean": [1.0, 2.0, 3.0], "scale": 2.0},
    {"step": "clip", "min": 0.0, "max": 1.0}, {"step": "log1p"}, {"step": "finite"},
]  # fmt: skip


@pytest.mark.parametrize("kind", FLOATS)
@pytest.mark.parametrize("step", ELEMENTS, ids=lambda step: step["step"])
def test_steps_of_one_number(compiler, kind, step):
    build(compiler, [{**step, "input": "x"}], given=declared(kind, 3), inputs=[spec("x", kind, 3)])


@pytest.mark.parametrize("given", ["FP32", "FP64", "INT64", "UINT8", "BOOL"])
@pytest.mark.parametrize("wanted", ["BOOL", "INT8", "UINT8", "INT64", "UINT64", "FP32", "FP64"])
def test_cast(compiler, given, wanted):
    step = {"step": "cast", "input": "x", "datatype": wanted}
    build(compiler, [step], given=declared(DATATYPES[given], 3), inputs=[spec("x", DATATYPES[wanted], 3)])


@pytest.mark.parametrize(
    ("step", "kind"),
    [({"step": "bucketise", "boundaries": [1.0, 2.0]}, Datatype.FP64),
     ({"step": "bucketise", "boundaries": [1.0, 2.0], "right": True}, Datatype.FP32),
     ({"step": "hash", "buckets": 10}, Datatype.INT64)],
)  # fmt: skip
def test_steps_that_give_integers(compiler, step, kind):
    build(compiler, [{**step, "input": "x"}], given=declared(kind, 3), inputs=[spec("x", Datatype.INT64, 3)])


@pytest.mark.parametrize("method", ["bilinear", "bicubic", "nearest"])
def test_images(compiler, method):
    steps = [{"step": "resize", "height": 8, "width": 9, "method": method}, {"step": "normalise", "mean": [0.1, 0, 1]},
             {"step": "layout", "to": "NCHW"}, {"step": "layout", "to": "NHWC"}]  # fmt: skip
    build(
        compiler, [{**step, "input": "x"} for step in steps], given=declared(Datatype.UINT8, 12, 10, 3),
        inputs=[spec("x", Datatype.FP32, 8, 9, 3)],
    )  # fmt: skip


@pytest.mark.parametrize("kind", FLOATS)
def test_columns(compiler, kind):
    steps = {"step": "select", "columns": [1, 0], "input": "x", "output": "y"}, {"step": "concat", "inputs": ["y", "x"]}
    build(compiler, steps, given=declared(kind, 3), inputs=[spec("y", kind, 5)])


@pytest.mark.parametrize("kind", [*FLOATS, Datatype.UINT8, Datatype.INT32])
def test_highest_numbers(compiler, kind):
    for step in ({"step": "argmax"}, {"step": "top_k", "k": 3}):
        build(compiler, (), [{**step, "input": "y"}], outputs=[spec("y", kind, 10)])


@pytest.mark.parametrize("kind", FLOATS)
@pytest.mark.parametrize("name", ["softmax", "sigmoid", "threshold", "l2_normalise"])
def test_answers_of_vectors(compiler, kind, name):
    step = {"step": name, "input": "y", **({"minimum": 0.5} if name == "threshold" else {})}
    build(compiler, (), [step], outputs=[spec("y", kind, 10)])


@pytest.mark.parametrize("kind", FLOATS)
@pytest.mark.parametrize("how", ["mean", "max"])
def test_pool(compiler, kind, how):
    build(compiler, (), [{"step": "pool", "input": "y", "how": how}], outputs=[spec("y", kind, 4, 10)])


@pytest.mark.parametrize("kind", FLOATS)
@pytest.mark.parametrize("classes", [(), (3,)])
def test_boxes(compiler, kind, classes):
    step = {"step": "boxes", "inputs": ["y", "scores"], "count": 4}
    build(compiler, (), [step], outputs=[spec("y", kind, 5, 4), spec("scores", kind, 5, *classes)])


@pytest.mark.parametrize("kind", FLOATS)
def test_no_instruction_drops_what_is_no_number(compiler, kind):
    clip = {"step": "clip", "input": "x", "min": 0.0, "max": 1.0}
    build(compiler, [clip], given=declared(kind, 3), inputs=[spec("x", kind, 3)])
    boxes = {"step": "boxes", "inputs": ["y", "scores"], "count": 4}
    build(compiler, (), [boxes], outputs=[spec("y", kind, 5, 4), spec("scores", kind, 5)])
    # A GPU's own gives the other number, which neither the CPU's nor the simulator's does; `max` beside 0 does as well.
    assert [re.findall(r"\bmin\.f\w+", text) for text in compiler.texts] == [[], []]
