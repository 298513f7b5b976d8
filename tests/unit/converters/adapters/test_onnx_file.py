import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from converters.conversion import convert
from serving.errors import ConfigError
from tests.support import graphs, trained

ROWS = np.random.default_rng(0).random((30, 4), np.float32)


def of(graph: bytes):
    return onnx.load_from_string(graph)


def with_zipmap():
    """A classifier as skl2onnx and CatBoost write it by default."""
    from skl2onnx import to_onnx

    model, rows = trained.forest()
    return to_onnx(model, rows[:1].astype(np.float32), target_opset={"": 21, "ai.onnx.ml": 3}), rows


def test_a_zipmap_is_taken_off_and_its_classes_are_kept():
    model, rows = with_zipmap()
    assert any(node.op_type == "ZipMap" for node in model.graph.node)
    done = convert(model, rows)
    assert done.draft.labels == ("0", "1", "2")
    shapes = {spec.name: spec.shape for spec in done.signature.outputs}
    assert (-1, 3) in shapes.values()
    assert any("ZipMap" in note for note in done.report.notes)


def test_several_inputs_are_matched_by_name():
    done = convert(of(graphs.add_and_subtract()), {name: np.ones((5, 16), np.int64) for name in ("INPUT0", "INPUT1")})
    assert [spec.name for spec in done.signature.outputs] == ["OUTPUT0", "OUTPUT1"]
    with pytest.raises(ConfigError, match="the graph takes INPUT0, INPUT1, and the sample has one matrix"):
        convert(of(graphs.add_and_subtract()), np.ones((5, 16)))


def test_a_newer_file_format_is_written_as_what_the_target_loads():
    model = of(graphs.affine())
    model.ir_version = 13
    done = convert(model, ROWS)
    assert onnx.load_from_string(done.graph).ir_version == 10


def test_what_exporters_leave_behind_does_not_enter_the_graph():
    model = of(graphs.affine())
    model.metadata_props.add(key="made at", value="Monday, in /home/me")
    model.graph.doc_string = "made by hand"
    assert b"/home/me" not in convert(model, ROWS).graph


def test_a_graph_that_breaks_a_rule_is_refused():
    model = of(graphs.affine())
    model.graph.node[0].input[0] = "nowhere"
    with pytest.raises(ConfigError, match="breaks a rule of ONNX"):
        convert(model, ROWS)


def test_operators_of_a_library_of_its_own_are_refused():
    node = helper.make_node("Magic", ["x"], ["y"], domain="com.example")
    model = of(graphs.build([node], [("x", "FP32", ("rows", 4))], [("y", "FP32", ("rows", 4))]))
    model.opset_import.add(domain="com.example", version=1)
    with pytest.raises(ConfigError, match=r"operators of 'com.example'.*export the model without"):
        convert(model, ROWS)


def test_a_graph_for_several_rows_at_a_time_is_refused():
    with pytest.raises(ConfigError, match="takes exactly 2 rows at a time"):
        convert(of(graphs.fixed_shape()), np.ones((4, 3), np.float32))


def test_a_graph_without_inputs_is_refused():
    constant = helper.make_tensor("value", TensorProto.FLOAT, [1], [1.0])
    node = helper.make_node("Constant", [], ["y"], value=constant)
    with pytest.raises(ConfigError, match="has no inputs"):
        convert(of(graphs.build([node], [], [("y", "FP32", (1,))])), ROWS)


def doubled(datatype):
    """A graph that answers with its input, twice as much."""
    node = helper.make_node("Add", ["x", "x"], ["y"])
    return of(graphs.build([node], [("x", datatype, ("rows", 2))], [("y", datatype, ("rows", 2))]))


@pytest.mark.parametrize(
    ("datatype", "cell", "told"),
    [
        ("INT64", 5.1, "5.1 is no whole number, expected INT64"),
        ("INT64", np.nan, "nan is no whole number, expected INT64"),
        ("INT32", 3e9, "does not fit INT32"),
        ("FP32", "five", "'five', expected a number"),
    ],
)
def test_a_sample_that_an_input_cannot_hold_is_refused_and_not_bent_to_fit(datatype, cell, told):
    with pytest.raises(ConfigError, match=f"row [01], column 'x': .*{told}"):
        convert(doubled(datatype), {"x": np.array([[1, 2], [3, cell]])})


def test_whole_numbers_that_came_as_floats_are_given_to_an_input_of_integers():
    done = convert(doubled("INT64"), np.array([[1.0, 2.0], [3.0, 4.0]]))
    assert done.draft.exact["x"].dtype == np.int64
    assert not {"edge-nan", "edge-infinite"} & {check.name for check in done.report.checks}
