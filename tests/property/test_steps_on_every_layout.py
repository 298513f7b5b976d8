"""Every step gives each row the same answer however rows lie in memory, and alone; of no rows it makes none.

Together with the slow twins that steps have on rows side by side, this says what a step does to any rows. Steps that
libraries do row by row have tests of their own, for images, texts and rows of different length.
"""

import numpy as np
import pytest

from serving.config import PipelineConfig
from serving.pipeline.catalogue import POSTPROCESS, PREPROCESS
from serving.types import DYNAMIC, Datatype, TensorSpec
from tests.support.pipelines import declared, pipeline, spec

RANDOM = np.random.default_rng(0)
SMALL = RANDOM.integers(0, 3, (6, 3)).astype(np.float32)
WIDE = (RANDOM.standard_normal((6, 3)) * 50).round(2)
WHOLE = RANDOM.integers(-100, 100, (6, 3))
WORDS = np.array([["ü", "b"], ["", "b"], ["a", "a"], ["a", ""], ["b", "ü"], ["ü", "ü"]], object)
IMAGES = RANDOM.integers(0, 256, (6, 4, 5, 3)).astype(np.uint8)
SERIES = RANDOM.standard_normal((6, 4, 3)).astype(np.float32)
CORNERS = np.concatenate([RANDOM.random((6, 7, 2)), 1 + RANDOM.random((6, 7, 2))], axis=-1).astype(np.float32)
SCORES = RANDOM.random((6, 7, 2)).astype(np.float32)

BEFORE = {
    "impute": ({"value": [1.0, 2.0, 3.0]}, np.where(SMALL > 1, np.float32(np.nan), SMALL)),
    "scale": ({"mean": [1.0, 2.0, 3.0], "scale": 0.3}, WIDE),
    "clip": ({"min": [0.5, 1.0, 2.0], "max": 40.0}, WIDE),
    "log1p": ({}, SMALL),
    "finite": ({}, WIDE),
    "bucketise": ({"boundaries": [-20.0, 0.0, 1.0]}, WIDE),
    "bucketise right": ({"boundaries": [0.0, 1.0], "right": True}, SMALL),
    "cast": ({"datatype": "INT8"}, WIDE),
    "cast of integers": ({"datatype": "INT8"}, WHOLE),
    "cast to half": ({"datatype": "FP16"}, WIDE),
    "cast to truth": ({"datatype": "BOOL"}, SMALL),
    "one_hot": ({"categories": [[0, 1], [2], [1, 0, 2]], "unknown": "ignore"}, SMALL),
    "one_hot of strings": ({"categories": [["a", "b"], ["ü", ""]], "unknown": "ignore"}, WORDS),
    "ordinal": ({"categories": [[0, 1], [2], [1, 0, 2]], "unknown": -1}, SMALL),
    "ordinal of strings": ({"categories": [["a", "b"], ["ü", ""]], "unknown": -1}, WORDS),
    "hash": ({"buckets": 1000, "seed": 3}, WHOLE),
    "hash of strings": ({"buckets": 1000}, WORDS),
    "select": ({"columns": [2, 0, 2]}, WIDE),
    "concat": ({}, WIDE, SMALL.astype(np.float64)),
    "flatten": ({}, SERIES),
    "normalise": ({"mean": [0.1, 0.2, 0.3], "std": 0.4}, IMAGES),
    "layout": ({"to": "NCHW"}, IMAGES),
    "layout back": ({"to": "NHWC"}, SERIES.reshape(6, 2, 2, 3)),
}
BEHIND = {
    "softmax": ({}, SERIES),
    "sigmoid": ({}, SERIES),
    "argmax": ({}, SERIES),
    "argmax with labels": ({"labels": ["a", "b", "c"]}, SERIES),
    "top_k": ({"k": 2}, SERIES),
    "threshold": ({"minimum": [0.0, 0.5, 1.0]}, SERIES),
    "l2_normalise": ({}, SERIES),
    "pool": ({"how": "mean"}, SERIES),
    "pool of the highest": ({"how": "max"}, SERIES),
    "boxes": ({"count": 3}, CORNERS, SCORES),
}
ROW_BY_ROW = {"decode_image", "resize", "crop", "letterbox", "tokenise", "pad", "cut", "user"}
LAYOUTS = {
    "every second row": lambda rows: np.repeat(rows, 2, axis=0)[::2],
    "the last column first": np.asfortranarray,
    "backwards": lambda rows: rows[::-1].copy()[::-1],
    "part of a wider array": lambda rows: np.concatenate([rows, rows], axis=-1)[..., : rows.shape[-1]],
    "unaligned": lambda rows: np.frombuffer(b"\0" + rows.tobytes(), np.uint8)[1:].view(rows.dtype).reshape(rows.shape),
}


