"""From a CSV to production, drift, a canary that is promoted and one that is rolled back: one command, unattended."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from serving.registry.client import Registry
from serving.registry.names import Alias
from serving.release.rollout import State
from serving.release.rollouts import Rollouts

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_whole_way_in_one_command(tmp_path):
    folder = tmp_path / "release"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    program = [sys.executable, "-m", "serving", "quickstart", "--kind", "release", "--folder", str(folder)]
    result = subprocess.run(program, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-4_000:] + result.stderr
    assert "and not one failed" in result.stdout
    with Registry.open(str(folder / "registry")) as registry:
        assert registry.aliases() == {Alias("digits", "production"): 2}
        assert [each.state for each in Rollouts(registry).listed("digits")] == [State.PROMOTED, State.ROLLED_BACK]
        assert registry.verify(head=registry.head()).findings == ()
        kinds = [record.kind for record in registry.history("digits")]
    assert kinds.count("push") == 3
    assert kinds.count("drift") == 1
