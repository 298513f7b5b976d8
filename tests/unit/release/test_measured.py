"""Rows whose label is decided by rounding are no difference; everything else is."""

import numpy as np
import pytest

from serving.release import measured
from serving.release.finding import Verdict
from serving.types import DYNAMIC, Datatype, Signature, TensorSpec

TOLERANCE = 1e-5
ROWS = {"x": np.arange(8, dtype=np.float32)[:, None]}
SIGNATURE = Signature(
    (TensorSpec("x", Datatype.FP32, (DYNAMIC, 1)),),
    (TensorSpec("label", Datatype.INT64, (DYNAMIC,)), TensorSpec("scores", Datatype.FP32, (DYNAMIC, 2))),
    batchable=True,
)


class Scorer:
    """A classifier of two classes; what a batch's size adds to its scores decides between those that are even."""

    def __init__(self, scores_of, by_batch=0.0):
        self._scores_of = scores_of
        self._by_batch = by_batch

    def infer(self, inputs):
        x = inputs["x"][:, 0]
        first = self._scores_of(x) + (self._by_batch if len(x) > 1 else 0.0)
        scores = np.stack([first, 1 - first], axis=1).astype(np.float32)
        return {"label": scores.argmax(axis=1), "scores": scores}


def judge(running):
    return measured.batch_invariance(running, SIGNATURE, ROWS, TOLERANCE)


def test_a_label_that_rounding_decides_does_not_depend_on_its_batch():
    tie_at_three = Scorer(lambda x: np.where(x == 3, 0.5, x / 8 + 0.01), by_batch=-1e-7)
    rows = tie_at_three.infer(ROWS)["label"], tie_at_three.infer({"x": ROWS["x"][3:4]})["label"]
    assert rows[0][3] != rows[1][0], "or this tests nothing"
    assert judge(tie_at_three).verdict is Verdict.PASS


@pytest.mark.parametrize("by_batch", [1e-3, -1e-3])
def test_scores_that_depend_on_their_batch_are_found_also_where_they_tie(by_batch):
    finding = judge(Scorer(lambda x: np.where(x == 3, 0.5, x / 8 + 0.01), by_batch=by_batch))
    assert (finding.verdict, finding.number) == (Verdict.FAIL, 8)


def test_a_label_that_depends_on_its_batch_though_its_scores_do_not_is_found():
    class Biased(Scorer):
        def infer(self, inputs):
            answer = super().infer(inputs)
            return answer | {"label": answer["label"] if len(answer["label"]) > 1 else 1 - answer["label"]}

    finding = judge(Biased(lambda x: x / 8 + 0.01))
    assert (finding.verdict, finding.number) == (Verdict.FAIL, 8)


def test_a_label_that_depends_on_its_batch_is_found_beside_numbers_that_do_not_decide_it():
    class OfItsBatch:
        def infer(self, inputs):
            x = inputs["x"][:, 0]
            return {
                "label": (x > x.mean()).astype(np.int64),
                "clipped": np.stack([x, x + 1], axis=1).clip(0, self.high),
            }

    for OfItsBatch.high in (0, 6):  # all rows are even, two are
        finding = judge(OfItsBatch())
        assert (finding.verdict, finding.number) == (Verdict.FAIL, 4)


def test_only_scores_that_decide_a_label_can_tie():
    scores, labels = np.array([[0.1, 0.4, 0.4], [0.1, 0.1, 0.8], [0.9, 0.1, 0.0]]), np.array(["b", "c", "a"])

    def tied(scores, labels):
        return measured.tied_rows({"scores": scores}, labels, TOLERANCE).tolist()

    assert tied(scores, labels) == tied(scores, labels[:, None]) == [True, False, False]
    assert tied(scores, labels[[0, 1, 1]]) == [False] * 3, "two columns of one label"
    assert tied(scores[[0, 1, 1]], labels) == [False] * 3, "two labels of one column"
    assert tied(scores[:1], labels[:1]) == [False], "nothing tells"
    assert tied(scores[:2], labels) == tied(scores, np.stack([labels, labels], axis=1)) == [False] * 3
    assert tied(scores[:, :1], labels) == tied((10 * scores).astype(np.int64), labels) == [False] * 3
