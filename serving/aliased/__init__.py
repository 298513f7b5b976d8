"""What a server serves by alias: reads the options, and ties the registry's follower to the model repository.

The registry needs packages that a server without it does without, so they are loaded when aliases are followed.
"""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serving.aliased.waiting import Waiting
from serving.clock import Clock
from serving.config import ServerConfig
from serving.errors import ConfigError, RegistryError
from serving.package import write
from serving.package.folder import Folder
from serving.package.manifest import Config
from serving.registry.names import Alias, parse_alias
from serving.registry.place import default_folder, folder_of, is_mlflow
from serving.repository.manager import ModelRepository
from serving.scoring.opened import open_model

if TYPE_CHECKING:
    from serving.aliased.rollout import FollowedAliases
    from serving.registry.cache import Pulled
    from serving.registry.mlflow.source import MlflowRegistry


MLFLOW_MODELS = "models:/"
"""How MLflow's users begin the name of a registered model."""


def models_of(config: ServerConfig) -> list[str]:
    """Return the names of the models that are served by alias. Raises ConfigError."""
    return [alias.model for alias in aliases_of(config)]


def aliases_of(config: ServerConfig) -> list[Alias]:
    """Read `model`. Raises ConfigError for what is no alias, and for two of one model."""
    try:
        aliases = [parse_alias(text.removeprefix(MLFLOW_MODELS)) for text in config.model]
    except RegistryError as error:
        raise ConfigError(f"model = {', '.join(config.model)}: {error}") from None
    names = [alias.model for alias in aliases]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"model names '{name}' by two aliases; a server serves one of them")
    return aliases


def follower(config: ServerConfig, repository: ModelRepository, clock: Clock) -> "FollowedAliases | None":
    """Return what follows the aliases and their rollouts, None without any. Raises ConfigError."""
    aliases = aliases_of(config)
    if not aliases:
        return None
    try:
        from serving.aliased.rollout import FollowedAliases  # noqa: PLC0415 - of an extra
        from serving.registry.follower import AliasFollower  # noqa: PLC0415 - as above
    except ModuleNotFoundError as error:
        if error.name not in {"fsspec", "scipy"}:
            raise
        raise ConfigError(f"serving from a registry needs {error.name}: pip install 'penstock[registry]'") from None

    waiting = Waiting(clock)

    def deliver(alias: Alias, packages: "Sequence[Pulled]") -> list[str]:
        with waiting.work():
            return repository.serve(alias.model, [(each.sequence, each.digest, each.path) for each in packages])

    rolled_out: Sequence[Alias] = ()
    if is_mlflow(config.registry):
        uri, cache = config.registry, cache_folder(config.registry_cache, config.registry)
        following = AliasFollower(uri, aliases, cache, deliver, connect=_mlflow(uri, cache / "mlflow", repository))
    else:
        place = folder_of(config.registry) if config.registry else default_folder()
        uri, cache = str(place), cache_folder(config.registry_cache, place)
        following = AliasFollower(uri, aliases, cache, deliver)
        rolled_out = aliases if config.registry_interval_s else ()  # who looks only once would never hear of the end
    return FollowedAliases(
        uri, rolled_out, cache, follower=following, repository=repository, clock=clock, waiting=waiting
    )  # fmt: skip


def pack_graph(folder: Path, name: str, lineage: Mapping[str, Any], target: Path) -> str:
    """Make a package of a folder of model.onnx and weights, see `serving.registry.mlflow.source.Pack`."""
    model = open_model(folder)
    config = Config(name, model.signature, model.columns, model.labels, model.passes, ())
    contents = Folder.at(folder).with_config(config).contents(model.signature)
    return write(replace(contents, lineage=lineage), target)


def _mlflow(uri: str, place: Path, repository: ModelRepository) -> "Callable[[], MlflowRegistry]":
    try:
        from serving.registry.mlflow.server import MlflowServer  # noqa: PLC0415 - of an extra
        from serving.registry.mlflow.source import MlflowRegistry  # noqa: PLC0415 - as above
    except ModuleNotFoundError as error:
        if error.name != "yaml":
            raise
        raise ConfigError("serving from MLflow needs PyYAML: pip install 'penstock[mlflow]'") from None
    server = MlflowServer(uri, os.environ, stopping=repository.is_stopping)
    registry = MlflowRegistry(server, place, pack_graph)
    return lambda: registry


def cache_folder(option: str, registry: Path | str, environment: Mapping[str, str] = os.environ) -> Path:
    """Return where packages of a registry lie, see the XDG Base Directory Specification."""
    cache = environment.get("XDG_CACHE_HOME", "")
    base = Path(option) if option else (Path(cache) if Path(cache).is_absolute() else Path.home() / ".cache")
    identity = registry if isinstance(registry, str) else str(registry.absolute())
    name = hashlib.sha256(identity.encode()).hexdigest()[:16]
    return base / name if option else base / "penstock" / "packages" / name