def answers(name, arrays):
    """Run one step on tensors x, y."""
    options, *examples = (BEFORE | BEHIND)[name]
    step = {"step": name.split(" ")[0], "inputs": ["x", "y"][: len(examples)], **options}
    tensors = dict(zip("xy", examples, strict=False))
    if name in BEHIND:
        built = pipeline(PipelineConfig(postprocess=(step,)), outputs=[spec(*item) for item in tensors.items()])
        return built.postprocess(arrays, "test", ())
    inputs = tuple(declared(*item) for item in tensors.items())
    built = pipeline(PipelineConfig(inputs=inputs, preprocess=(step,)), [TensorSpec("x", *made_by(name))])
    return [array.copy() for array in built.preprocess(arrays, "test")]


def made_by(name):
    """Return the datatype and shape of what a step in front of the model makes."""
    given = BEFORE[name][1]
    kinds = {"cast": Datatype.INT8, "cast of integers": Datatype.INT8, "cast to half": Datatype.FP16,
             "cast to truth": Datatype.BOOL, "select": Datatype.FP64, "concat": Datatype.FP64, "layout": Datatype.UINT8,
             "scale": Datatype.FP64, "clip": Datatype.FP64, "finite": Datatype.FP64}  # fmt: skip
    dims = {"one_hot": (6,), "one_hot of strings": (4,), "concat": (6,), "flatten": (12,), "layout": (3, 4, 5),
            "layout back": (2, 3, 2)}  # fmt: skip
    is_integer = name.split(" ")[0] in {"bucketise", "ordinal", "hash"}
    kind = kinds.get(name, Datatype.INT64 if is_integer else Datatype.FP32)
    return kind, (DYNAMIC, *dims.get(name, given.shape[1:]))


@pytest.mark.parametrize("name", [*BEFORE, *BEHIND])
def test_a_step_does_the_same_however_rows_lie(name):
    examples = (BEFORE | BEHIND)[name][1:]
    expected = answers(name, examples)
    assert all(len(answer) == 6 for answer in expected)
    for layout, lay_out in LAYOUTS.items():
        if layout == "unaligned" and examples[0].dtype == object:
            continue
        laid_out = [lay_out(array) for array in examples]
        for array in laid_out:
            array.flags.writeable = False
        for found, answer in zip(answers(name, laid_out), expected, strict=True):
            np.testing.assert_array_equal(found, answer, err_msg=layout)
    for row in range(6):
        alone = answers(name, [array[row : row + 1] for array in examples])
        for found, answer in zip(alone, expected, strict=True):
            np.testing.assert_array_equal(found, answer[row : row + 1])
    for found, answer in zip(answers(name, [array[:0] for array in examples]), expected, strict=True):
        assert (found.shape, found.dtype) == ((0, *answer.shape[1:]), answer.dtype)


def test_every_step_is_here_or_works_row_by_row():
    here = {name.split(" ")[0] for name in (*BEFORE, *BEHIND)}
    assert here | ROW_BY_ROW == {*PREPROCESS, *POSTPROCESS}
    assert not here & ROW_BY_ROW


def test_integers_are_cast_and_half_numbers_and_finite_ones_kept_as_numpy_does():
    np.testing.assert_array_equal(answers("cast of integers", [WHOLE])[0], WHOLE.astype(np.int8))
    np.testing.assert_array_equal(answers("cast to half", [WIDE])[0], WIDE.astype(np.float16))
    np.testing.assert_array_equal(answers("finite", [WIDE])[0], WIDE)
    np.testing.assert_array_equal(answers("flatten", [SERIES])[0], SERIES.reshape(6, 12))
