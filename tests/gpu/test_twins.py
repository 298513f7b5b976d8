"""Every kernel of a GPU equals its twin on the CPU, on any rows, also none or one, and however they lie in memory.

Tolerance: of FP32 2e-6, of FP64 1e-13, of what is computed, relative and absolute: a GPU multiplies and adds in one
rounding, and rounds exponentials otherwise. Of resized images one level of 255. What is moved or compared is equal.
"""

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from serving.types import DATATYPES, Datatype

pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")  # the simulator computes with numpy

law = settings(deadline=None, max_examples=4, suppress_health_check=[HealthCheck.too_slow])
kinds = st.sampled_from([Datatype.FP32, Datatype.FP64])
TOLERANCE = {np.dtype(np.float32): 2e-6, np.dtype(np.float64): 1e-13}


def check(outcomes):
    """Hold the GPU to the CPU: the same numbers, or the same refusals."""
    cpu, gpu = outcomes
    assert type(cpu) is type(gpu)
    if isinstance(cpu, dict):
        assert cpu == gpu
        return
    for one, other in zip(*(pair if isinstance(pair, list) else [pair] for pair in outcomes), strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        tolerance = TOLERANCE.get(one.dtype, 0)
        np.testing.assert_allclose(other, one, tolerance, tolerance)


@st.composite
def tables(draw, kind=Datatype.FP32, dims=(3,), limit=1e6, special=(), rows=(0, 1, 2, 5)):
    """Draw rows of numbers, side by side or views of something larger, never to be written."""
    if kind.dtype.kind == "f":
        numbers = st.floats(-limit, limit, width=kind.item_bytes * 8) | st.sampled_from([0.0, *special])
    else:
        numbers = arrays.from_dtype(kind.dtype)
    array = draw(arrays.arrays(kind.dtype, (draw(st.sampled_from(rows)), *dims), elements=numbers))
    layout = draw(st.sampled_from(["plain", "every second", "columns first"]))
    if layout == "every second" and len(array):
        array = np.repeat(array, 2, axis=0)[::2]
    elif layout == "columns first":
        array = np.asfortranarray(array)
    array.flags.writeable = False
    return array


ELEMENTS = {
    "impute": {"value": [1.0, -2.5, 0.0]},
    "scale": {"mean": [1.5, -2.25, 1e5], "scale": [0.3, 7.0, 1e-3]},
    "scale that overflows": {"step": "scale", "scale": 1e-38},
    "clip": {"min": -3.5, "max": [1.0, 100.0, 0.0]},
    "finite": {},
    "log1p": {},
}


@pytest.mark.parametrize("name", ELEMENTS)
@law
@given(st.data(), kinds)
def test_steps_of_one_number_give_the_same_numbers_or_refusals(preprocessed, name, data, kind):
    rows = data.draw(tables(kind, special=(math.nan, math.inf, -1.0)))
    check(preprocessed([{"step": name, **ELEMENTS[name]}], rows, (kind, (3,))))


@pytest.mark.parametrize("kind", [Datatype.FP32, Datatype.FP64])
def test_clip_leaves_what_is_no_number(preprocessed, kind):
    rows = np.array([[math.nan, -5, math.inf], [-math.inf, math.nan, math.nan]], kind.dtype)
    check(preprocessed([{"step": "clip", **ELEMENTS["clip"]}], rows, (kind, (3,))))


def edges(given, wanted):
    """Return numbers at which a conversion begins to be refused, as far as the datatype has them, one per row."""
    limits = [(0, 1)] if wanted.dtype.kind in "bf" else [(np.iinfo(wanted.dtype).min, np.iinfo(wanted.dtype).max)]
    numbers = [-0.9, 0.9, 2.0**63, -(2.0**63), 2.0**64, 1e39, -1e39, math.nan, math.inf, -math.inf]
    for low, high in limits:
        numbers += [low - 1, low - 0.9, low, low + 1, high - 1, high, high + 0.9, high + 1]
    if given.dtype.kind == "f":
        with np.errstate(over="ignore"):
            floats = np.array(numbers, given.dtype)
        return np.concatenate([floats, np.nextafter(floats, given.dtype.type(0))])[:, None]
    own = (0, 1) if given is Datatype.BOOL else (np.iinfo(given.dtype).min, np.iinfo(given.dtype).max)
    fitting = {int(number) for number in numbers if math.isfinite(number) and own[0] <= number <= own[1]}
    return np.array([number for number in sorted({*fitting, *own}) if own[0] <= number <= own[1]], given.dtype)[:, None]


CASTS = {
    "FP32": ["UINT8", "INT32", "UINT64", "BOOL", "FP64"], "FP64": ["INT8", "INT64", "UINT64", "FP32"],
    "INT64": ["UINT8", "UINT64", "FP64"], "BOOL": ["INT8"], "UINT8": ["FP32"],
}  # fmt: skip


@pytest.mark.parametrize(("given_kind", "wanted"), [(one, other) for one in CASTS for other in CASTS[one]])
def test_cast_takes_and_refuses_the_same_numbers(preprocessed, given_kind, wanted):
    given_kind, wanted = DATATYPES[given_kind], DATATYPES[wanted]
    rows = edges(given_kind, wanted)
    step = {"step": "cast", "datatype": wanted.wire_name}
    cpu, gpu = preprocessed([step], rows, (wanted, (1,)))
    if isinstance(cpu, dict):
        check([cpu, gpu])
        rows = np.delete(rows, list(cpu), axis=0)
        assert len(rows)
    check(preprocessed([step], rows, (wanted, (1,))))


@pytest.mark.parametrize("right", [False, True])
@law
@given(st.data(), kinds)
def test_bucketise_gives_the_same_buckets(preprocessed, right, data, kind):
    rows = data.draw(tables(kind, limit=5, special=(math.nan, 1.5, -2.0, math.inf)))
    step = {"step": "bucketise", "boundaries": [-2.0, 1.5, 3.0], "right": right}
    check(preprocessed([step], rows, (Datatype.INT64, (3,))))


@law
@given(st.data())
def test_integers_are_hashed_to_the_same_buckets(preprocessed, data):
    rows = data.draw(tables(Datatype.INT64))
    check(preprocessed([{"step": "hash", "buckets": 1000, "seed": 3}], rows, (Datatype.INT64, (3,))))


@law
@given(st.data())
def test_a_chain_of_steps_is_one_pass_and_its_first_refusal_counts(preprocessed, data):
    rows = data.draw(tables(Datatype.FP64, special=(math.nan, math.inf, -1.0)))
    steps = [{"step": "impute", "value": 0.5}, {"step": "finite"}, {"step": "log1p"},
             {"step": "scale", "mean": [0.5, 1.0, 2.0]}, {"step": "cast", "datatype": "FP32"}]  # fmt: skip
    check(preprocessed(steps, rows, (Datatype.FP32, (3,))))


@pytest.mark.parametrize(("target", "dims"), [("NCHW", (4, 3, 2)), ("NHWC", (2, 4, 3))])
@law
@given(st.data(), st.sampled_from([Datatype.UINT8, Datatype.FP32]))
def test_layout_moves_the_same_numbers(preprocessed, target, dims, data, kind):
    rows = data.draw(tables(kind, dims))
    wanted = (2, 4, 3) if target == "NCHW" else (4, 3, 2)
    check(preprocessed([{"step": "layout", "to": target}], rows, (kind, wanted)))


@law
@given(st.data(), st.sampled_from([Datatype.FP32, Datatype.INT64]))
def test_select_copies_the_same_columns(preprocessed, data, kind):
    check(preprocessed([{"step": "select", "columns": [2, 0, 2, 1]}], data.draw(tables(kind)), (kind, (4,))))


@pytest.mark.parametrize("size", [(3, 4), (9, 2), (5, 6)])
@pytest.mark.parametrize("method", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("antialias", [True, False])
@settings(law, max_examples=2)
@given(st.data(), st.sampled_from([1, 3]))
def test_resized_images_differ_by_one_level_at_most(preprocessed, size, method, antialias, data, channels):
    images = data.draw(tables(Datatype.UINT8, (5, 6, channels), rows=(0, 1, 2)))
    step = {"step": "resize", "height": size[0], "width": size[1], "method": method, "antialias": antialias}
    cpu, gpu = preprocessed([step], images, (Datatype.UINT8, (*size, channels)))
    assert cpu.shape == gpu.shape
    assert np.abs(cpu.astype(int) - gpu).max(initial=0) <= 1


@law
@given(st.data())
def test_images_become_what_a_model_takes_within_a_level(preprocessed, data):
    images = data.draw(tables(Datatype.UINT8, (5, 6, 3), rows=(0, 1, 2)))
    steps = [{"step": "resize", "height": 3, "width": 4}, {"step": "layout", "to": "NCHW"}]
    normalise = {"step": "normalise", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    cpu, gpu = preprocessed([steps[0], normalise, steps[1]], images, (Datatype.FP32, (3, 3, 4)))
    assert gpu.shape == cpu.shape == (len(images), 3, 3, 4)
    np.testing.assert_allclose(gpu, cpu, atol=1.01 / 255 / 0.224)  # a level of 255


VECTORS = {"softmax": {}, "l2_normalise": {}, "sigmoid": {}, "threshold": {"minimum": 0.5}, "argmax": {}}


@pytest.mark.parametrize("name", VECTORS)
@law
@given(st.data(), kinds, st.sampled_from([1, 2, 9]))
def test_vectors_give_the_same_answers(postprocessed, name, data, kind, width):
    rows = data.draw(tables(kind, (width,), special=(math.nan, math.inf, -math.inf)))
    check(postprocessed([{"step": name, "input": "y", **VECTORS[name]}], y=rows))


@pytest.mark.parametrize("name", ["softmax", "l2_normalise", "sigmoid"])
@law
@given(st.data(), kinds)
def test_finite_numbers_give_finite_answers(postprocessed, name, data, kind):
    largest = float(np.finfo(kind.dtype).max)
    rows = data.draw(tables(kind, (9,), limit=largest, special=(largest, -largest), rows=(1, 2)))
    _, gpu = postprocessed([{"step": name, "input": "y"}], y=rows)
    assert np.isfinite(gpu[0]).all()


@pytest.mark.parametrize("count", [1, 3, 9])
@law
@given(st.data(), st.sampled_from([Datatype.FP32, Datatype.FP64, Datatype.INT32]))
def test_top_k_finds_the_same_numbers_in_the_same_places(postprocessed, count, data, kind):
    rows = data.draw(tables(kind, (9,), limit=3, special=(math.nan, math.inf, -math.inf)))
    check(postprocessed([{"step": "top_k", "input": "y", "k": count, "outputs": ["values", "places"]}], y=rows))


@pytest.mark.parametrize("how", ["mean", "max"])
@law
@given(st.data(), kinds, st.sampled_from([1, 4]))
def test_pool_gives_the_same_numbers(postprocessed, how, data, kind, places):
    rows = data.draw(tables(kind, (places, 3), special=(math.nan,)))
    check(postprocessed([{"step": "pool", "input": "y", "how": how}], y=rows))


@pytest.mark.parametrize("side", range(4))
def test_boxes_with_a_side_that_is_no_number_cover_what_they_cover_on_the_cpu(postprocessed, side):
    boxes = np.tile(np.float32([0, 0, 10, 10]), (2, 2, 1))
    boxes[0, 0, side] = boxes[1, 1, side] = math.nan
    step = {"step": "boxes", "inputs": ["boxes", "scores"], "count": 2}
    check(postprocessed([step], boxes=boxes, scores=np.tile(np.float32([0.9, 0.8]), (2, 1))))


@pytest.mark.parametrize("form", ["corners", "centre"])
@law
@given(st.data(), kinds, st.sampled_from([(), (1,), (3,)]))
def test_the_same_boxes_are_kept(postprocessed, form, data, kind, classes):
    count = data.draw(st.sampled_from([0, 1, 2]))
    sides = st.integers(0, 8).map(float)
    boxes = data.draw(arrays.arrays(kind.dtype, (count, 7, 4), elements=sides))
    scores = data.draw(arrays.arrays(kind.dtype, (count, 7, *classes), elements=st.integers(0, 8).map(lambda x: x / 8)))
    step = {"step": "boxes", "inputs": ["boxes", "scores"], "count": 4, "format": form}
    check(postprocessed([step], boxes=boxes, scores=scores))
