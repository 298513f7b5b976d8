import numpy as np
import pytest

from serving.config import DriftConfig
from serving.errors import InvalidRequest
from serving.statistics.feedback import Feedback, Outcome
from serving.types import DYNAMIC, Datatype, Signature, TensorSpec
from tests.support.clocks import FakeClock

LABEL = TensorSpec("label", Datatype.INT64, (DYNAMIC,))
SCORES = TensorSpec("scores", Datatype.FP32, (DYNAMIC, 3))
PRICE = TensorSpec("price", Datatype.FP32, (DYNAMIC, 1))
TEXT = TensorSpec("text", Datatype.BYTES, (DYNAMIC,))
INPUT = TensorSpec("x", Datatype.FP32, (DYNAMIC, 2))


def feedback(*outputs, requests_max=100, **config):
    signature = Signature((INPUT,), outputs, batchable=True)
    one = Feedback("m", 1, signature, DriftConfig(feedback_requests_max=requests_max, **config), clock=FakeClock())
    one.begin(None)
    return one


def outcomes(one, *labels):
    counted = one.label(labels)
    return tuple(counted[outcome] for outcome in (Outcome.MATCHED, Outcome.UNMATCHED, Outcome.DOUBLED))


def test_labels_join_their_requests_and_are_counted_otherwise():
    one = feedback(LABEL)
    one.note("a", [np.array([0, 2])], 1)
    one.note("b", [np.array([1])], 0)
    assert outcomes(one, ("a", 2.0), ("b", 0.0), ("a", 2.0), ("c", 1.0)) == (2, 1, 1)
    assert one.mean_error == 0.5


def test_numbers_with_fractions_are_off_by_their_distance():
    one = feedback(PRICE)
    one.note("a", [np.array([[10.0]], np.float32)], 0)
    one.label([("a", 7.0)])
    assert one.mean_error == 3.0


def test_of_scores_the_largest_is_the_prediction():
    one = feedback(SCORES)
    one.note("a", [np.array([[0.1, 0.7, 0.2]], np.float32)], 0)
    one.label([("a", 1.0)])
    assert one.mean_error == 0.0


def test_texts_are_compared_as_texts():
    one = feedback(TEXT)
    one.note("a", [np.array(["cat"], object)], 0)
    one.note("b", [np.array(["cat"], object)], 0)
    assert outcomes(one, ("a", "cat"), ("b", "dog")) == (2, 0, 0)
    assert one.mean_error == 0.5


def test_the_oldest_requests_are_forgotten_beyond_the_bound():
    one = feedback(LABEL, requests_max=2)
    for name in "abc":
        one.note(name, [np.array([1])], 0)
    assert outcomes(one, ("a", 1.0), ("b", 1.0), ("c", 1.0)) == (2, 1, 0)


def test_an_id_that_comes_again_is_the_new_request():
    one = feedback(LABEL)
    one.note("a", [np.array([1])], 0)
    one.label([("a", 1.0)])
    one.note("a", [np.array([2])], 0)
    assert outcomes(one, ("a", 1.0)) == (1, 0, 0)
    assert one.mean_error == 0.5


@pytest.mark.parametrize(("output", "label"), [(LABEL, "cat"), (TEXT, 1.0), (LABEL, float("nan"))])
def test_a_label_that_cannot_be_compared_refuses_all_of_its_call(output, label):
    one = feedback(output)
    value = np.array(["cat"], object) if output is TEXT else np.array([1])
    good = "cat" if output is TEXT else 1.0
    one.note("a", [value], 0)
    one.note("b", [value], 0)
    with pytest.raises(InvalidRequest):
        one.label([("a", good), ("b", label)])
    assert outcomes(one, ("a", good)) == (1, 0, 0)


def test_nothing_is_remembered_unless_it_was_asked_for():
    one = feedback(LABEL, requests_max=0)
    assert not one.is_on
    with pytest.raises(InvalidRequest, match="feedback_requests_max"):
        one.label([("a", 1.0)])


def test_errors_that_become_more_frequent_alarm():
    one = feedback(LABEL, feedback_labels_reference=500, requests_max=5_000)
    rng = np.random.default_rng(0)

    def answer(count, wrong, name):
        for k in range(count):
            one.note(f"{name}{k}", [np.array([1])], 0)
        one.label([(f"{name}{k}", 0.0 if rng.random() < wrong else 1.0) for k in range(count)])

    answer(500, 0.1, "reference")
    assert one.watch.report().phase == "watching"
    answer(500, 0.1, "same")
    assert not one.watch.report().is_alarm
    answer(500, 0.5, "worse")
    assert one.watch.report().is_alarm
