import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from sklearn.linear_model import LinearRegression

from converters.conversion import convert
from converters.parity.gate import Settings, judge
from converters.parity.tolerance import DEFAULTS
from serving.errors import ConfigError
from tests.support import graphs, trained


def check(report, name):
    return next(check for check in report.checks if check.name == name)


def test_both_kinds_of_error_are_told_apart():
    """HistGradientBoosting splits at values of its training data, so that rounding a row sends it the other way."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    rows, values = trained.diabetes()
    done = convert(HistGradientBoostingRegressor(max_iter=20, random_state=0).fit(rows, values), rows)
    conversion, precision = done.report.largest()
    assert conversion > 1
    assert precision < 1e-3
    assert check(done.report, "sample").beyond == 0


def test_what_the_framework_refuses_is_told_and_not_compared():
    refused = check(convert(*trained.linear()).report, "edge-nan")
    assert refused.verdict == "refused"
    assert refused.refused_rows == refused.rows > 0
    assert "NaN" in refused.refusal


def test_a_sample_that_the_framework_refuses_is_an_error_that_says_so():
    model, rows = trained.linear()
    holes = rows.copy()
    holes[7, 0] = np.nan
    with pytest.raises(ConfigError, match=r"scikit-learn refuses the sample: Input X contains NaN.*give rows"):
        convert(model, holes)


def test_rows_that_rounding_makes_infinite_are_not_compared():
    rows = np.array([[1e38], [2e38], [3e38]])
    done = convert(LinearRegression().fit(rows, np.arange(3.0)), rows)
    assert check(done.report, "edge-extreme").verdict == "refused"


def test_a_waiver_is_kept_for_a_check_that_fails_and_for_no_other():
    done = convert(*trained.linear())
    report = judge(done.draft, done.graph, Settings(waivers={"sample": "because"}))
    assert report.passed
    assert not report.waivers


def test_the_report_is_the_same_on_two_runs():
    first, second = (convert(*trained.forest()).report.to_json() for _ in range(2))
    assert first == second


def test_embeddings_are_held_to_the_cosine():
    model, rows = trained.linear()
    report = convert(model, rows, kind="embedding").report
    assert report.tolerance == DEFAULTS["embedding"]
    assert report.passed


def test_the_largest_batch_is_the_one_that_was_asked_for():
    report = convert(*trained.linear(), settings=Settings(batch_rows_max=300)).report
    assert check(report, "batch-300").rows >= 300


def labelled(*, missing_is_one: bool, gives_scores: bool):
    """The sign of the first number as a label, which of NaN is as good as any, beside the numbers themselves."""
    nodes = [
        helper.make_node("IsNaN", ["x"], ["missing"]),
        helper.make_node("Greater", ["x", "zero"], ["positive"]),
        helper.make_node("Or", ["positive", "missing" if missing_is_one else "positive"], ["is_one"]),
        helper.make_node("Cast", ["is_one"], ["ones"], to=TensorProto.INT64),
        helper.make_node("Reshape", ["ones", "shape"], ["label"]),
        helper.make_node("Identity" if gives_scores else "IsNaN", ["x"], ["y"]),
    ]
    constants = [
        helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0]),
        numpy_helper.from_array(np.array([-1]), "shape"),
    ]
    outputs = [("label", "INT64", ("rows",)), ("y", "FP32" if gives_scores else "BOOL", ("rows", 1))]
    return onnx.load_from_string(graphs.build(nodes, [("x", "FP32", ("rows", 1))], outputs, constants))


@pytest.mark.parametrize("gives_scores", [True, False])
def test_a_label_that_was_read_from_nan_may_be_another(gives_scores):
    rows = np.random.default_rng(0).normal(size=(40, 1))
    done = convert(labelled(missing_is_one=False, gives_scores=gives_scores), rows)
    other = labelled(missing_is_one=True, gives_scores=gives_scores).SerializeToString()
    assert check(judge(done.draft, other, Settings()), "edge-nan").passed is gives_scores


def judged_with_intercept(done, change):
    """Judge a linear model again after a change of its intercept."""
    model = onnx.load_from_string(done.graph)
    (node,) = (node for node in model.graph.node if node.op_type == "LinearRegressor")
    (intercepts,) = (item for item in node.attribute if item.name == "intercepts")
    intercepts.floats[0] = change(intercepts.floats[0])
    return judge(done.draft, model.SerializeToString(), Settings())


@pytest.mark.parametrize("unit", [1e-8, 1.0, 1e8])
def test_an_error_counts_beside_the_spread_of_answers_whatever_their_unit(unit):
    """An absolute tolerance alone would see nothing in answers of a millionth."""
    rows, values = trained.diabetes()
    spread = np.std(values * unit)
    done = convert(LinearRegression().fit(rows, values * unit), rows)
    assert judged_with_intercept(done, lambda intercept: intercept + 1e-6 * spread).passed
    assert not check(judged_with_intercept(done, lambda intercept: intercept + 1e-2 * spread), "sample").passed


def test_tiny_answers_that_are_all_the_same_are_not_taken_for_zero():
    rows, values = trained.diabetes()
    done = convert(LinearRegression().fit(rows, np.full_like(values, 1e-7)), rows)
    assert not check(judged_with_intercept(done, lambda intercept: 0.0), "sample").passed
