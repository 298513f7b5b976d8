"""Which framework made a model, told from the names of its type's modules: no framework is imported to find out."""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from converters.draft import Draft
from converters.sample import Sample
from converters.target import Target
from serving.errors import ConfigError

Adapter = Callable[[Any, Sample, Target], Draft]


@dataclass(frozen=True, slots=True)
class Framework:
    """A framework: the top modules of its types, the module of its adapter, and the extra that installs both."""

    name: str
    modules: tuple[str, ...]
    adapter: str
    extra: str

    def load(self) -> Adapter:
        """Import the adapter. Raises ConfigError that says what to install."""
        try:
            module = importlib.import_module(self.adapter)
        except ImportError as error:
            missing = (error.name or str(error)).partition(".")[0]
            raise ConfigError(
                f"converting a model of {self.name} needs {missing}, which is not installed: "
                f"pip install 'penstock[{self.extra}]'"
            ) from None
        adapter: Adapter = module.draft
        return adapter


_ADAPTERS = "converters.adapters"
FRAMEWORKS = (
    Framework("XGBoost", ("xgboost",), f"{_ADAPTERS}.xgboost", "convert-xgboost"),
    Framework("LightGBM", ("lightgbm",), f"{_ADAPTERS}.lightgbm", "convert-lightgbm"),
    Framework("CatBoost", ("catboost",), f"{_ADAPTERS}.catboost", "convert-catboost"),
    Framework("Keras", ("keras",), f"{_ADAPTERS}.keras", "convert-keras"),
    Framework("PyTorch", ("torch",), f"{_ADAPTERS}.torch", "convert-torch"),
    Framework("TensorFlow", ("tensorflow",), f"{_ADAPTERS}.tensorflow", "convert-tensorflow"),
    Framework("scikit-learn", ("sklearn", "imblearn"), f"{_ADAPTERS}.scikit_learn", "convert"),
    Framework("ONNX", ("onnx",), f"{_ADAPTERS}.onnx_file", "convert"),
)


def framework_of(model: Any) -> Framework:
    """Return the framework of a model, looking at its type first and then at the types above.

    A module of the user's own that inherits from torch.nn.Module is PyTorch's; XGBoost's estimators, which inherit from
    scikit-learn's, are XGBoost's. Raises ConfigError for anything else.
    """
    if found := _find(model):
        return found
    kind = f"{type(model).__module__}.{type(model).__qualname__}"
    raise ConfigError(f"a model of type {kind} cannot be converted; {_remedy(model)}")


def is_known(model: Any) -> bool:
    """Tell a model, which may be callable, from a function that makes one."""
    return _find(model) is not None or hasattr(model, "predict") or hasattr(model, "forward")


def _find(model: Any) -> Framework | None:
    tops = [kind.__module__.partition(".")[0] for kind in type(model).__mro__]
    known = {module: framework for framework in FRAMEWORKS for module in framework.modules}
    return next((known[top] for top in tops if top in known), None)


def _remedy(model: Any) -> str:
    names: Sequence[str] = [framework.name for framework in FRAMEWORKS]
    if callable(model) and not hasattr(model, "predict"):
        return "it is a function or a class; name a fitted model, or export it to .onnx yourself"
    return f"known are models of {', '.join(names)}; export it to .onnx yourself and convert that file"
