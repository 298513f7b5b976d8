"""One model of the repository: its versions, which of them serve, and how what should serve gets loaded.

A new servable is built beside the old one and replaces it in one step; the old one is retired and closed when its last
request has been answered. What fails to load leaves everything that serves as it is.
"""

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType

from serving.clock import Clock
from serving.config import ModelConfig, VersionPolicy, load_model_config
from serving.errors import ConfigError, Draining, LoadError, NotReady, UnknownModel
from serving.model import Servable
from serving.repository.handle import Handle, close_when_idle
from serving.repository.lifecycle import State, check_move
from serving.repository.scanner import Fingerprint, ModelOnDisk, VersionOnDisk, is_version
from serving.repository.version_policy import candidates, is_enough

Load = Callable[[str, int, Path, ModelConfig], Servable]
"""Loads one version. Raises LoadError."""

Changed = Callable[[], object]
"""Called, on a loader thread, when what serves has changed."""

QUICK_CLOSE_S = 1.0
"""How long a change waits for the servables it retired, so that mostly they are closed when it is done."""

REMOVED = "removed from the repository"

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class VersionRecord:
    """What is known of one version. `fingerprint` is that of the files, and the configuration, last tried."""

    state: State
    reason: str = ""
    fingerprint: tuple[Fingerprint, Fingerprint] = ((), ())

    def move(self, state: State, reason: str = "") -> None:
        """Make a legal move."""
        check_move(self.state, state)
        self.state = state
        self.reason = reason


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One line of the repository's index. `version` is empty for a model without versions."""

    name: str
    version: str
    state: State
    reason: str


