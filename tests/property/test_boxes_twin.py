"""Boxes that are kept are those of the textbook, and, of one class, those of ONNX's own operator."""

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from serving.config import PipelineConfig
from serving.errors import LoadError
from serving.types import DYNAMIC, Datatype, TensorSpec
from tests.support import graphs
from tests.support.pipelines import pipeline

COUNT = 4


def kept(boxes, scores, **options):
    step = {"step": "boxes", "inputs": ["boxes", "scores"], "count": COUNT, **options}
    specs = [TensorSpec("boxes", Datatype.FP32, (DYNAMIC, DYNAMIC, 4)),
             TensorSpec("scores", Datatype.FP32, (DYNAMIC, *(DYNAMIC,) * (scores.ndim - 1)))]  # fmt: skip
    built = pipeline(PipelineConfig(postprocess=(step,)), outputs=specs)
    assert [spec.shape[1:] for spec in built.signature.outputs] == [(COUNT, 4), (COUNT,), (COUNT,)]
    return built.postprocess([boxes, scores], "test", ())


def overlap(one, two):
    width = min(one[2], two[2]) - max(one[0], two[0])
    height = min(one[3], two[3]) - max(one[1], two[1])
    common = max(0, width) * max(0, height)
    areas = [max(0, box[2] - box[0]) * max(0, box[3] - box[1]) for box in (one, two)]
    return common, sum(areas) - common


def slowly(boxes, scores, score_min, overlap_max):
    """The twin, of one row: sort by score, keep a box unless one of its class that was kept covers it."""
    candidates = [(max(row), row.index(max(row)), box) for box, row in zip(boxes, scores, strict=True)]
    result = []
    for score, kind, box in sorted(candidates, key=lambda item: -item[0]):
        shared = (overlap(box, other) for _, of, other in result if of == kind)
        if score >= score_min and not any(common > overlap_max * union for common, union in shared):
            result.append((score, kind, box))
    return result[:COUNT]


whole = st.integers(0, 12)
rows_of_boxes = st.lists(st.tuples(whole, whole, st.integers(0, 8), st.integers(0, 8)), min_size=3, max_size=3)


@settings(deadline=None, max_examples=120)
@given(st.lists(rows_of_boxes, max_size=3), st.data(), st.booleans(), st.integers(1, 3))
def test_boxes_are_kept_by_score_unless_one_of_their_class_covers_them(rows, data, is_centre, classes):
    corners = np.array([[(x, y, x + w, y + h) for x, y, w, h in row] for row in rows], np.float32).reshape(-1, 3, 4)
    levels = st.lists(st.integers(0, 8), min_size=classes, max_size=classes)
    scores = np.array([[data.draw(levels) for _ in row] for row in rows], np.float32).reshape(-1, 3, classes) / 8
    boxes = corners
    if is_centre:
        boxes = np.concatenate(
            [(corners[..., :2] + corners[..., 2:]) / 2, corners[..., 2:] - corners[..., :2]], axis=-1
        )
    form = {"format": "centre"} if is_centre else {}
    found = kept(boxes, scores, score_min=0.25, overlap_max=0.5, **form)
    for row in range(len(rows)):
        expected = slowly(corners[row].tolist(), scores[row].tolist(), 0.25, 0.5)
        some = len(expected)
        assert found[2][row].tolist() == [kind for _, kind, _ in expected] + [-1] * (COUNT - some)
        assert found[1][row].tolist() == [score for score, _, _ in expected] + [0] * (COUNT - some)
        assert found[0][row].tolist() == [list(box) for _, _, box in expected] + [[0] * 4] * (COUNT - some)


def test_one_class_is_what_onnx_selects():
    nodes = [helper.make_node("NonMaxSuppression", ["boxes", "scores", "count", "iou", "least"], ["chosen"])]
    constants = [helper.make_tensor("count", graphs.TensorProto.INT64, [1], [COUNT]),
                 helper.make_tensor("iou", graphs.TensorProto.FLOAT, [1], [0.45]),
                 helper.make_tensor("least", graphs.TensorProto.FLOAT, [1], [0.3])]  # fmt: skip
    inputs = [("boxes", "FP32", ("b", "n", 4)), ("scores", "FP32", ("b", "c", "n"))]
    graph = graphs.build(nodes, inputs, [("chosen", "INT64", ("k", 3))], constants)
    session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    random = np.random.default_rng(5)
    corner = random.random((20, 30, 2), np.float32)
    boxes = np.concatenate([corner, corner + random.random((20, 30, 2), np.float32)], axis=-1)
    scores = random.random((20, 30), np.float32)
    found = kept(boxes, scores, score_min=0.3, overlap_max=0.45)
    (chosen,) = session.run(None, {"boxes": boxes, "scores": scores[:, None]})
    for row in range(20):
        places = chosen[chosen[:, 0] == row][:, 2]
        np.testing.assert_array_equal(found[0][row, : len(places)], boxes[row, places])
        np.testing.assert_array_equal(found[1][row, : len(places)], scores[row, places])
        assert (found[2][row, len(places) :] == -1).all()


WRONG = [
    ({"overlap_max": 1.5}, "expected a number from 0 to 1"),
    ({"count": 0}, "expected a whole number from 1"),
    ({"format": "corner"}, "did you mean 'corners'"),
    ({"inputs": ["boxes"]}, "expected two inputs"),
    ({"inputs": ["scores", "boxes"]}, "expected"),
]


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_a_declaration_that_cannot_be_is_refused(options, message):
    with pytest.raises(LoadError, match=message):
        kept(np.zeros((1, 3, 4), np.float32), np.zeros((1, 3), np.float32), **options)
