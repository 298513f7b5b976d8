"""Rows of different length are padded to one and cut back: equal to slow twins, and whoever shares the batch."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.config import PipelineConfig
from serving.errors import LoadError
from serving.pipeline.flaws import RefusedRowsError
from serving.tensors import ragged, whole
from serving.types import DYNAMIC, Datatype, TensorSpec
from tests.support.pipelines import OF_DTYPE, pipeline

LENGTHS = [2, 4, 8]
KINDS = [np.float32, np.float64, np.float16, np.int8, np.int64, np.uint8, np.bool_]


def built(kind=np.float32, rest=(), *, post=(), outputs=(), open_length=True, **options):
    """A pipeline that pads `series` and cuts what the model gives, y and z, which are shaped like it."""
    datatype = OF_DTYPE[np.dtype(kind)]
    length = DYNAMIC if open_length else options["length"]
    if "length" not in options:
        options.setdefault("lengths", LENGTHS)
    declared = {"name": "series", "datatype": datatype.wire_name, "shape": [-1, -1, *rest], "ragged": True}
    step = {"step": "pad", "input": "series", "outputs": ["x", "mask", "lengths"], **options}
    wanted = [
        TensorSpec("x", datatype, (DYNAMIC, length, *rest)),
        TensorSpec("mask", Datatype.INT64, (DYNAMIC, length)),
        TensorSpec("lengths", Datatype.INT64, (DYNAMIC,)),
    ]
    given = outputs or [TensorSpec("y", datatype, (DYNAMIC, DYNAMIC, *rest))]
    config = PipelineConfig(inputs=(declared,), preprocess=(step,), postprocess=tuple(post))
    return pipeline(config, wanted, given)


def objects(rows):
    array = np.empty(len(rows), object)
    for index, row in enumerate(rows):
        array[index] = row
    return array


def slowly(rows, value, rest):
    """The twin: one number at a time."""
    length = min(length for length in LENGTHS if all(len(row) <= length for row in rows))
    out = [[row[place] if place < len(row) else np.full(rest, value) for place in range(length)] for row in rows]
    mask = [[int(place < len(row)) for place in range(length)] for row in rows]
    return out, mask


@st.composite
def batches(draw, kinds=KINDS):
    kind = draw(st.sampled_from(kinds))
    rest = draw(st.sampled_from([(), (3,), (2, 2)]))
    counts = draw(st.lists(st.integers(0, LENGTHS[-1]), max_size=9))
    random = np.random.default_rng(draw(st.integers(0, 999)))
    rows = [(random.standard_normal((count, *rest)) * 50).astype(kind) for count in counts]
    if draw(st.booleans()):  # as they may lie: every second number of something longer, or beside a boundary
        rows = [np.repeat(row, 2, axis=0)[::2] for row in rows]
    return kind, rest, rows


@given(batches(), st.sampled_from([0, 1]))
@settings(max_examples=150, deadline=None)
def test_padding_is_its_slow_twin(batch, value):
    kind, rest, rows = batch
    x, mask, lengths = built(kind, rest, value=value).preprocess([objects(rows)], "test")
    out, expected = slowly(rows, value, rest)
    assert x.dtype == kind
    np.testing.assert_array_equal(x, np.array(out, kind).reshape(x.shape))
    np.testing.assert_array_equal(mask, np.array(expected, np.int64).reshape(mask.shape))
    assert lengths.tolist() == [len(row) for row in rows]
    assert mask.dtype == lengths.dtype == np.int64


@given(batches())
@settings(max_examples=100, deadline=None)
def test_what_is_cut_back_is_what_came(batch):
    kind, rest, rows = batch
    whole_way = built(kind, rest, post=[{"step": "cut", "input": "y", "like": "series"}])
    x, _, _ = whole_way.preprocess([objects(rows)], "test")
    (y,) = whole_way.postprocess([x], "test", [objects(rows)])
    assert len(y) == len(rows)
    for came, went in zip(y, rows, strict=True):
        np.testing.assert_array_equal(came, went)
    assert whole_way.signature.outputs[0].is_ragged
    for index in range(len(rows)):
        (answer,) = whole_way.answered([y[index : index + 1]])
        np.testing.assert_array_equal(answer[0], rows[index])
    assert whole_way.answered([y[:0]])[0].shape == (0, 0, *rest)


@given(batches(), st.integers(0, 8))
@settings(max_examples=60, deadline=None)
def test_numbers_of_a_row_do_not_depend_on_its_batchmates(batch, split):
    kind, rest, rows = batch
    pads = built(kind, rest)
    together = pads.preprocess([objects(rows)], "test")[0].copy()
    parts = [pads.preprocess([objects(part)], "test")[0].copy() for part in (rows[:split], rows[split:])]
    for row, alone in zip(together, (row for part in parts for row in part), strict=True):
        length = min(len(row), len(alone))
        np.testing.assert_array_equal(row[:length], alone[:length])
        assert not row[length:].any()


@given(batches())
@settings(max_examples=60, deadline=None)
def test_a_tensor_is_its_rows(batch):
    kind, rest, rows = batch
    same = np.stack([np.resize(row, (3, *rest)) for row in rows if row.size] or [np.zeros((3, *rest), kind)])
    spec = TensorSpec("x", OF_DTYPE[np.dtype(kind)], (DYNAMIC, DYNAMIC, *rest))
    np.testing.assert_array_equal(whole(ragged(same), spec), same)


def test_a_row_that_is_too_long_is_refused_alone_or_cut():
    rows = objects([np.zeros(3, np.float32), np.arange(9, dtype=np.float32), np.ones(1, np.float32)])
    with pytest.raises(RefusedRowsError) as caught:
        built().preprocess([rows], "test")
    assert caught.value.reasons == {1: "pad of 'series': a row of length 9 came, expected at most 8"}
    cuts = built(truncate=True, post=[{"step": "cut", "input": "y", "like": "series"}])
    x, mask, lengths = cuts.preprocess([rows], "test")
    assert (x[1].tolist(), mask[1].tolist(), lengths.tolist()) == (list(range(8)), [1] * 8, [3, 8, 1])
    (y,) = cuts.postprocess([x], "test", [rows])
    assert [len(row) for row in y] == [3, 8, 1]


def test_one_length_is_the_same_for_all_batches():
    pads = built(length=5, open_length=False, value=-1)
    x, _, _ = pads.preprocess([objects([np.ones(2, np.float32)])], "test")
    assert x.tolist() == [[1, 1, -1, -1, -1]]


def test_several_outputs_are_cut_and_others_stay():
    outputs = [TensorSpec(name, Datatype.FP32, (DYNAMIC, DYNAMIC)) for name in ("y", "z", "whole")]
    post = [{"step": "cut", "input": name, "like": "series"} for name in ("y", "z")]
    cuts = built(post=post, outputs=outputs)
    rows = objects([np.ones(1, np.float32), np.ones(4, np.float32)])
    arrays = [np.full((2, 4), number, np.float32) for number in range(3)]
    answers = dict(zip((s.name for s in cuts.signature.outputs), cuts.postprocess(arrays, "test", [rows]), strict=True))
    assert [row.tolist() for row in answers["y"]] == [[0], [0] * 4]
    assert [row.tolist() for row in answers["z"]] == [[1], [1] * 4]
    assert answers["whole"].shape == (2, 4)


WRONG = [
    ({"lengths": [4, 2]}, (), "every number must be larger"),
    ({"lengths": [2.5]}, (), "expected whole numbers"),
    ({"length": 4, "lengths": [4]}, (), "either length"),
    ({"length": 1 << 25}, (), "expected a whole number"),
    ({"length": 1 << 24}, (64,), "take more than 1073741824 bytes each"),
    ({"value": 1e39}, (), "does not fit FP32"),
    ({"value": float("nan")}, (), "expected a finite number"),
    ({"side": "left"}, (), "unknown key 'side'"),
]


@pytest.mark.parametrize(("options", "rest", "message"), WRONG)
def test_a_rule_that_cannot_be_is_refused_when_a_model_is_loaded(options, rest, message):
    with pytest.raises(LoadError, match=message):
        built(rest=rest, **options)


@pytest.mark.parametrize(("kind", "value"), [(np.uint8, -1), (np.uint8, 256), (np.int64, 0.5), (np.bool_, 2)])
def test_a_value_that_no_row_could_hold_is_refused(kind, value):
    with pytest.raises(LoadError, match="does not fit"):
        built(kind, value=value)


def composed(declared, *steps, post=()):
    declared = {"name": "series", "datatype": "FP32", "shape": [-1, -1], "ragged": True, **declared}
    config = PipelineConfig(inputs=(declared,), preprocess=steps, postprocess=tuple(post))
    return pipeline(
        config, [TensorSpec("x", Datatype.FP32, (DYNAMIC, DYNAMIC))], [TensorSpec("y", Datatype.FP32, (DYNAMIC, 4))]
    )


PAD = {"step": "pad", "input": "series", "output": "x", "length": 4}
DECLARED = [
    ({"datatype": "BYTES"}, [PAD], (), "ragged is for numbers"),
    ({"shape": [-1, 3]}, [PAD], (), "is the same for all rows"),
    ({"shape": [-1, 3, -1]}, [PAD], (), "whose first dimension behind the rows alone is open"),
    ({"datatype": "BF16"}, [PAD], (), "is BF16, expected numbers"),
    ({"ragged": False}, [PAD], (), "declared with ragged = true"),
    ({}, [{"step": "log1p", "input": "series", "output": "x"}], (), "rows of different shapes"),
    ({"name": "x"}, [], (), "'x' has rows of different shapes at the end"),
    ({}, [PAD], [{"step": "cut", "input": "y", "like": "series"}], "whose first dimension behind the rows is open"),
    ({}, [PAD], [{"step": "cut", "input": "y", "like": "sries"}], "like = 'sries', expected the name of an input"),
    ({}, [PAD], [{"step": "cut", "input": "y"}], "like is missing"),
]


@pytest.mark.parametrize(("declared", "steps", "post", "message"), DECLARED)
def test_what_does_not_go_together_is_refused_when_a_model_is_loaded(declared, steps, post, message):
    with pytest.raises(LoadError, match=message):
        composed(declared, *steps, post=post)


CUT = {"step": "cut", "input": "y", "like": "series"}


@pytest.mark.parametrize("step", [CUT, {"step": "sigmoid", "input": "y"}, {"step": "softmax", "input": "y"}])
def test_a_step_behind_a_cut_is_refused_since_none_takes_rows_of_different_length(step):
    with pytest.raises(LoadError, match="'y' were cut, and no step takes them then; let it be cut last"):
        built(post=[CUT, step])
