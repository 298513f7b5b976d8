"""Finding the model that `penstock convert MODEL` names: a pickle, a framework's own file, an .onnx, `module:object`.

Pickles run code when they are loaded, so they are loaded here alone, by the person who trusts them, and never again:
what a package holds is a graph.
"""

import importlib
import itertools
import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converters.frameworks import is_known
from converters.lineage import digest_of_file
from converters.runner import one_line
from serving.errors import ConfigError

MODEL_BYTES_MAX = 1 << 36
FILES_MAX = 10_000
"""Of a folder that holds a model."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model, a digest of what it was loaded from, and what was said while loading."""

    model: Any
    digest: str
    folder: Path
    notes: tuple[str, ...] = ()


def load_model(name: str) -> Loaded:
    """Load what MODEL names. Raises ConfigError that says what was tried and what to do."""
    path = Path(name)
    if not path.exists():
        if ":" in name and not name.startswith((".", "/")):
            return _import(name)
        raise ConfigError(f"{name} does not exist; name a file, or MODULE:OBJECT for a model that code makes")
    check_plain(path, "MODEL")
    reader = _read_saved_model if path.is_dir() else _READERS.get(path.suffix.lower())
    if reader is None:
        raise ConfigError(f"{name}: files of this kind are not known; known are {', '.join(_READERS)}")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            model = reader(path)
        except ConfigError:
            raise
        except ModuleNotFoundError as error:
            raise ConfigError(f"{name} needs {error.name}, which is not installed: {_install(error.name)}") from None
        except Exception as error:
            raise ConfigError(f"{name} cannot be loaded: {one_line(error)}") from None
    notes = tuple(dict.fromkeys(one_line(item.message, 200) for item in caught
                                if "Version" in item.category.__name__))  # fmt: skip
    return Loaded(model, digest_of_file(path), path.absolute().parent, notes)


def check_plain(path: Path, what: str) -> None:
    """Refuse what could be read for ever, such as a device or a pipe, and files too large for any model."""
    try:
        files = [path] if not path.is_dir() else list(itertools.islice(path.rglob("*"), FILES_MAX + 1))
        total = sum(file.stat().st_size for file in files)
        strange = [file.name for file in files if not file.is_file() and not file.is_dir()]
    except OSError as error:
        raise ConfigError(f"{what} {path} cannot be read: {error.strerror}") from None
    if len(files) > FILES_MAX:
        raise ConfigError(f"{what} {path} holds more than {FILES_MAX} files; name the folder of one model")
    if strange:
        raise ConfigError(f"{what} {path}: {strange[0]} is no plain file, and could be read for ever; name a file")
    if total > MODEL_BYTES_MAX:
        raise ConfigError(f"{what} {path} has {total} bytes, expected at most {MODEL_BYTES_MAX}")


def _import(name: str) -> Loaded:
    """Import `module:object`; a function without arguments is called for the model."""
    module_name, _, attribute = name.partition(":")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ConfigError(f"{name}: module {error.name} is not found; run in its folder, or install it") from None
    except Exception as error:
        raise ConfigError(f"{name}: importing it failed: {type(error).__name__}: {one_line(error)}") from None
    model: Any = module
    for part in attribute.split("."):
        if not hasattr(model, part):
            raise ConfigError(f"{name}: {module_name} has no {attribute}")
        model = getattr(model, part)
    is_made = isinstance(model, type) or not callable(model) or is_known(model)
    made = model if is_made else _call(name, model)
    file = Path(getattr(module, "__file__", None) or os.devnull)
    return Loaded(made, digest_of_file(file) if file.is_file() else "", file.absolute().parent)


def _call(name: str, maker: Callable[[], Any]) -> Any:
    try:
        return maker()
    except Exception as error:
        raise ConfigError(f"{name}: calling it for a model failed: {type(error).__name__}: {one_line(error)}") from None


def _read_pickle(path: Path) -> Any:
    import joblib  # noqa: PLC0415 - comes with scikit-learn

    return joblib.load(path)


def _read_onnx(path: Path) -> Any:
    import onnx  # noqa: PLC0415 - only one of many kinds

    return onnx.load(path)


def _read_xgboost(path: Path) -> Any:
    import xgboost  # noqa: PLC0415 - behind its extra

    return xgboost.Booster(model_file=path)


def _read_lightgbm(path: Path) -> Any:
    import lightgbm  # noqa: PLC0415 - behind its extra

    return lightgbm.Booster(model_file=path)


def _read_catboost(path: Path) -> Any:
    import catboost  # noqa: PLC0415 - behind its extra

    return catboost.CatBoost().load_model(str(path))


def _read_keras(path: Path) -> Any:
    import keras  # noqa: PLC0415 - behind its extra

    return keras.saving.load_model(path, compile=False)


def _read_exported_program(path: Path) -> Any:
    import torch  # noqa: PLC0415 - behind its extra

    return torch.export.load(path)


def _read_saved_model(path: Path) -> Any:
    if not (path / "saved_model.pb").is_file():
        raise ConfigError(f"{path} is a folder without saved_model.pb, so no SavedModel of TensorFlow; name a file")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # what it logs at import is about the machine
    import tensorflow  # noqa: PLC0415 - behind its extra

    return tensorflow.saved_model.load(str(path))


_READERS: dict[str, Callable[[Path], Any]] = {
    ".joblib": _read_pickle,
    ".pkl": _read_pickle,
    ".pickle": _read_pickle,
    ".onnx": _read_onnx,
    ".ubj": _read_xgboost,
    ".json": _read_xgboost,
    ".txt": _read_lightgbm,
    ".cbm": _read_catboost,
    ".keras": _read_keras,
    ".pt2": _read_exported_program,
}
_EXTRAS = {
    "sklearn": "convert",
    "joblib": "convert",
    "xgboost": "convert-xgboost",
    "lightgbm": "convert-lightgbm",
    "catboost": "convert-catboost",
    "keras": "convert-keras",
    "tensorflow": "convert-tensorflow",
    "torch": "convert-torch",
}


def _install(module: str | None) -> str:
    top = (module or "").partition(".")[0]
    return f"pip install 'penstock[{_EXTRAS[top]}]'" if top in _EXTRAS else f"pip install {top}"
