"""What releases of XGBoost's converters got wrong, put into graphs that passed: the gate must notice.

Needs XGBoost, which is not in [test]; `slow` runs it in the environment of heavy frameworks.
"""

import pytest

from converters.conversion import convert
from converters.graph import load
from converters.parity.gate import Settings, judge
from converters.parity.report import ParityError
from tests.support import trained

xgboost = pytest.importorskip("xgboost", reason="needs xgboost: pip install '.[convert-xgboost]'")
pytest.importorskip("onnxmltools", reason="needs onnxmltools: pip install '.[convert-xgboost]'")

MODELS = {
    "regression": (xgboost.XGBRegressor, {}, trained.diabetes),
    "a far base": (xgboost.XGBRegressor, {"base_score": 1e4}, trained.diabetes),
    "counts": (xgboost.XGBRegressor, {"objective": "count:poisson"}, trained.diabetes),
    "two classes": (xgboost.XGBClassifier, {}, trained.cancer),
    "three classes": (xgboost.XGBClassifier, {}, lambda: tuple(item[:110] for item in trained.iris())),
}
"""Classes of different size: a softmax does not see one base for all of them."""


def fitted(name):
    kind, options, data = MODELS[name]
    rows, answers = data()
    return kind(n_estimators=5, max_depth=3, random_state=0, n_jobs=1, **options).fit(rows, answers), rows


@pytest.mark.parametrize("name", MODELS)
def test_a_base_score_that_the_graph_lost_is_caught(name):
    done = convert(*fitted(name))
    graph = load(done.graph)
    assert drop(graph), "the graph keeps its base score elsewhere"
    failed = {check.name for check in judge(done.draft, graph.SerializeToString(), Settings()).failures}
    assert {"sample", "batch-1", "shuffled"} <= failed


@pytest.mark.parametrize("name", MODELS)
def test_a_converter_that_does_not_read_the_base_score_is_refused(name, monkeypatch):
    """It does not know the list that XGBoost 3 writes, and takes what older ones had as a default."""
    from onnxmltools.convert.xgboost.operator_converters import XGBoost

    read = XGBoost.get_xgb_params
    monkeypatch.setattr(XGBoost, "get_xgb_params", lambda model: {**read(model), "base_score": [0.5]})
    with pytest.raises(ParityError, match=r"sample: .* rows beyond tolerance"):
        convert(*fitted(name))


def drop(graph):
    """Take the base score out of the trees, or out of the factor behind the Exp; tell whether it was there."""
    for node in graph.graph.node:
        for attribute in [item for item in node.attribute if item.name == "base_values"]:
            node.attribute.remove(attribute)
            return True
    for tensor in graph.graph.initializer:
        if tensor.name == "raw_prediction":
            tensor.float_data[:] = [1.0]
            return True
    return False
