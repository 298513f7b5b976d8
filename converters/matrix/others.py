"""Models of XGBoost, LightGBM, CatBoost, PyTorch, Keras and TensorFlow, on data that ships with scikit-learn."""

import functools
import importlib
import os
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from converters.loading import load_model
from converters.matrix.zoo import TREES, Entry, Rows, data_of
from converters.runner import quiet


def entries() -> Iterator[Entry]:
    """Yield the models of every framework that is installed."""
    found: list[tuple[str, Callable[[], Iterator[Entry]]]] = [
        ("xgboost", _xgboost),
        ("lightgbm", _lightgbm),
        ("catboost", _catboost),
        ("torch", _torch),
        ("keras", _keras),
        ("tf2onnx", _tensorflow),
    ]
    for module, make in found:
        os.environ.setdefault("KERAS_BACKEND", "torch")
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        try:
            importlib.import_module(module)
        except ImportError:
            continue
        yield from make()


def _fitted(model: Any, data: str) -> tuple[Any, Rows]:
    rows, answers = data_of(data)
    with quiet():
        return model.fit(rows, answers), rows


def _boosters(family: str, classifier: Any, regressor: Any, options: dict[str, Any]) -> Iterator[Entry]:
    for kind, data in ((classifier, "cancer"), (classifier, "iris"), (regressor, "diabetes")):
        yield Entry(family, f"{kind.__name__} on {data}", functools.partial(_fitted, kind(**options), data))


def _xgboost() -> Iterator[Entry]:
    import xgboost  # noqa: PLC0415 - behind its extra

    yield from _boosters("XGBoost", xgboost.XGBClassifier, xgboost.XGBRegressor, {"n_estimators": TREES})


def _lightgbm() -> Iterator[Entry]:
    import lightgbm  # noqa: PLC0415 - behind its extra

    options = {"n_estimators": TREES, "verbose": -1}
    yield from _boosters("LightGBM", lightgbm.LGBMClassifier, lightgbm.LGBMRegressor, options)


def _catboost() -> Iterator[Entry]:
    import catboost  # noqa: PLC0415 - behind its extra

    options = {"iterations": TREES, "verbose": 0, "allow_writing_files": False}
    yield from _boosters("CatBoost", catboost.CatBoostClassifier, catboost.CatBoostRegressor, options)


def _torch() -> Iterator[Entry]:
    import torch  # noqa: PLC0415 - behind its extra

    from converters.matrix.modules import Attention, convolutions, perceptron  # noqa: PLC0415

    def made(make: Callable[[], Any], rows: Any) -> tuple[Any, Any]:
        torch.manual_seed(0)
        return make().eval(), rows

    digits = np.asarray(data_of("cancer")[0][:, :25], np.float32).reshape(-1, 1, 5, 5) / 100
    tokens = {"tokens": np.random.default_rng(0).integers(0, 50, (100, 12))}
    yield Entry("PyTorch", "MLP", functools.partial(made, perceptron, data_of("iris")[0]))
    yield Entry("PyTorch", "CNN", functools.partial(made, convolutions, digits))
    yield Entry("PyTorch", "transformer", functools.partial(made, Attention, tokens))


def _keras() -> Iterator[Entry]:
    import keras  # noqa: PLC0415 - behind its extra

    def made() -> tuple[Any, Rows]:
        keras.utils.set_random_seed(0)
        layers = [keras.layers.Dense(16, activation="relu"), keras.layers.Dense(3, activation="softmax")]
        return keras.Sequential([keras.layers.Input((4,)), *layers]), data_of("iris")[0]

    yield Entry("Keras", "Sequential", made)


def _tensorflow() -> Iterator[Entry]:
    import tensorflow  # noqa: PLC0415 - behind its extra

    def made(rows: Rows, call: Callable[[Any, Any], Any], shape: tuple[int, ...]) -> tuple[Any, Rows]:
        generator = np.random.default_rng(0)
        module = tensorflow.Module()
        module.weights = tensorflow.Variable(generator.normal(size=shape).astype(np.float32))
        module.head = tensorflow.Variable(generator.normal(size=(shape[-1], 3)).astype(np.float32))
        given = tensorflow.TensorSpec((None, *rows.shape[1:]), tensorflow.float32, name="x")
        function = tensorflow.function(lambda x: {"output": call(module, x)}, input_signature=[given])
        with tempfile.TemporaryDirectory() as folder:
            tensorflow.saved_model.save(module, folder, signatures=function.get_concrete_function())
            return load_model(folder).model, rows

    def perceptron(module: Any, x: Any) -> Any:
        return tensorflow.nn.softmax(tensorflow.nn.relu(x @ module.weights) @ module.head)

    def convolutions(module: Any, x: Any) -> Any:
        found = tensorflow.nn.relu(tensorflow.nn.conv2d(x, module.weights, 1, "VALID"))
        return tensorflow.reduce_mean(found, [1, 2]) @ module.head

    images = data_of("cancer")[0][:, :25].reshape(-1, 5, 5, 1) / 100
    yield Entry("TensorFlow", "SavedModel of an MLP", functools.partial(made, data_of("iris")[0], perceptron, (4, 16)))
    yield Entry("TensorFlow", "SavedModel of a CNN", functools.partial(made, images, convolutions, (3, 3, 1, 8)))
