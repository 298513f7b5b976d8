import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import RegistryError
from serving.registry.mlflow.flavour import graph_of, is_plain
from tests.support.mlflow_answers import mlmodel


def test_the_graph_lies_where_the_onnx_flavour_says():
    assert graph_of(mlmodel(), model="fraud/1") == "model.onnx"
    assert graph_of(mlmodel({"onnx": {"data": "graph.onnx"}}), model="fraud/1") == "graph.onnx"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (mlmodel({"sklearn": {"pickled_model": "model.pkl"}, "python_function": {}}),
         "fraud/1 has the flavours 'python_function, sklearn'; only onnx is served, the others are pickles or code"),
        (mlmodel({}), "has the flavours ''"),
        (mlmodel({"a\nb": None}), r"has the flavours 'a\\nb'"),
        (mlmodel({"onnx": {"data": "../../secret"}}), r"names the graph '../../secret', expected a file beside it"),
        (mlmodel({"onnx": {"data": "/etc/passwd"}}), "expected a file beside it"),
        (mlmodel({"onnx": {"data": ".hidden"}}), "expected a file beside it"),
        (mlmodel({"onnx": {"data": ["model.onnx"]}}), "expected a file beside it"),
        (mlmodel({"onnx": None}), "names the graph None"),
        (b"flavors: [onnx]", "has no flavours"),
        (b"flavors: {", "is not YAML"),
        (b"[" * 100_000, "is not YAML"),
        (b"\xff", "is not YAML"),
        (b"!!python/object/apply:os.system ['false']", "is not YAML: could not determine a constructor"),
        (b"a: 9999-99-99", "is not YAML"),
        (b"", "has no flavours"),
    ],
)  # fmt: skip
def test_what_is_no_onnx_model_is_refused_with_a_reason(content, message):
    with pytest.raises(RegistryError, match=message):
        graph_of(content, model="fraud/1")


@given(st.binary(max_size=200))
def test_no_bytes_end_in_anything_but_an_answer_or_a_refusal(content):
    with contextlib.suppress(RegistryError):
        assert is_plain(graph_of(content, model="fraud/1"))
