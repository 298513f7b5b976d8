"""SavedModels of TensorFlow. Needs tensorflow, which is not in [test]; `slow` runs it in an environment that has it."""

import os

import numpy as np
import pytest

from converters.conversion import convert
from converters.loading import load_model
from converters.packaging import Label, contents_of
from serving.errors import ConfigError
from serving.types import Datatype

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
tensorflow = pytest.importorskip("tensorflow", reason="needs tensorflow: pip install '.[convert-tensorflow]'")
pytest.importorskip("tf2onnx", reason="needs tf2onnx: pip install '.[convert-tensorflow]'")

FLOATS = tensorflow.TensorSpec((None, 4), tensorflow.float32, name="x")
ROWS = np.random.default_rng(0).normal(size=(50, 4))


def saved(folder, function, *specs, names=("serving_default",)):
    """Save a function of tensors, under one signature or several; return the folder."""
    module = tensorflow.Module()
    module.weights = tensorflow.Variable(np.arange(12, dtype=np.float32).reshape(4, 3) / 10)
    module.function = tensorflow.function(lambda *tensors: function(module, *tensors), input_signature=specs)
    concrete = module.function.get_concrete_function()
    tensorflow.saved_model.save(module, str(folder), signatures=dict.fromkeys(names, concrete))
    return str(folder)


def scores(module, x):
    found = x @ module.weights
    return {"scores": tensorflow.nn.softmax(found), "label": tensorflow.argmax(found, axis=1)}


def test_a_signature_keeps_its_names_and_its_answers(tmp_path):
    done = convert(load_model(saved(tmp_path / "model", scores, FLOATS)).model, ROWS)
    assert done.framework.startswith("tensorflow 2.")
    assert [(spec.name, spec.datatype, spec.shape) for spec in (*done.signature.inputs, *done.signature.outputs)] == [
        ("x", Datatype.FP32, (-1, 4)), ("label", Datatype.INT64, (-1,)), ("scores", Datatype.FP32, (-1, 3)),
    ]  # fmt: skip
    assert done.report.largest()[0] < 1e-5


def test_a_model_of_keras_that_was_exported_on_tensorflow_converts(tmp_path):
    keras = pytest.importorskip("keras", reason="needs keras")
    if keras.backend.backend() != "tensorflow":
        pytest.skip("needs KERAS_BACKEND=tensorflow")
    layers = [keras.layers.Conv1D(3, 2, activation="relu"), keras.layers.Flatten(), keras.layers.Dense(2)]
    keras.Sequential([keras.layers.Input((4, 1)), *layers]).export(str(tmp_path / "model"), verbose=False)
    done = convert(load_model(str(tmp_path / "model")).model, ROWS[:, :, None])
    assert done.signature.batchable


def test_the_same_model_gives_the_same_package(tmp_path):
    folder = saved(tmp_path / "model", scores, FLOATS)
    first, second = (contents_of(convert(load_model(folder).model, ROWS), Label("model")) for _ in range(2))
    assert first.model == second.model
    assert load_model(folder).digest == load_model(folder).digest


def test_several_inputs_are_matched_by_name(tmp_path):
    specs = (
        tensorflow.TensorSpec((None, 1), tensorflow.int64, name="count"),
        tensorflow.TensorSpec((None, 1), tensorflow.float32, name="price"),
    )
    model = load_model(saved(tmp_path / "model", lambda _, n, p: {"price": tensorflow.cast(n, p.dtype) * p}, *specs))
    given = {"price": np.linspace(0, 9, 20), "count": np.arange(20.0)}
    done = convert(model.model, given)
    assert [(spec.name, spec.datatype) for spec in done.signature.inputs] == [
        ("count", Datatype.INT64), ("price", Datatype.FP32),
    ]  # fmt: skip
    assert [spec.name for spec in done.signature.outputs] == ["price_out"]
    with pytest.raises(ConfigError, match="input 'count' takes int64, and the sample has numbers there that are none"):
        convert(model.model, {**given, "count": np.arange(20) / 2})
    with pytest.raises(ConfigError, match="takes count, price, and the sample has price; name its arrays"):
        convert(model.model, {"price": given["price"]})


def test_a_signature_is_chosen_by_name(tmp_path):
    one = load_model(saved(tmp_path / "one", scores, FLOATS, names=["predict"])).model
    assert convert(one, ROWS).signature.batchable
    several = load_model(saved(tmp_path / "several", scores, FLOATS, names=["first", "second"])).model
    with pytest.raises(ConfigError, match="has signatures first, second and none called serving_default; choose one"):
        convert(several, ROWS)
    assert convert(several.signatures["second"], ROWS).signature.batchable


@pytest.mark.parametrize(
    ("function", "spec", "told"),
    [
        (scores, tensorflow.TensorSpec((1, 4), tensorflow.float32, name="x"), "whose first dimension is not open"),
        (lambda _, x: {"y": tensorflow.math.lgamma(x)}, FLOATS, "no converter for Lgamma of TensorFlow"),
    ],
    ids=["fixed rows", "an unknown operator"],
)
def test_what_cannot_be_served_is_told(tmp_path, function, spec, told):
    with pytest.raises(ConfigError, match=told):
        convert(load_model(saved(tmp_path / "model", function, spec)).model, ROWS)


def test_doubles_stay_doubles(tmp_path):
    spec = tensorflow.TensorSpec((None, 4), tensorflow.float64, name="x")
    folder = saved(tmp_path / "model", lambda module, x: {"y": x @ tensorflow.cast(module.weights, x.dtype)}, spec)
    done = convert(load_model(folder).model, ROWS)
    assert done.signature.inputs[0].datatype is Datatype.FP64
    assert done.report.largest()[1] < 1e-14


def test_a_sample_of_another_shape_or_kind_is_refused(tmp_path):
    model = load_model(saved(tmp_path / "model", scores, FLOATS)).model
    with pytest.raises(ConfigError, match=r"input 'x' takes \(None, 4\), and the sample has shape \[50, 3\]"):
        convert(model, ROWS[:, :3])
    with pytest.raises(ConfigError, match="input 'x' takes float32, and the sample has 'a'"):
        convert(model, {"x": np.array([["a"] * 4] * 3, object)})


def test_a_model_without_signatures_is_refused(tmp_path):
    tensorflow.saved_model.save(tensorflow.Module(), str(tmp_path / "model"))
    with pytest.raises(ConfigError, match="has no signatures, so there is nothing to serve"):
        convert(load_model(str(tmp_path / "model")).model, ROWS)
