import numpy as np
import pytest

from serving.errors import ConfigError
from serving.tables.cells import as_datatype
from serving.types import Datatype


def text(*cells):
    return np.array(cells, np.object_)


def convert(values, datatype, start=0):
    return as_datatype(values, datatype, column="age", start=start)


@pytest.mark.parametrize(
    ("values", "datatype", "expected"),
    [
        (text("1.5", "", "NA", "inf"), Datatype.FP32, [1.5, np.nan, np.nan, np.inf]),
        (text(None, 2, 0.5), Datatype.FP64, [np.nan, 2, 0.5]),
        (text("true", "0"), Datatype.FP32, [1, 0]),
        (np.array([1, 2]), Datatype.FP16, [1, 2]),
        (text("7", " 8 ", "9.0", "true"), Datatype.INT64, [7, 8, 9, 1]),
        (text("9223372036854775807"), Datatype.INT64, [2**63 - 1]),
        (text("18446744073709551615"), Datatype.UINT64, [2**64 - 1]),
        (np.array([3.0, -128.0]), Datatype.INT8, [3, -128]),
        (text("1", "false"), Datatype.BOOL, [True, False]),
        (np.array([True, False]), Datatype.BOOL, [True, False]),
        (text("1.5", "nan"), Datatype.BF16, [0x3FC0, 0x7FC0]),
        (text("a", ""), Datatype.BYTES, ["a", ""]),
        (np.array(["a", "bc"]), Datatype.BYTES, ["a", "bc"]),
        (np.array([1, 20]), Datatype.BYTES, ["1", "20"]),
    ],
    ids=str,
)
def test_what_fits_is_converted(values, datatype, expected):
    result = convert(values, datatype)
    assert result.dtype == datatype.dtype
    np.testing.assert_array_equal(result, np.array(expected, datatype.dtype))


@pytest.mark.parametrize(
    ("values", "datatype", "message"),
    [
        (text("1", "x"), Datatype.FP32, "row 11, column 'age': 'x', expected a number"),
        (text("1", "x" * 99), Datatype.FP32, "row 11, column 'age': 'xxx.*[.]{3}, expected a number"),
        (text("1", "18_25"), Datatype.FP32, "row 11, column 'age': '18_25', expected a number"),
        (text("1", "18_25"), Datatype.INT64, "row 11, column 'age': '18_25', expected a whole number"),
        (text("1", "1e400"), Datatype.FP64, "row 11, column 'age': '1e400' does not fit FP64"),
        (text("1", "1e300"), Datatype.FP32, "row 11, column 'age': 1e[+]300 does not fit FP32"),
        (text("1", "1.5"), Datatype.INT64, "row 11, column 'age': '1.5', expected a whole number"),
        (text("1", ""), Datatype.INT64, "row 11, column 'age': '', expected a whole number"),
        (text("1", "inf"), Datatype.INT64, "row 11, column 'age': 'inf', expected a whole number"),
        (text("1", None), Datatype.INT64, "row 11, column 'age': None, expected a whole number"),
        (text("1", "300"), Datatype.UINT8, "row 11, column 'age': 300 does not fit UINT8, expected 0 to 255"),
        (np.array([1, np.nan]), Datatype.INT32, "row 11, column 'age': nan is no whole number, expected INT32"),
        (np.array([1, 2.0**63]), Datatype.INT64, "does not fit INT64"),
        (np.array([0, -1]), Datatype.UINT64, "does not fit UINT64"),
        (text("1", "2"), Datatype.BOOL, "row 11, column 'age': 2.0 is neither true nor false"),
        (text("1", ""), Datatype.BOOL, "is neither true nor false"),
        (text("a", None), Datatype.BYTES, "row 11, column 'age': None is no text, and ONNX has no missing string"),
        (np.array([0.5, np.nan]), Datatype.BYTES, "row 10, column 'age': 0.5 is no text"),
        (np.array(["2020-01-01"] * 2, "M8[D]"), Datatype.FP32, "row 10, column 'age': .*2020.*expected a number"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_named_by_row_and_column(values, datatype, message):
    with pytest.raises(ConfigError, match=message):
        convert(values, datatype, start=10)


def test_the_row_of_a_wrong_cell_in_a_matrix_is_that_of_its_line():
    with pytest.raises(ConfigError, match="row 6, column 'age'"):
        convert(text("1", "2", "3", "x").reshape(2, 2), Datatype.FP32, start=5)


def test_bfloat16_rounds_to_the_nearest_even_and_keeps_nan():
    values = np.array([1.0, 1 + 2**-8, 1 + 3 * 2**-8, np.nan, -np.inf, 3.0e38])
    bits = convert(values, Datatype.BF16)
    back = (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
    np.testing.assert_array_equal(back[:3], [1.0, 1.0, 1 + 2**-6])
    assert np.isnan(back[3])
    assert back[4] == -np.inf


@pytest.mark.parametrize("dtype", ["datetime64[ns]", "datetime64[s]", "timedelta64[s]", "complex128", "i4,i4", "V3"])
@pytest.mark.parametrize("datatype", [Datatype.FP32, Datatype.INT64, Datatype.BOOL])
def test_a_column_of_neither_numbers_nor_text_is_refused(dtype, datatype):
    values = np.zeros(2, dtype)
    with pytest.raises(ConfigError, match=r"row 5, column 'when': .* of type .*, expected a number"):
        as_datatype(values, datatype, column="when", start=5)