class ModelEntry:
    """One model. `apply` and `unload` run on loader threads, one at a time; `pin` and `index` on the I/O thread."""

    def __init__(self, name: str, load: Load, clock: Clock, *, stopping: threading.Event, changed: Changed) -> None:
        self.name = name
        self.wanted = True
        self._load = load
        self._clock = clock
        self._stopping = stopping
        self._changed = changed
        self._changing = threading.Lock()
        self._records: dict[int, VersionRecord] = {}
        self._handles: Mapping[int, Handle] = MappingProxyType({})
        self._problems: tuple[str, ...] = ()
        self._config_problem = ""
        self._default: int | None = None  # of pinned versions, the one for requests that name none
        self._closing: list[threading.Event] = []  # of what was retired since it was last waited for

    # ---- on the I/O thread -----------------------------------------------------------------------------------------

    @property
    def ready_versions(self) -> list[int]:
        """The versions that serve, oldest first."""
        return sorted(self._handles)

    def pin(self, version: str) -> Handle:
        """Return a handle in use, of the newest ready version without a `version`. Raises UnknownModel or NotReady."""
        while True:
            handles = self._handles  # one look: a loader may replace the table between two
            number = self._number(version, handles)
            handle = handles.get(number) if number is not None else None
            if handle is not None and handle.acquire():
                return handle
            if handles is self._handles:
                raise self._absence(version, number)

    def index(self) -> list[IndexEntry]:
        """List the versions, oldest first, or the model itself with its problems when it has none."""
        records = sorted(self._records.items())
        if not records:
            problem = self._config_problem or "; ".join(self._problems)
            return [IndexEntry(self.name, "", State.FAILED if problem else State.LOADING, problem)]
        return [IndexEntry(self.name, str(number), record.state, record.reason) for number, record in records]

    def handles(self) -> list[Handle]:
        """Return the handles of the ready versions, oldest first; none is acquired."""
        return [handle for _, handle in sorted(self._handles.items())]

    def followed(self) -> list[Handle]:
        """Return the handles for a transport that takes the newest version when a request names none.

        Those above the default are left out: requests that name them take the ordinary path.
        """
        default, handles = self._default, self._handles
        last = default if default is not None and default in handles else max(handles, default=0)
        return [handle for number, handle in sorted(handles.items()) if number <= last]

    def servables(self) -> list[Servable]:
        """Return the servables of the ready versions, oldest first."""
        return [handle.servable for handle in self.handles()]

    def default_servable(self) -> Servable | None:
        """Return what answers requests that name no version; None when nothing does. Any thread."""
        handles = self._handles
        number = self._number("", handles)
        return handles[number].servable if number is not None else None

    def _number(self, version: str, handles: Mapping[int, Handle]) -> int | None:
        """Return the version that is meant: without a `version` the default or newest ready one; None for none."""
        if not version:
            return self._default if self._default in handles else max(handles, default=None)
        return int(version) if is_version(version) else None

    def _absence(self, version: str, number: int | None) -> UnknownModel | NotReady:
        if not version:
            reasons = [f"version {entry.version or '-'}: {entry.reason}" for entry in self.index() if entry.reason]
            return NotReady(f"model '{self.name}' has no ready version; {'; '.join(reasons) or 'it is loading'}")
        record = self._records.get(number) if number is not None else None
        if record is None:
            known = ", ".join(map(str, sorted(self._records))) or "none"
            return UnknownModel(f"model '{self.name}' has no version '{version}', there are: {known}")
        reason = f": {record.reason}" if record.reason else ""
        return NotReady(f"model '{self.name}' version {version} is {record.state.name.lower()}{reason}")

    # ---- on loader threads -----------------------------------------------------------------------------------------

    def apply(self, on_disk: ModelOnDisk, *, on_request: bool) -> list[str]:
        """Load what should serve and is not loaded, retire what should not. Returns why wanted versions do not serve.

        On request a model counts as wanted again, and versions are tried again that failed before with these same
        files. Raises Draining once the server is stopping.
        """
        with self._changing:
            if self._stopping.is_set():
                raise Draining("the server is shutting down and loads nothing any more")
            if not on_request and not self.wanted:
                return []
            self.wanted = True
            self._note_problems(on_disk)
            failures = self._follow(on_disk, retry=on_request)
            closing = self._take_closing()
        self._await_closed(closing, QUICK_CLOSE_S)
        return failures

    def unload(self, reason: str, *, wait_s: float) -> None:
        """Retire every version, and wait for their last answers, but no longer than `wait_s`."""
        with self._changing:
            self.wanted = False
            self._retire(list(self._handles), reason)
            closing = self._take_closing()
        self._await_closed(closing, wait_s)

    def _follow(self, on_disk: ModelOnDisk, *, retry: bool) -> list[str]:
        try:
            config = load_model_config(on_disk.config_path)
        except ConfigError as error:
            failures = self._keep_as_is(on_disk, str(error))
        else:
            self._forget_config_problem()
            failures = self._load_candidates(on_disk, config, retry=retry)
        self._forget_removed(on_disk)
        return failures or ([] if on_disk.versions else list(on_disk.problems))

    def _note_problems(self, on_disk: ModelOnDisk) -> None:
        if on_disk.problems != self._problems:
            self._problems = on_disk.problems
            for problem in on_disk.problems:
                _log.warning("model '%s': %s", self.name, problem)

    def _keep_as_is(self, on_disk: ModelOnDisk, problem: str) -> list[str]:
        """With a configuration that cannot be used, what serves goes on and the rest is unavailable."""
        if problem != self._config_problem:
            _log.error("model '%s': %s", self.name, problem)
        self._config_problem = problem
        for number in on_disk.versions:
            record = self._records.setdefault(number, VersionRecord(State.LOADING))
            if record.state is State.LOADING:
                record.move(State.FAILED)
            record.reason = problem
        return [problem]

    def _forget_config_problem(self) -> None:
        for record in self._records.values():
            if record.state is State.READY and record.reason == self._config_problem:
                record.reason = ""
        self._config_problem = ""

    def _load_candidates(self, on_disk: ModelOnDisk, config: ModelConfig, *, retry: bool) -> list[str]:
        policy = VersionPolicy(latest=0) if on_disk.pinned else config.version_policy
        failures: list[str] = []
        chosen: list[int] = []
        may_load = True
        for number in on_disk.pinned or candidates(policy, on_disk.versions):
            if is_enough(policy, len(chosen)) or self._stopping.is_set():
                break
            version = on_disk.versions[number]
            if self._is_unloading(number):
                failures.append(f"version {number}: still answering its last requests; load it again when it has")
                may_load = False  # an older version must not step in for a moment, and one that serves must stay
                continue
            if may_load and self._needs_loading(version, on_disk.config_fingerprint, retry=retry):
                self._try_load(version, on_disk.config_fingerprint, config)
            if number in self._handles:
                chosen.append(number)
            if may_load and (reason := self._records[number].reason):
                failures.append(f"version {number}: {reason}")
        failures += [
            f"version {number}: asked for by version_policy {policy}, and not in the repository"
            for number in policy.specific
            if number not in on_disk.versions
        ]
        if on_disk.pinned and on_disk.pinned[0] in self._handles:
            self._default = on_disk.pinned[0]
        not_selected = f"not selected by version_policy {policy}"
        self._retire([n for n in self._handles if n not in chosen and n in on_disk.versions], not_selected)
        for number in on_disk.versions:
            record = self._records.setdefault(number, VersionRecord(State.UNLOADED))
            if record.state is State.UNLOADED:
                record.reason = not_selected
        return failures

    def _is_unloading(self, number: int) -> bool:
        record = self._records.get(number)
        return record is not None and record.state is State.UNLOADING

    def _needs_loading(self, version: VersionOnDisk, config_fingerprint: Fingerprint, *, retry: bool) -> bool:
        record = self._records.get(version.number)
        if record is None or record.state is State.UNLOADED:
            return True
        changed = record.fingerprint != (version.fingerprint, config_fingerprint)
        return changed or (retry and record.reason != "")

    def _try_load(self, version: VersionOnDisk, config_fingerprint: Fingerprint, config: ModelConfig) -> None:
        """Load a version, beside the servable that it replaces if there is one."""
        record = self._records.setdefault(version.number, VersionRecord(State.LOADING))
        if record.state in {State.UNLOADED, State.FAILED}:
            record.move(State.LOADING)
        record.fingerprint = (version.fingerprint, config_fingerprint)
        started_ns = self._clock.now_ns()
        try:
            if version.problem:
                raise LoadError(version.problem)  # noqa: TRY301 - one path for what is seen before and while loading
            servable = self._load(self.name, version.number, version.path, config)
        except LoadError as error:
            self._note_failure(version.number, record, str(error))
            return
        except Exception as error:  # noqa: BLE001 - logged, and answered
            _log.exception("%s/%d: loading failed in an unexpected way", self.name, version.number)
            self._note_failure(version.number, record, f"{type(error).__name__} while loading; the log has the details")
            return
        self._publish(Handle(servable), record)
        _log.info("%s/%d: ready after %.0f ms", self.name, version.number, (self._clock.now_ns() - started_ns) / 1e6)

    def _note_failure(self, number: int, record: VersionRecord, reason: str) -> None:
        _log.error("%s/%d: not loaded: %s", self.name, number, reason)
        if record.state is State.READY:
            record.reason = f"the files have changed and do not load, what was loaded before still serves: {reason}"
        else:
            record.move(State.FAILED, reason)

    def _publish(self, handle: Handle, record: VersionRecord) -> None:
        number = handle.servable.version
        replaced = self._handles.get(number)
        self._handles = MappingProxyType({**self._handles, number: handle})
        self._changed()
        if replaced is None:
            record.move(State.READY)
        else:
            record.reason = ""
            self._closing.append(close_when_idle(replaced))

    def _retire(self, numbers: Iterable[int], reason: str) -> None:
        """Take versions out of service at once; each is closed when its last request is answered."""
        retired = {number: self._handles[number] for number in numbers}
        self._handles = MappingProxyType({n: handle for n, handle in self._handles.items() if n not in retired})
        for number, handle in retired.items():
            record = self._records[number]
            record.move(State.UNLOADING, reason)
            self._closing.append(close_when_idle(handle, partial(self._note_closed, number, record, reason)))
        self._changed()

    def _note_closed(self, number: int, record: VersionRecord, reason: str) -> None:
        """Note that a retired version is closed. On the thread that closed it."""
        with self._changing:
            record.move(State.UNLOADED, reason)
            if reason == REMOVED and self._records.get(number) is record:
                del self._records[number]
        _log.info("%s/%d: unloaded: %s", self.name, number, reason)

    def _take_closing(self) -> list[threading.Event]:
        closing, self._closing = self._closing, []
        return closing

    def _await_closed(self, closing: Iterable[threading.Event], wait_s: float) -> None:
        """Wait, not for ever and not under the lock, for servables that have been retired."""
        end_ns = self._clock.now_ns() + int(wait_s * 1e9)
        waited = [closed.wait(max(0, end_ns - self._clock.now_ns()) / 1e9) for closed in closing]
        if not all(waited):
            _log.warning("model '%s': requests of a retired version still run after %g s", self.name, wait_s)

    def _forget_removed(self, on_disk: ModelOnDisk) -> None:
        gone = [number for number in self._records if number not in on_disk.versions]
        self._retire([number for number in gone if number in self._handles], REMOVED)
        for number in gone:
            if not self._is_unloading(number):
                del self._records[number]
