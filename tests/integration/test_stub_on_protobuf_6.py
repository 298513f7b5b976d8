"""The generated stubs run on protobuf 6 as well as on the 7 that this suite may run on, without a warning."""

import pytest

from tests.support.environments import environment
from tests.support.stock_clients import CLIENTS, ROOT, run_session


@pytest.fixture
def facts(affine_server):
    python = environment("grpcio>=1.76", "protobuf>=6.31.1,<7")
    script = CLIENTS / "stub_session.py"
    return run_session(python, "-W", "error", script, affine_server.address, PYTHONPATH=str(ROOT))


def test_the_stubs_work_on_protobuf_6(facts):
    assert facts["protobuf"].startswith("6.")
    assert all(count > 10 for count in facts["round trips"])
    assert facts["unused module"] == "1.76.0"
    assert facts["ready"]
    assert facts["config"] == ["affine", 256, "TYPE_FP32"]
    assert facts["infer"] == ["one", [2.0 * x + 1 for x in range(8)]]
    assert facts["stream"] == ["one", [2, 4]]
