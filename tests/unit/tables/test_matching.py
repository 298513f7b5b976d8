import numpy as np
import pytest

from serving.errors import ConfigError
from serving.tables.matching import match
from serving.tables.sources import open_source
from serving.types import Datatype, Signature, TensorSpec

MATRIX = TensorSpec("features", Datatype.FP32, (-1, 2))
OUTPUT = TensorSpec("y", Datatype.FP32, (-1,))


def signature(*inputs):
    return Signature(inputs, (OUTPUT,), batchable=True)


def tensors(signature, source, columns=None, **options):
    source = open_source(source)
    matched = match(signature, columns or {}, source.names, is_table=source.is_table, label="rows", **options)
    chunk = next(source.chunks(10, skip=0))
    return {item.spec.name: item.tensor(chunk) for item in matched}


def table(**columns):
    return {name: np.array(values) for name, values in columns.items()}


def test_columns_go_into_the_matrix_in_the_models_order_whatever_the_files():
    rows = table(extra=[9, 9], b=[3.0, 4.0], a=[1.0, 2.0])
    result = tensors(signature(MATRIX), rows, {"features": ("a", "b")})
    assert result["features"].tolist() == [[1, 3], [2, 4]]
    assert result["features"].dtype == np.float32


def test_each_input_takes_the_column_of_its_name():
    inputs = (TensorSpec("age", Datatype.INT64, (-1, 1)), TensorSpec("city", Datatype.BYTES, (-1,)))
    result = tensors(signature(*inputs), table(city=["x", "y"], age=[1.0, 2.0]))
    assert result["age"].tolist() == [[1], [2]]
    assert result["city"].tolist() == ["x", "y"]


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_an_input_of_one_column_takes_the_column_that_the_package_names(shape):
    spec = TensorSpec("age_input", Datatype.FP32, shape)
    result = tensors(signature(spec), table(age=[1.0, 2.0]), {"age_input": ("age",)})
    assert result["age_input"].reshape(-1).tolist() == [1, 2]
    assert result["age_input"].ndim == len(shape)


def test_an_array_of_the_inputs_name_is_taken_whole():
    result = tensors(signature(MATRIX), {"features": np.arange(4).reshape(2, 2)})
    assert result["features"].tolist() == [[0, 1], [2, 3]]


def test_an_array_without_a_name_is_the_one_input():
    assert tensors(signature(MATRIX), np.ones((3, 2)))["features"].shape == (3, 2)


def test_the_files_order_is_taken_only_when_told():
    rows = table(b=[3.0], a=[1.0])
    with pytest.raises(ConfigError, match=r"rows has no 'features'.*does not name its columns.*--file-order"):
        tensors(signature(MATRIX), rows)
    assert tensors(signature(MATRIX), rows, file_order=True)["features"].tolist() == [[3, 1]]


@pytest.mark.parametrize(
    ("inputs", "rows", "columns", "message"),
    [
        ((MATRIX,), table(a=[1.0]), {"features": ("a", "b")}, "rows lacks column 'b', which input 'features' is made"),
        ((MATRIX,), table(a=[1.0], b=[1.0], c=[1.0]), {}, "rows has 3 columns, input 'features' wants 2"),
        ((MATRIX,), np.ones((3, 5)), {}, "the array has rows of shape .5., input 'features' wants .2."),
        ((MATRIX,), {"features": np.ones((3, 2, 1))}, {}, "'features' has rows of shape .2, 1., input"),
        ((MATRIX, OUTPUT), table(features=[1.0]), {}, "'features' has rows|rows has no 'y', which the model takes"),
        ((TensorSpec("x", Datatype.FP32, (2, 3)),), table(x=[1.0]), {}, "whose first dimension does not count rows"),
        ((TensorSpec("x", Datatype.FP32, ()),), table(x=[1.0]), {}, "whose first dimension does not count rows"),
    ],
    ids=["column missing", "too many", "narrow", "deep", "input missing", "fixed", "no rows"],
)
def test_what_does_not_match_says_what_is_missing(inputs, rows, columns, message):
    with pytest.raises(ConfigError, match=message):
        tensors(signature(*inputs), rows, columns, file_order=True)


def test_a_wrong_cell_is_named_by_its_column():
    rows = {"a": np.array(["1", "2"], np.object_), "b": np.array(["3", "x"], np.object_)}
    with pytest.raises(ConfigError, match="row 1, column 'b': 'x', expected a number"):
        tensors(signature(MATRIX), rows, {"features": ("a", "b")})
