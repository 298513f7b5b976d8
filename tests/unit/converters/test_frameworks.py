import sys

import pytest

from converters.frameworks import FRAMEWORKS, framework_of, is_known
from serving.errors import ConfigError
from tests.support import trained


def made(module, base=object, name="Model"):
    return type(name, (base,), {"__module__": module})()


def test_the_framework_is_told_from_names_without_importing_it():
    heavy = {"torch", "xgboost", "lightgbm", "catboost", "keras"} - set(sys.modules)
    assert framework_of(made("xgboost.sklearn")).name == "XGBoost"
    assert framework_of(made("torch.nn.modules.linear")).name == "PyTorch"
    assert not heavy & set(sys.modules)


def test_a_class_of_the_users_own_is_known_by_what_it_inherits_from():
    module = type(made("torch.nn.modules.module", name="Module"))
    assert framework_of(made("__main__", base=module)).name == "PyTorch"


def test_an_estimator_of_a_booster_is_not_taken_for_scikit_learns():
    base = type(trained.forest()[0])
    assert framework_of(made("xgboost.sklearn", base=base)).name == "XGBoost"
    assert framework_of(trained.forest()[0]).name == "scikit-learn"


def test_a_model_that_can_be_called_is_no_function_that_makes_one():
    function = type(made("tensorflow.python.eager", name="ConcreteFunction"))
    function.__call__ = lambda self: pytest.fail("it was called for a model")
    assert is_known(function())
    assert not is_known(lambda: None)


def test_what_no_framework_made_is_refused_with_what_to_do():
    with pytest.raises(ConfigError, match=r"of type builtins.dict cannot be converted; known are .*\.onnx"):
        framework_of({})
    with pytest.raises(ConfigError, match="it is a function or a class; name a fitted model"):
        framework_of(len)


def test_an_absent_framework_is_told_with_what_to_install(monkeypatch):
    (xgboost,) = (framework for framework in FRAMEWORKS if framework.name == "XGBoost")
    monkeypatch.setitem(sys.modules, "xgboost", None)
    monkeypatch.delitem(sys.modules, "converters.adapters.xgboost", raising=False)
    with pytest.raises(ConfigError, match=r"is not installed: pip install 'penstock\[convert-xgboost\]'"):
        xgboost.load()
