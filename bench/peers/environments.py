"""The virtual environments that peers are installed in: which a person named, and what is in them."""

import json
import subprocess
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.peers.peer import PeerAbsent
from serving.config import nearest
from serving.errors import ConfigError

_ANSWER_S_MAX = 60
_ASK_FOR_VERSIONS = """\
import json, sys
from importlib import metadata
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
        pass
print(json.dumps(found))
"""


def parse(options: Sequence[str], known: Collection[str]) -> dict[str, Path]:
    """Read `NAME=PATH` options into absolute paths by the peers' names. Raises ConfigError."""
    found: dict[str, Path] = {}
    for option in options:
        name, separator, text = option.partition("=")
        if not separator or not name or not text:
            raise ConfigError(f"--venv {option!r}, expected NAME=PATH such as mlserver=/opt/venvs/mlserver")
        if name not in known:
            raise ConfigError(f"--venv {option!r} names an unknown peer '{name}'{nearest(name, known)}")
        if name in found:
            raise ConfigError(f"--venv names {name} twice: {found[name]} and {text}; leave out one of them")
        # Not resolved: Python finds the environment by the path of its own link.
        found[name] = Path(text).expanduser().absolute()
        if not found[name].exists():
            raise ConfigError(f"--venv {name}={text} does not exist; make it with `python -m venv {text}`")
    return found


def python_of(name: str, environment: Path | None) -> Path:
    """Return the Python of a peer's environment. Raises PeerAbsent without one, ConfigError for what is none."""
    if environment is None:
        raise PeerAbsent(f"no environment was named for it; add --venv {name}=PATH")
    python = environment / "bin" / "python"
    if not python.exists():
        raise ConfigError(f"--venv {name}={environment} is no virtual environment: it has no bin/python")
    return python


def versions(python: Path, required: Sequence[str]) -> Mapping[str, str]:
    """Return the versions of distributions in the environment of `python`.

    Raises PeerAbsent when one is not installed, ConfigError when that Python does not run.
    """
    found: dict[str, str] = ask(python, _ASK_FOR_VERSIONS, *required)
    missing = [name for name in required if name not in found]
    if missing:
        names = " ".join(missing)
        raise PeerAbsent(f"no {' and no '.join(missing)} in its environment; run its bin/python -m pip install {names}")
    return found


def ask(python: Path, script: str, *arguments: str) -> Any:
    """Return the JSON that a script prints in the environment of `python`. Raises ConfigError when it prints none."""
    command = [str(python), "-I", "-c", script, *arguments]
    try:
        answer = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True, timeout=_ANSWER_S_MAX
        )
        return json.loads(answer.stdout)
    except subprocess.CalledProcessError as error:
        said = (error.stderr.strip().splitlines() or ["nothing"])[-1]
        raise ConfigError(f"{python} ends with status {error.returncode}, saying: {said}") from None
    except subprocess.TimeoutExpired:
        raise ConfigError(f"{python} does not answer within {_ANSWER_S_MAX} s") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{python} does not run as a Python: {error}") from None
