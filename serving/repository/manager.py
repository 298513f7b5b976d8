"""The model repository as the server sees it: find a servable, load and unload by name, follow changes on disk.

`find`, `index` and the readiness questions are answered on the I/O thread from what is loaded. Everything that reads
the folder or loads a model runs on loader threads.
"""

import contextlib
import logging
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType

from serving.clock import Clock
from serving.errors import ConfigError, Draining, LoadFailed, NotReady, UnknownModel
from serving.model import Servable
from serving.repository.entry import QUICK_CLOSE_S, REMOVED, Changed, IndexEntry, Load, ModelEntry
from serving.repository.handle import Handle
from serving.repository.routing import Routing, key_of
from serving.repository.scanner import CONFIG_FILE, ModelOnDisk, is_name, pinned_model, scan, scan_model
from serving.repository.trials import Reading, Trial, Trials

_LOADS_AT_ONCE = 2
_NO_ROUTINGS: Mapping[str, Routing] = MappingProxyType({})
_log = logging.getLogger(__name__)


class ModelRepository:
    """The models of one folder. `changed` is called, on a loader thread, whenever what serves may have changed.

    Models named in `elsewhere` get their versions from `serve` alone; of their folder only `model.toml` counts, and the
    repository's folder need not be there when all models are such.
    """

    def __init__(
        self, root: Path, load: Load, clock: Clock, *,
        drain_timeout_s: float, changed: Changed, elsewhere: Collection[str] = (), trials: Trials | None = None,
    ) -> None:  # fmt: skip
        self._root = root
        self._load = load
        self._clock = clock
        self._drain_timeout_s = drain_timeout_s
        self._changed = changed
        self._elsewhere = frozenset(elsewhere)
        self._trials = trials
        self._pinned: dict[str, ModelOnDisk] = {}
        self._previous: dict[str, ModelOnDisk] = {}
        self._refreshing = threading.Lock()
        self._stopping = threading.Event()
        self._entries: dict[str, ModelEntry] = {name: self._new_entry(name) for name in sorted(self._elsewhere)}
        self.started = False

    # ---- on the I/O thread -----------------------------------------------------------------------------------------

    def find(self, name: str, version: str) -> Handle:
        """Return a handle in use; the caller releases it. Raises UnknownModel or NotReady."""
        return self._entry(name).pin(version)

    def route(self, name: str, version: str, key: int, request_id: str) -> Handle:
        """Return a handle in use for a request: where it names no version and a rollout is on, that of its arm.

        The request is told from others by `key`, or, where that is 0, by its id. Raises as `find` does.
        """
        routing = self.routings.get(name)
        if routing is not None and not version:
            arm = routing.arm(key or (key_of(request_id.encode()) if request_id else 0))
            if arm is not None and arm.acquire():
                return arm
        return self.find(name, version)

    @property
    def routings(self) -> Mapping[str, Routing]:
        """How the requests of models are spread over the arms of rollouts."""
        return self._trials.routings if self._trials is not None else _NO_ROUTINGS

    def readings(self) -> dict[str, Reading]:
        """Return what the arms of rollouts have done, by model."""
        return self._trials.readings() if self._trials is not None else {}

    def is_ready(self, name: str, version: str) -> bool:
        """Say whether a model, or one version of it, is ready. Raises UnknownModel."""
        try:
            self.find(name, version).release()
        except NotReady:
            return False
        return True

    def ready_versions(self, name: str) -> list[int]:
        """List the ready versions of a model, oldest first. Raises UnknownModel."""
        return self._entry(name).ready_versions

    def index(self) -> list[IndexEntry]:
        """List every version of every model."""
        return [line for _, entry in sorted(self._entries.copy().items()) for line in entry.index()]

    def handles(self) -> list[Handle]:
        """The handles that a transport follows, see `ModelEntry.followed`; none is acquired."""
        return [handle for _, entry in sorted(self._entries.copy().items()) for handle in entry.followed()]

    def servables(self) -> Iterator[Servable]:
        """Every ready servable, by name and version."""
        for _, entry in sorted(self._entries.copy().items()):
            yield from entry.servables()

    def unready_models(self) -> list[str]:
        """Name the models that should serve and have no ready version."""
        entries = sorted(self._entries.copy().items())
        return [name for name, entry in entries if entry.wanted and not entry.ready_versions]

    def why_not_ready(self) -> str:
        """Say why the repository cannot serve at all; nothing when it can.

        One broken model does not make the others unready: an orchestrator would take them all out of service.
        """
        if not self.started:
            return "the models are being loaded"
        wanted = [entry for entry in self._entries.copy().values() if entry.wanted]
        if wanted and not any(entry.ready_versions for entry in wanted):
            return "no model has a ready version"
        return ""

    def hurry(self) -> None:
        """Let no request wait for batchmates any more."""
        for servable in self.servables():
            servable.hurry()

    def _entry(self, name: str) -> ModelEntry:
        entry = self._entries.get(name)
        if entry is None:
            raise UnknownModel(f"unknown model '{name}'; RepositoryIndex lists the models of this server")
        return entry

    # ---- on loader threads -----------------------------------------------------------------------------------------

    def load_all(self) -> None:
        """Load what the folder holds; what fails is in the index and in the log. Raises ConfigError for the folder."""
        with self._refreshing:
            models = self._previous = self._scan()
            for name in models:
                self._entries.setdefault(name, self._new_entry(name))  # a client may have loaded it already
            with ThreadPoolExecutor(_LOADS_AT_ONCE, thread_name_prefix="load") as pool:
                for _ in pool.map(self._follow, models.values()):
                    pass
            self.started = True
            self._changed()

    def refresh(self) -> None:
        """Follow changes of the folder.

        A new or changed model counts once two scans in a row have found it the same, so that files still being
        written are not loaded; a model that is gone is retired at once. What was unloaded on request stays unloaded.
        """
        with self._refreshing:
            try:
                models = self._scan()
            except ConfigError as error:
                _log.error("%s; what is loaded goes on serving", error)
                return
            previous, self._previous = self._previous, models
            known = models.keys() | self._elsewhere
            for name in [name for name in self._entries if name not in known and not self._is_model_folder(name)]:
                # Out of the table first: a load that comes while the last requests are answered begins a new entry.
                self._entries.pop(name).unload(REMOVED, wait_s=QUICK_CLOSE_S)
            for name, model in models.items():
                if model == previous.get(name):
                    self._entries.setdefault(name, self._new_entry(name))
                    self._follow(model)

    def serve(self, name: str, packages: Sequence[tuple[int, str, Path]]) -> list[str]:
        """Serve packages of a model from elsewhere: version, digest and place of each; the first is the default.

        They are loaded beside what serves, and what is not among them is retired then. Returns why the first does not
        serve, if so; nothing for a model that was unloaded on request.
        """
        model = self._pinned[name] = pinned_model(name, self._root / name, packages)
        entry = self._entries[name]
        try:
            failures = entry.apply(model, on_request=False)
        except Draining as error:
            return [str(error)]
        serving = {(servable.version, servable.package_digest) for servable in entry.servables()}
        return [] if packages[0][:2] in serving else failures

    def follow_trial(self, name: str, trial: Trial | None) -> str:
        """Have a model's requests spread as a trial says; without one, all are answered by what serves.

        Returns why that cannot be, if so; nothing for a model that was unloaded on request.
        """
        assert self._trials is not None, "bug: a repository without a place for trials"
        entry = self._entries[name]
        wanted = trial if entry.wanted and not self._stopping.is_set() else None
        return self._trials.follow(entry.default_servable(), name, wanted, self._root / name / CONFIG_FILE)

    def stop_loading(self) -> None:
        """Begin no further load; one that is under way ends. Thread-safe."""
        self._stopping.set()

    def is_stopping(self) -> bool:
        """Say whether no further load begins. Thread-safe."""
        return self._stopping.is_set()

    def load(self, name: str) -> None:
        """Load a model as its folder is now. Raises UnknownModel, LoadFailed or Draining."""
        if name in self._elsewhere:
            self._load_pinned(name)
            return
        if not self._is_model_folder(name):
            raise UnknownModel(f"unknown model '{name}': the model repository has no folder of that name")
        entry = self._entries.setdefault(name, self._new_entry(name))
        failures = entry.apply(scan_model(self._root / name), on_request=True)
        if self._entries.get(name) is not entry:  # a poll has found the folder gone meanwhile
            entry.unload(REMOVED, wait_s=QUICK_CLOSE_S)
            raise UnknownModel(f"model '{name}' was removed from the model repository while it was loaded")
        if failures:
            serving = ", ".join(map(str, entry.ready_versions)) or "none"
            raise LoadFailed(f"model '{name}': {'; '.join(failures)} (ready versions: {serving})")

    def unload(self, name: str) -> None:
        """Unload a model until it is loaded again on request. Raises UnknownModel."""
        entry = self._entry(name)
        if self._trials is not None:
            self._trials.follow(None, name, None, self._root)
        entry.unload("unloaded on request", wait_s=self._drain_timeout_s)

    def close(self) -> None:
        """Unload everything, for good; requests in flight have been waited for already."""
        self.stop_loading()
        if self._trials is not None:
            self._trials.close()
        for entry in list(self._entries.values()):
            entry.unload("the server is shutting down", wait_s=QUICK_CLOSE_S)

    def _load_pinned(self, name: str) -> None:
        if name not in self._pinned:
            raise LoadFailed(f"model '{name}' follows an alias of the registry, and nothing has come from there yet")
        failures = self._entries[name].apply(self._pinned[name], on_request=True)
        if failures:
            raise LoadFailed(f"model '{name}': {'; '.join(failures)}")

    def _scan(self) -> dict[str, ModelOnDisk]:
        """Look at the folder, where there is one or must be one."""
        if self._elsewhere and not self._root.exists():
            return {}
        return {name: model for name, model in scan(self._root).items() if name not in self._elsewhere}

    def _follow(self, model: ModelOnDisk) -> None:
        """Let a model follow its folder, unless it was unloaded on request or the server is stopping."""
        with contextlib.suppress(Draining):
            self._entries[model.name].apply(model, on_request=False)

    def _is_model_folder(self, name: str) -> bool:
        """Say whether `name` is a folder right inside the repository; a path that leads elsewhere is not."""
        plain = name not in {"", ".", ".."} and "/" not in name and is_name(name)
        try:
            return plain and (self._root / name).is_dir()
        except OSError:  # longer than a file name can be
            return False

    def _new_entry(self, name: str) -> ModelEntry:
        return ModelEntry(name, self._load, self._clock, stopping=self._stopping, changed=self._changed)
