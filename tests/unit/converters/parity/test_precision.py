"""Numbers that the graph's datatypes cannot hold: measurements may be rounded, and identifiers may not."""

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from converters.conversion import convert
from converters.parity import precision
from converters.parity.gate import Settings
from converters.parity.report import ParityError
from serving.errors import ConfigError
from serving.types import Datatype

SHOPS = np.array([123_456_789, 223_456_790, 5])


def shops(dtype, *, handle_unknown="ignore"):
    """A pipeline that tells shops apart by number, and its rows; every shop comes up."""
    frame = pd.DataFrame({"age": np.linspace(20, 80, 60), "shop": SHOPS[np.arange(60) % 3].astype(dtype)})
    encoder = OneHotEncoder(handle_unknown=handle_unknown)
    columns = make_column_transformer((encoder, ["shop"]), remainder="passthrough")
    return make_pipeline(columns, LogisticRegression()).fit(frame, np.arange(60) % 3 == 0), frame


def test_a_category_that_rounding_makes_another_is_refused_by_column():
    told = (
        r"precision: \d+ of 63 rows .* column 'shop' \(\d+ becomes \d+ in float32\) .*whole numbers \(int64\) or words"
    )
    with pytest.raises(ParityError, match=told):
        convert(*shops(np.float64))


def test_a_category_that_the_sample_lacks_is_tried_too():
    model, frame = shops(np.float64)
    few = frame[frame["shop"] == 5]
    with pytest.raises(ParityError, match=r"precision: 2 of 23 rows .* \(123456789 becomes 123456792 in float32\)"):
        convert(model, few)


def test_a_category_that_only_rounding_makes_unknown_is_told_as_such():
    with pytest.raises(ConfigError, match=r"Unknown Category.*rounding: column 'shop' \(123456789 becomes 123456792"):
        convert(*shops(np.float64, handle_unknown="error"))


def test_a_category_that_the_graph_refuses_and_the_sample_lacks_is_told_in_a_line():
    model, frame = shops(np.float64, handle_unknown="error")
    with pytest.raises(ParityError, match=r"precision: the graph gives no answer: .*Unknown Category.*column 'shop'"):
        convert(model, frame[frame["shop"] == 5])


def test_the_same_categories_as_whole_numbers_keep_their_digits():
    done = convert(*shops(np.int64))
    assert {spec.name: spec.datatype for spec in done.signature.inputs} == {
        "age": Datatype.FP32, "shop": Datatype.INT64,
    }  # fmt: skip
    names = [check.name for check in done.report.checks]
    assert "categories" in names


def test_a_waiver_lets_rounded_categories_pass():
    done = convert(*shops(np.float64), settings=Settings(waivers={"precision": "shops are gone"}))
    assert done.report.waivers == {"precision": "shops are gone"}


def test_large_measurements_may_lose_their_last_digits():
    rows = np.linspace(1e8, 9e8, 40)[:, None].round()
    done = convert(LinearRegression().fit(rows, rows[:, 0] * 2), rows)
    assert next(check for check in done.report.checks if check.name == "precision").passed


def test_a_measurement_of_which_only_the_last_digits_matter_is_refused():
    """Seconds since 1970: a float32 tells apart every 128th."""
    seconds = 1.7e9 + np.arange(200.0)[:, None]
    with pytest.raises(ParityError, match=r"column 'features\[0\]' .* take an offset off large measurements"):
        convert(LinearRegression().fit(seconds, np.arange(200.0)), seconds)


def test_whole_numbers_that_a_float_cannot_hold_are_counted_by_row():
    exact = {"x": np.array([[1.0, 16_777_217.0], [0.1, 16_777_218.0], [np.nan, np.inf]])}
    cast = {"x": exact["x"].astype(np.float32)}
    assert precision.whole_changed(exact, cast).tolist() == [True, False, False]
    words = {"x": np.array([["a"], ["b"]], object)}
    assert not precision.whole_changed(words, words).any()
