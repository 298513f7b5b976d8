import json

import pytest

from serving.package.facts import columns_of, labels_of, passes_of
from serving.types import Datatype, Signature, TensorSpec

MATRIX = TensorSpec("features", Datatype.FP32, (-1, 2))
SCORES = TensorSpec("scores", Datatype.FP32, (-1, 2))
LABEL = TensorSpec("label", Datatype.INT64, (-1,))
ONE = Signature((MATRIX,), (LABEL, SCORES), batchable=True)


def facts(**values):
    return {f"penstock.{name}": json.dumps(value) for name, value in values.items()}


def test_the_columns_of_the_one_matrix_are_known():
    assert columns_of(facts(features=["a", "b"]), ONE) == {"features": ("a", "b")}


def test_each_input_that_is_one_column_is_named():
    inputs = (TensorSpec("age", Datatype.FP32, (-1, 1)), TensorSpec("city", Datatype.BYTES, (-1, 1)))
    signature = Signature(inputs, (LABEL,), batchable=True)
    assert columns_of(facts(features=["city", "age"]), signature) == {"age": ("age",), "city": ("city",)}


def test_the_classes_of_the_scores_are_known():
    assert labels_of(facts(labels=["no", "yes"]), ONE) == {"scores": ("no", "yes")}


def test_passes_are_known():
    assert passes_of({"penstock.passes": "slim, fp16"}) == ("slim", "fp16")


@pytest.mark.parametrize("value", [["a"], ["a", "a"], ["a", 1], "ab", None, {"a": 1}, ["a", ""]], ids=str)
def test_what_does_not_fit_is_left_aside(value):
    assert columns_of(facts(features=value), ONE) == labels_of(facts(labels=value), ONE) == {}


@pytest.mark.parametrize("text", ["", "[", "[" * 100_000, "NaN"], ids=["empty", "open", "deep", "NaN"])
def test_what_is_no_json_is_left_aside(text):
    assert columns_of({"penstock.features": text}, ONE) == {}
