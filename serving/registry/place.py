"""Where a registry lies: its folder, and the store of its blobs.

FOLDER/catalogue.sqlite     the ledger
FOLDER/store/               the blobs, an OCI image layout
FOLDER/registry.toml        optional: `store`, a path or a URI that fsspec knows, such as s3://bucket/models

The catalogue is always a file on a disk of this machine, or one mounted here.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from serving.config import nearest, read_toml
from serving.errors import ConfigError

SETTINGS_FILE = "registry.toml"
MLFLOW_SCHEMES = ("mlflow+http", "mlflow+https")
_KEYS = frozenset({"store"})


def default_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Return the registry in the user's data folder, see the XDG Base Directory Specification."""
    data = environment.get("XDG_DATA_HOME", "")
    return (Path(data) if Path(data).is_absolute() else Path.home() / ".local" / "share") / "penstock" / "registry"


def is_mlflow(uri: str) -> bool:
    """Say whether a registry's URI is that of an MLflow server."""
    return uri.partition("://")[0] in MLFLOW_SCHEMES


def folder_of(uri: str) -> Path:
    """Return the folder that a path or a file:// URI names. Raises ConfigError for other URIs."""
    parts = urlsplit(uri)
    if "://" not in uri:
        return Path(uri).expanduser()
    if parts.scheme == "file" and parts.netloc in {"", "localhost"} and not parts.query and not parts.fragment:
        return Path(unquote(parts.path))
    if is_mlflow(uri):
        raise ConfigError(f"registry {uri}: MLflow's registry is only served from, with --model NAME@ALIAS")
    raise ConfigError(
        f"registry {uri}: expected a folder or file:///FOLDER; blobs can lie elsewhere: store = {uri!r} in the "
        f"folder's {SETTINGS_FILE}"
    )


def store_uri(folder: Path) -> str:
    """Return where the blobs of a registry lie. Raises ConfigError for settings that cannot be used."""
    path = folder / SETTINGS_FILE
    if not path.exists():
        return str(folder.absolute() / "store")
    settings = read_toml(path)
    for key in settings:
        if key not in _KEYS:
            raise ConfigError(f"{path}: unknown key '{key}'{nearest(key, _KEYS)}")
    store = settings.get("store", str(folder.absolute() / "store"))
    if not isinstance(store, str) or not store:
        raise ConfigError(f"{path}: store = {store!r}, expected a path or a URI")
    return store if "://" in store else str(folder.absolute() / store)
