"""Sessions of stock clients, each a program of its own that prints what it has found as one line of JSON."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
CLIENTS = ROOT / "tests" / "integration" / "clients"
SESSION_TIMEOUT_S = 240


def run_session(*command: str | Path, **environment: str) -> Any:
    """Run a client to its end and return what it has found; one that fails or warns fails the test."""
    done = subprocess.run(
        command,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=SESSION_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return json.loads(done.stdout)
