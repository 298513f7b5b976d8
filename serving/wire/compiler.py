"""Where kernels are compiled, and where the machine code is kept between starts.

Import this before anything that compiles: it points numba's cache at a folder of its own. numba's own key misses
edits in another file that a cached kernel calls and ignores the bounds-check setting, so the folder is named by a
digest of everything that machine code depends on: all kernel sources, Python, numba, numpy, the bounds-check setting
and the CPU. It knows the file system and numba, and no kernel.
"""

import atexit
import contextlib
import hashlib
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar, cast

import llvmlite.binding
import numba
import numba.core.config
import numpy as np

F = TypeVar("F", bound=Callable[..., Any])

FOLDERS_KEPT_MAX = 6
"""Old folders that survive pruning: a few versions side by side, with and without bounds checks."""

_LOG = logging.getLogger(__name__)


def digest(sources: Iterable[Path], *facts: object) -> str:
    """Name the machine code that `sources` give under `facts`."""
    key = hashlib.sha256()
    for path in sorted(sources):
        key.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    for fact in facts:
        key.update(repr(fact).encode() + b"\0")
    return key.hexdigest()[:24]


def base_folder() -> Path:
    """Return the folder of the user's cache that holds one folder per digest."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "penstock" / "kernels"


def prepare(base: Path, name: str) -> Path:
    """Make `base/name` writable and return it, or a temporary folder that lasts as long as this process."""
    folder = base / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            os.utime(folder)  # pruning keeps what was used last
    except OSError as error:
        temporary = Path(tempfile.mkdtemp(prefix="penstock-kernels-"))
        atexit.register(shutil.rmtree, temporary, ignore_errors=True)
        _LOG.warning("kernels are compiled anew at every start: %s is not writable (%s)", folder, error.strerror)
        return temporary
    prune(base, keep=folder)
    return folder


def prune(base: Path, *, keep: Path) -> None:
    """Remove all but the folders used last. Another process may prune at the same time, so a lost race is no error."""

    def used_ns(folder: Path) -> int:
        with contextlib.suppress(OSError):
            return folder.stat().st_mtime_ns
        return 0

    others = sorted((path for path in base.iterdir() if path != keep), key=used_ns, reverse=True)
    for folder in others[FOLDERS_KEPT_MAX:]:
        shutil.rmtree(folder, ignore_errors=True)


def kernel(*signatures: str, nogil: bool = False) -> Callable[[F], F]:
    """Compile a function for exactly `signatures`, now, from the cache where it can.

    Any other argument type is a TypeError at the call and never a compile that would stall the event loop. The GIL is
    kept unless `nogil`: giving up and taking back the GIL costs more than a wire kernel runs.
    """

    def compile_now(function: F) -> F:
        compiled: Any = numba.njit(list(signatures), nogil=nogil, cache=True, error_model="numpy")(function)
        compiled.disable_compile()
        KERNELS.append(compiled)
        return cast("F", compiled)

    return compile_now


def part(function: F) -> F:
    """Mark a piece of a kernel. It is compiled into every kernel that calls it and is not called from Python."""
    # Without the wrappers that Python would call it by: they took a quarter of the time to compile.
    decorate = cast("Any", numba.njit)(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)
    return cast("F", decorate(function))


int64 = cast("Callable[[Any], int]", np.int64)
"""Makes a signed 64-bit integer of a byte or a flag; mixing signed and unsigned would make a float."""

KERNELS: list[Any] = []
"""Every kernel that was compiled in this process, for the test that counts signatures."""

_CONFIG: dict[str, Any] = vars(numba.core.config)

BOUNDS_CHECKED = bool(_CONFIG["BOUNDSCHECK"])

CACHE = prepare(
    base_folder(),
    digest(
        Path(__file__).parent.glob("*.py"),
        sys.version,
        numba.__version__,
        np.__version__,
        BOUNDS_CHECKED,
        _CONFIG["OPT"],
        _CONFIG["CPU_NAME"] or llvmlite.binding.get_host_cpu_name(),
        _CONFIG["CPU_FEATURES"] or llvmlite.binding.get_host_cpu_features().flatten(),
    ),
)
_CONFIG["CACHE_DIR"] = str(CACHE)
