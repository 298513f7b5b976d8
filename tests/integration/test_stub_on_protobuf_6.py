"""The generated stubs run on protobuf 6 as well as on the 7 that this suite may run on, without a warning."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.support.environments import environment

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).parent / "clients" / "stub_session.py"
SESSION_TIMEOUT_S = 120


@pytest.fixture
def facts(affine_server):
    python = environment("grpcio>=1.76", "protobuf>=6.31.1,<7")
    done = subprocess.run(
        [str(python), "-W", "error", str(SCRIPT), affine_server.address],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=SESSION_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return json.loads(done.stdout)


def test_the_stubs_work_on_protobuf_6(facts):
    assert facts["protobuf"].startswith("6.")
    assert all(count > 10 for count in facts["round trips"])
    assert facts["unused module"] == "1.76.0"
    assert facts["ready"]
    assert facts["config"] == ["affine", 256, "TYPE_FP32"]
    assert facts["infer"] == ["one", [2.0 * x + 1 for x in range(8)]]
    assert facts["stream"] == ["one", [2, 4]]
