"""The tests of what runs on a GPU, in numba's simulator; it is chosen when numba is imported, so in another process."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[4]


def test_what_runs_on_a_gpu_does_so_in_the_simulator():
    command = [sys.executable, "-m", "pytest", "tests/gpu", "-n", "0", "-p", "no:cacheprovider"]
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 0
    assert "skipped" not in done.stdout
