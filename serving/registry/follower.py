"""Follows aliases for a server: pulls what they name, hands it over, and keeps what it needs when the registry is away.

Knows nothing of servers: what is pulled goes to a callable. Packages lie in a cache of one folder per alias, with the
last that was handed over in `state.json`, so that a server that starts while the registry is away serves that one.

    CACHE/NAME@ALIAS/SEQ-DIGEST/      a package
    CACHE/NAME@ALIAS/state.json       which one serves, and the one before
"""

import contextlib
import json
import logging
import os
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from serving.errors import ConfigError, PackageError, RegistryError
from serving.package import verify
from serving.registry.cache import Pulled, keep_only, place_of, pull_into
from serving.registry.client import Registry
from serving.registry.names import Alias, check_digest
from serving.registry.source import Source

STATE_FILE = "state.json"
STATE_BYTES_MAX = 1 << 16
BUSY_TIMEOUT_S = 2.0
"""How long a look waits for a writer: the next one comes soon, and a server does not stop before this one has ended."""

_log = logging.getLogger(__name__)


Deliver = Callable[[Alias, Sequence[Pulled]], list[str]]
"""Serves the first of some packages, and keeps the others warm; returns why the first does not serve, if so."""


@dataclass(slots=True)
class _Followed:
    """What is known of one alias: the packages handed over last, the first of which serves, and the last trouble."""

    alias: Alias
    folder: Path
    serving: list[Pulled] = field(default_factory=list)
    refused: str = ""
    trouble: str = ""


class AliasFollower:
    """Looks at the aliases of one registry whenever it is asked to. One thread at a time; `look` may take long.

    `connect` opens a registry of another kind than our own, which `uri` names. `go_on` is for another thread.
    """

    def __init__(
        self, uri: str, aliases: Sequence[Alias], cache: Path, deliver: Deliver, *,
        connect: Callable[[], Source] | None = None,
    ) -> None:  # fmt: skip
        self._connect = connect or (lambda: Registry.open(uri, busy_timeout_s=BUSY_TIMEOUT_S))
        self._deliver = deliver
        self._delivering = threading.Lock()  # held while what serves may change
        self._followed = [_Followed(alias, cache / str(alias)) for alias in aliases]

    def look(self) -> None:
        """Hand over what each alias names. What goes wrong is logged once, and what serves goes on serving."""
        try:
            registry = self._connect()
        except (ConfigError, RegistryError, OSError) as error:
            for followed in self._followed:
                self._without_registry(followed, str(error))
            return
        with registry:
            for followed in self._followed:
                self._look_at(followed, registry)

    def go_on(self) -> None:
        """Serve what served last where nothing serves yet: a look waits for the registry, and does so for too long."""
        if not self._delivering.acquire(blocking=False):
            return  # it loads what it was waiting for
        try:
            for followed in self._followed:
                self._serve_last(followed)
        finally:
            self._delivering.release()

    def _look_at(self, followed: _Followed, registry: Source) -> None:
        try:
            pushed = registry.resolve(followed.alias)
            pulled = pull_into(followed.folder, registry, pushed)
        except (RegistryError, PackageError, OSError) as error:
            self._without_registry(followed, str(error))
            return
        followed.trouble = ""
        with self._delivering:
            if pulled.digest != followed.refused or not followed.serving:
                self._hand_over(followed, pulled)

    def _hand_over(self, followed: _Followed, pulled: Pulled) -> None:
        """Let a package serve, beside the one before it, which stays warm; when it does not load, nothing changes."""
        last = followed.serving or _read_state(followed)  # a server that has just started keeps the one before warm too
        before = [each for each in last if each.digest != pulled.digest]
        failures = self._deliver(followed.alias, [pulled, *before[:1]])
        if failures:
            self._refuse(followed, pulled, "; ".join(failures))
            return
        if followed.serving[:1] != [pulled]:
            _log.info("%s: serving package %d, %s", followed.alias, pulled.sequence, pulled.digest)
        followed.refused = ""
        followed.serving = [pulled, *before[:1]]
        _write_state(followed)

    def _refuse(self, followed: _Followed, pulled: Pulled, why: str) -> None:
        """Keep what serves. A package is not tried again until the alias moves, unless its copy here is damaged."""
        if pulled.digest != followed.refused:
            _log.error("%s: package %d does not serve: %s", followed.alias, pulled.sequence, why)
        followed.refused = pulled.digest
        if _is_damaged(pulled.path):
            followed.refused = ""
            shutil.rmtree(pulled.path, ignore_errors=True)
            _log.warning("%s: the copy of package %d was damaged and is pulled again", followed.alias, pulled.sequence)
        if followed.serving:
            self._deliver(followed.alias, followed.serving)

    def _without_registry(self, followed: _Followed, trouble: str) -> None:
        """Go on with what serves; at the start, with what served last."""
        if trouble != followed.trouble:
            _log.warning("%s: %s; what serves goes on serving", followed.alias, trouble)
        followed.trouble = trouble
        with self._delivering:
            self._serve_last(followed)

    def _serve_last(self, followed: _Followed) -> None:
        if followed.serving or not (last := _read_state(followed)):
            return
        if not self._deliver(followed.alias, last):
            followed.serving = last
            _log.info("%s: serving package %d from the cache", followed.alias, last[0].sequence)


def _is_damaged(path: Path) -> bool:
    try:
        verify(path)
    except PackageError:
        return True
    return False


def _write_state(followed: _Followed) -> None:
    """Remember what serves, then remove packages that are needed no more. A full disk only costs the memory of it."""
    kept = [{"sequence": each.sequence, "package": each.digest} for each in followed.serving]
    draft = followed.folder / f".{STATE_FILE}.{os.getpid()}"
    try:
        draft.write_text(json.dumps({"packages": kept}))
        draft.replace(followed.folder / STATE_FILE)
        keep_only(followed.folder, followed.serving)
    except OSError as error:
        _log.warning("%s: what serves cannot be remembered: %s", followed.alias, error.strerror)
        with contextlib.suppress(OSError):
            draft.unlink()


def _read_state(followed: _Followed) -> list[Pulled]:
    """Return the packages that were handed over last and are in the cache; their bytes are verified when they load."""
    try:
        with (followed.folder / STATE_FILE).open("rb") as file:
            packages = json.loads(file.read(STATE_BYTES_MAX))["packages"]
        named = [(int(each["sequence"]), check_digest(each["package"])) for each in packages]
    except (OSError, ValueError, KeyError, TypeError, RegistryError):
        return []
    found = [Pulled(sequence, digest, place_of(followed.folder, sequence, digest)) for sequence, digest in named]
    return [each for each in found[:2] if each.path.is_dir()]
