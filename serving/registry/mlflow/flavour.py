"""What a model of MLflow says of itself in its file `MLmodel`: whether there is an ONNX graph, and where. Pure.

Source: MLflow's documentation of its model format, "Storage Format" and "ONNX".
"""

from typing import Any

import yaml

from serving.errors import RegistryError

MLMODEL = "MLmodel"
MLMODEL_BYTES_MAX = 1 << 20
FLAVOUR = "onnx"


def graph_of(mlmodel: bytes, *, model: str) -> str:
    """Return the graph's file, which lies beside MLmodel. Raises RegistryError for a model without one.

    `model` names the model in errors.
    """
    flavours = _flavours(mlmodel, model)
    if FLAVOUR not in flavours:
        found = ", ".join(sorted(map(str, flavours)))
        raise RegistryError(
            f"{model} has the flavours {found!r:.200}; only onnx is served, the others are pickles or code: "
            "convert the model and register it with mlflow.onnx.log_model"
        )
    settings = flavours[FLAVOUR]
    file = settings.get("data") if isinstance(settings, dict) else None
    if not isinstance(file, str) or not is_plain(file):
        raise RegistryError(f"{model}: {MLMODEL} names the graph {file!r:.80}, expected a file beside it")
    return file


def is_plain(name: str) -> bool:
    """Say whether a name is that of a visible file in the folder itself."""
    return name.isprintable() and 0 < len(name) <= 255 and not name.startswith(".") and not set(name) & set("/\\")


def _flavours(mlmodel: bytes, model: str) -> dict[Any, Any]:
    try:
        value = yaml.safe_load(mlmodel)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise RegistryError(f"{model}: {MLMODEL} is not YAML: {' '.join(str(error).split())[:200]}") from None
    flavours = value.get("flavors") if isinstance(value, dict) else None
    if not isinstance(flavours, dict):
        raise RegistryError(f"{model}: {MLMODEL} has no flavours")
    return flavours
