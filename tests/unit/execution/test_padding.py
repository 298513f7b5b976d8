"""Padding, on real graphs: with a first dimension that is fixed, and with one that is open."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from serving.config import InstancesConfig, SessionConfig
from serving.errors import LoadError
from serving.execution.padding import OutputWithoutRowsError, PaddedSession, fitted, fixed_rows, opened
from serving.execution.session import Session
from serving.types import DYNAMIC, Datatype, Signature, TensorSpec
from tests.support import graphs
from tests.support.sessions import FakeSession


@pytest.fixture
def load(tmp_path):
    def load(graph, *rows_allowed):
        path = tmp_path / "model.onnx"
        path.write_bytes(graph)
        return fitted(Session(path, SessionConfig(intra_op_threads=1), InstancesConfig()), rows_allowed)

    return load


def rows_of(count):
    return np.random.default_rng(count).standard_normal((count, 4)).astype(np.float32)


@pytest.mark.parametrize("rows", range(9))
def test_a_graph_that_fixes_its_rows_runs_any_number_up_to_them(load, rows):
    session = load(graphs.affine(rows=8), 8)
    assert session.signature.batchable
    assert [spec.shape for spec in session.signature.inputs + session.signature.outputs] == [(DYNAMIC, 4)] * 2
    (y,) = session.run([rows_of(rows)])
    np.testing.assert_array_equal(y, 2 * rows_of(rows) + 1)
    assert y.flags.c_contiguous


@given(st.lists(st.integers(1, 20), min_size=1, max_size=5, unique=True), st.data())
def test_the_graph_sees_allowed_sizes_only_and_the_caller_its_own_rows(sizes, data):
    sizes.sort()
    rows = data.draw(st.integers(0, sizes[-1]))
    graph = FakeSession()
    (y,) = PaddedSession(graph, sizes).run([rows_of(rows)])
    assert graph.runs == [min(size for size in sizes if size >= rows)]
    np.testing.assert_array_equal(y, 2 * rows_of(rows) + 1)


def test_padding_repeats_the_last_row_which_the_model_has_to_compute_anyway():
    seen = []
    PaddedSession(FakeSession(lambda x: [seen.append(x) or x]), (4,)).run([np.array([[1.0], [2.0]], np.float32)])
    assert seen[0].ravel().tolist() == [1, 2, 2, 2]


def test_a_batch_of_an_allowed_size_is_not_copied():
    seen, x = [], rows_of(4)
    PaddedSession(FakeSession(lambda x: [seen.append(x) or x]), (4,)).run([x])
    assert seen[0] is x


@pytest.mark.parametrize("datatype", Datatype)
def test_rows_of_every_datatype_are_padded(load, datatype):
    session = load(graphs.identity(datatype.wire_name, (5, 2)), 5)
    if datatype is Datatype.BYTES:
        x = np.array([["a", ""], ["é", "b" * 100]], np.object_)
    else:
        x = np.array([[0, 1], [1, 0]], datatype.dtype)
    for rows in (0, 2):
        (y,) = session.run([x[:rows]])
        assert (y.shape, y.dtype) == ((rows, 2), datatype.dtype)
        assert y.tolist() == x[:rows].tolist()


def test_rows_of_one_element_are_padded(load):
    session = load(graphs.identity("BYTES", (3,)), 3)
    assert session.run([np.array(["text"], np.object_)])[0].tolist() == ["text"]


def test_all_inputs_are_padded_and_all_outputs_cut(load):
    session = load(graphs.add_and_subtract(), 2, 4)
    left, right = np.arange(48).reshape(3, 16), np.full((3, 16), 7)
    total, difference = session.run([left, right])
    np.testing.assert_array_equal(total, left + right)
    np.testing.assert_array_equal(difference, left - right)


def test_an_output_that_does_not_follow_the_padded_rows_is_an_error_and_no_answer():
    session = PaddedSession(FakeSession(lambda x: [x.mean(axis=0, keepdims=True)]), (4,))
    with pytest.raises(OutputWithoutRowsError, match=r"'y' has shape \[1, 4\] for a batch of 4 rows"):
        session.run([rows_of(1)])


@pytest.mark.parametrize("sizes", [(4,), (4, 8), (16,)], ids=str)
def test_other_sizes_than_the_graph_fixes_are_refused(load, sizes):
    with pytest.raises(LoadError, match=r"fixes the first dimension of 'x' at 8; give \[8\]"):
        load(graphs.affine(rows=8), *sizes)


def test_an_output_of_unknown_rank_is_left_to_a_run(load):
    signature = Signature((TensorSpec("x", Datatype.FP32, (8, 4)),), (TensorSpec("y", Datatype.FP32, ()),), False)
    assert opened(signature, (8,)).outputs[0].shape == ()
    assert not opened(signature, (8,)).batchable


@pytest.mark.parametrize(
    "inputs", [(), (TensorSpec("x", Datatype.FP32, ()),)], ids=["no input", "an input without dimensions"]
)
def test_a_graph_without_rows_is_refused(inputs):
    outputs = (TensorSpec("y", Datatype.FP32, (DYNAMIC, 4)),)
    with pytest.raises(LoadError, match="inputs have rows"):
        opened(Signature(inputs, outputs, batchable=False), (8,))


@pytest.mark.parametrize(
    ("graph", "rows"),
    [(graphs.affine(rows=8), 8), (graphs.affine(), 0), (graphs.identity("FP32", ()), 0)],
    ids=["fixed", "open", "no dimension"],
)
def test_a_graph_tells_whether_it_fixes_its_first_dimension(load, graph, rows):
    assert fixed_rows(load(graph).signature) == rows


def test_nothing_stands_between_where_nothing_is_to_be_padded(load):
    assert isinstance(load(graphs.affine()), Session)
    assert isinstance(load(graphs.affine(rows=1), 1), Session)


def test_closing_it_closes_the_graph():
    graph = FakeSession()
    PaddedSession(graph, (4,)).close()
    assert graph.closed


def test_a_row_that_zeros_would_fail_is_padded_all_the_same(load):
    """y = table[index - 9]: zeros are no index."""
    constants = [
        helper.make_tensor("table", TensorProto.FLOAT, [4], [5.0, 6.0, 7.0, 8.0]),
        helper.make_tensor("nine", TensorProto.INT64, [], [9]),
    ]
    nodes = [helper.make_node("Sub", ["x", "nine"], ["at"]), helper.make_node("Gather", ["table", "at"], ["y"])]
    session = load(graphs.build(nodes, [("x", "INT64", (8,))], [("y", "FP32", (8,))], constants), 8)
    assert session.run([np.array([9, 11])])[0].tolist() == [5, 7]
