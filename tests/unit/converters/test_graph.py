import numpy as np
import onnx
import pytest

from converters import graph
from converters.runner import Runner
from serving.errors import ConfigError
from tests.support import graphs


def test_a_name_that_is_in_use_is_made_free():
    model = onnx.load_from_string(graphs.affine())
    graph.rename(model, {"x": "scaled"})  # an inner value of this graph
    onnx.checker.check_model(model)
    rows = np.ones((2, 4), np.float32)
    np.testing.assert_array_equal(Runner(model.SerializeToString()).run({"scaled": rows})["y"], 2 * rows + 1)


def test_nodes_are_put_behind_what_they_need():
    model = onnx.load_from_string(graphs.affine())
    nodes = list(model.graph.node)[::-1]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    graph.sort_nodes(model)
    assert [node.op_type for node in model.graph.node] == ["Mul", "Add"]


def test_bytes_that_are_no_graph_are_refused():
    for data in (b"", b"hello, this is no graph"):
        with pytest.raises(ConfigError, match="no ONNX graph"):
            graph.load(data)
