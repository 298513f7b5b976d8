"""Defects that were seen in converted models elsewhere, put into graphs by hand: each must be caught, and by name."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier

from converters.conversion import convert
from converters.graph import load
from converters.parity.gate import Settings, judge
from serving.errors import ConfigError
from tests.support import graphs, trained


def judged(done, change):
    """Change a graph that has passed, and judge it again; return the names of the checks that fail."""
    model = load(done.graph)
    change(model)
    report = judge(done.draft, model.SerializeToString(), Settings())
    return {check.name for check in report.failures}


def attribute(model, name):
    (found,) = (item for node in model.graph.node for item in node.attribute if item.name == name)
    return found


@pytest.fixture(scope="module")
def boosted():
    rows, values = trained.diabetes()
    return convert(HistGradientBoostingRegressor(max_iter=5, random_state=0).fit(rows, values), rows)


def test_a_dropped_base_score_is_caught(boosted):
    def drop(model):
        (node,) = (node for node in model.graph.node if node.op_type == "TreeEnsembleRegressor")
        node.attribute.remove(attribute(model, "base_values"))

    assert {"sample", "thresholds", "batch-1", "shuffled"} <= judged(boosted, drop)


def test_swapped_columns_are_caught():
    def swap(model):
        features = attribute(model, "nodes_featureids").ints
        features[:] = [{2: 3, 3: 2}.get(feature, feature) for feature in features]

    assert "sample" in judged(convert(*trained.forest()), swap)


def test_two_coefficients_in_each_others_place_are_caught():
    def swap(model):
        values = attribute(model, "coefficients").floats
        values[2], values[3] = values[3], values[2]

    assert "sample" in judged(convert(*trained.linear()), swap)


def test_an_opset_that_the_target_does_not_load_is_caught():
    model = onnx.load_from_string(graphs.affine())
    model.opset_import[0].version = 24
    with pytest.raises(
        ConfigError, match=r"opset 24 of ai.onnx, and onnxruntime 1.23 loads up to 23; export it with opset 21"
    ):
        convert(model, np.ones((3, 4), np.float32))


def mean_of_batch(rows):
    """y = x - mean(x over the batch): right for one row at a time as it was exported, and for nothing else."""
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[0], keepdims=1),
        helper.make_node("Mul", ["mean", "half"], ["part"]),
        helper.make_node("Sub", ["x", "part"], ["y"]),
    ]
    half = helper.make_tensor("half", TensorProto.FLOAT, [], [0.5])
    made = onnx.load_from_string(graphs.build(nodes, [("x", "FP32", (rows, 4))], [("y", "FP32", (rows, 4))], [half]))
    made.opset_import[0].version = 17
    return made


def test_a_batch_dimension_baked_to_one_is_opened_only_when_answers_stay_the_same():
    rows = np.random.default_rng(0).random((20, 4), np.float32)
    with pytest.raises(ConfigError, match="opening its first dimension changes what it computes; export it again"):
        convert(mean_of_batch(1), rows)
    shape = numpy_helper.from_array(np.array([1, 2, 2], np.int64), "shape")
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["y"])]
    baked = onnx.load_from_string(graphs.build(nodes, [("x", "FP32", (1, 4))], [("y", "FP32", (1, 2, 2))], [shape]))
    done = convert(baked, rows)
    assert done.signature.batchable
    assert any("it was opened" in note for note in done.report.notes)


def test_answers_that_depend_on_the_batch_are_caught_by_the_sizes_of_batches():
    done = convert(graphs_identity(), np.random.default_rng(0).random((20, 4), np.float32))
    failed = {check.name for check in judge(done.draft, mean_of_batch("rows").SerializeToString(), Settings()).failures}
    assert {"batch-1", "batch-17", "invariance"} <= failed


@pytest.mark.parametrize(
    ("node", "shape"),
    [
        (helper.make_node("Transpose", ["x"], ["y"]), (4, "rows")),
        (helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0), ()),
    ],
    ids=["transposed", "summed up"],
)
def test_an_output_without_a_row_for_each_row_is_refused(node, shape):
    made = onnx.load_from_string(graphs.build([node], [("x", "FP32", ("rows", 4))], [("y", "FP32", shape)]))
    with pytest.raises(ConfigError, match=r"'y' has shape \[.*\] for 20 rows, expected a row for each"):
        convert(made, np.random.default_rng(0).random((20, 4), np.float32))


def graphs_identity():
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    return onnx.load_from_string(graphs.build(nodes, [("x", "FP32", ("rows", 4))], [("y", "FP32", ("rows", 4))]))


def test_a_graph_quantised_by_the_batch_at_hand_is_caught(tmp_path):
    from onnxruntime.quantization import quantize_dynamic

    rows, labels = trained.cancer()
    scaled = ((rows - rows.mean(axis=0)) / rows.std(axis=0)).astype(np.float32)
    model = MLPClassifier((16,), max_iter=40, random_state=0)
    with np.errstate(all="ignore"), pytest.warns(ConvergenceWarning):  # and need not converge
        model.fit(scaled, labels)
    done = convert(model, scaled)
    before, after = tmp_path / "before.onnx", tmp_path / "after.onnx"
    before.write_bytes(done.graph)
    quantize_dynamic(str(before), str(after))
    report = judge(done.draft, after.read_bytes(), Settings())
    invariance = next(check for check in report.checks if check.name == "invariance")
    assert invariance.verdict == "FAILED"
    assert invariance.beyond > 10


def test_missing_numbers_sent_the_other_way_are_caught(boosted):
    def turn(model):
        tracks = attribute(model, "nodes_missing_value_tracks_true").ints
        tracks[:] = [1 - value for value in tracks]

    assert judged(boosted, turn) == {"edge-nan"}
