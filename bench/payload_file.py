"""Arrays that a person wrote to a file: .npy, .npz or .json, read by input name and nothing more.

It knows file formats; what a model takes is `bench.payload`'s matter. Nothing in a file is executed: arrays of Python
objects, which numpy would unpickle, are refused.
"""

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from serving.errors import ConfigError

FILE_BYTES_MAX = 1 << 30
SUFFIXES = (".npy", ".npz", ".json")


def read_arrays(path: Path, only_input: str | None) -> Mapping[str, Any]:
    """Return arrays, or the nested lists of JSON, by input name.

    A .npy file holds one array, for a model whose `only_input` has that name. JSON is `{name: nested lists}`, the same
    under the key `inputs`, or the protocol's own `{"inputs": [{"name", "shape", "data"}]}`. Raises ConfigError.
    """
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"payload {path}: ends in '{path.suffix}', expected one of {', '.join(SUFFIXES)}")
    try:
        if path.stat().st_size > FILE_BYTES_MAX:
            raise ConfigError(f"payload {path}: longer than {FILE_BYTES_MAX} bytes; cut it, its rows are cycled anyway")
        if path.suffix == ".json":
            return _read_json(path)
        return _read_numpy(path, only_input)
    except OSError as error:
        raise ConfigError(f"payload {path}: {error.strerror or error}") from None
    except (ValueError, EOFError, RecursionError, zipfile.BadZipFile) as error:
        raise ConfigError(f"payload {path}: cannot be read: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    if "allow_pickle" in str(error):
        return "it holds Python objects; save numbers as a numeric array, and strings with dtype 'U'"
    return str(error)


def _read_numpy(path: Path, only_input: str | None) -> Mapping[str, Any]:
    with path.open("rb") as file:
        loaded = np.load(file, allow_pickle=False)
        if isinstance(loaded, np.ndarray) != (path.suffix == ".npy"):
            raise ConfigError(
                f"payload {path}: its contents are of the other kind; name it .npy or .npz as it was saved"
            )
        if not isinstance(loaded, np.ndarray):
            return dict(loaded)
    if only_input is None:
        raise ConfigError(f"payload {path}: one array, and the model has no one input; save a .npz by input name")
    return {only_input: loaded}


def _read_json(path: Path) -> Mapping[str, Any]:
    values = json.loads(path.read_bytes())
    inner = values.get("inputs") if isinstance(values, dict) else values
    if isinstance(inner, dict):
        values = inner
    elif isinstance(inner, list) and inner and all(isinstance(tensor, dict) for tensor in inner):
        values = _from_protocol(path, inner)
    if not isinstance(values, dict):
        raise ConfigError(f"payload {path}: a JSON {type(values).__name__}, expected an object by input name")
    return values


def _from_protocol(path: Path, tensors: list[dict[str, Any]]) -> dict[str, Any]:
    try:
        return {tensor["name"]: np.asarray(tensor["data"]).reshape(tensor["shape"]) for tensor in tensors}
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"payload {path}: 'inputs' is not a list of name, shape and data: {error}") from None
