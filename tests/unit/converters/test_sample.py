import numpy as np
import pytest

from converters.sample import Sample
from serving.errors import ConfigError


def test_a_matrix_is_one_tensor_called_features():
    sample = Sample.of(np.ones((3, 2)))
    assert list(sample.arrays) == ["features"]
    assert sample.rows == 3


def test_columns_of_a_frame_keep_their_names_and_kinds():
    import pandas as pd

    sample = Sample.of(pd.DataFrame({"a": [1.5, 2.0], "b": ["x", "y"], "c": [1, 2], "d": [True, False]}))
    assert sample.is_table
    assert {name: item.dtype.kind for name, item in sample.arrays.items()} == {"a": "f", "b": "O", "c": "i", "d": "b"}


def test_columns_of_a_polars_frame_are_taken_too():
    polars = pytest.importorskip("polars", reason="needs polars")
    sample = Sample.of(polars.DataFrame({"a": [1.5, 2.0], "b": ["x", "y"]}))
    assert sample.is_table
    assert list(sample.arrays["b"]) == ["x", "y"]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({}, "has no columns"),
        (np.empty((0, 3)), "has no rows"),
        ({"a": np.ones(2), "b": np.ones(3)}, "different numbers of rows: a 2, b 3"),
        ({"a": np.array(["x", None], object)}, "holds None in row 1 among strings.*fill it with a word"),
        (np.ones((2, 2), complex), "holds complex128; give numbers or strings"),
        (np.array([["a", None]], object), "holds None in row"),
        ([1, 2], "a sample of list cannot be read"),
    ],
)
def test_what_is_no_sample_is_refused(values, told):
    with pytest.raises(ConfigError, match=told):
        Sample.of(values)


def test_a_matrix_of_words_holds_python_strings_whatever_numpy_made_of_them():
    words = Sample.of(np.array([["a", "b"], ["c", "d"]])).matrix()
    assert words.dtype == object
    assert words.tolist() == [["a", "b"], ["c", "d"]]


def test_a_number_that_is_missing_among_objects_is_nan():
    assert np.isnan(Sample.of({"a": np.array([1, None], object)}).arrays["a"][1])


def test_a_matrix_of_columns_with_words_is_refused_with_what_to_do():
    with pytest.raises(ConfigError, match="ColumnTransformer"):
        Sample.of({"a": np.ones(2), "b": np.array(["x", "y"])}).matrix()


def test_equal_samples_have_equal_digests_and_others_have_not():
    one, other = np.ones((2, 2)), np.ones((2, 2), np.float32)
    assert Sample.of(one).digest() == Sample.of(one.copy()).digest()
    assert Sample.of(one).digest() != Sample.of(other).digest()
    assert Sample.of({"a": np.array(["x"])}).digest() != Sample.of({"b": np.array(["x"])}).digest()
