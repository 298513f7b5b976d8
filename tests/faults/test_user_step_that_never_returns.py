"""A step of a model's own that never returns costs that model an instance; others are answered, and the server ends."""

import numpy as np
import pytest

from serving.errors import RemoteError
from serving.transport.client import Client
from serving.types import Datatype
from tests.support import graphs
from tests.support.servers import START_TIMEOUT_S, server_process

CONFIG = """
[[pipeline.preprocess]]
step = "user"
input = "x"
file = "steps.py"
function = "stumbles"
"""
STEPS = """
def stumbles(x, out):
    turns = 0
    while x[0, 0] == 99:
        turns += 1
    out[:, 0] = turns
"""
ROW = np.ones((1, 4), np.float32)


def ask(client, model, rows):
    return client.infer(model, {"x": (Datatype.FP32, rows)})[1]["y"].tolist()


def test_others_are_answered_and_the_server_ends(tmp_path):
    version = graphs.write_model(tmp_path, "stumbles", graphs.affine(), config=CONFIG)
    (version / "steps.py").write_text(STEPS)
    graphs.write_model(tmp_path, "steady", graphs.affine())
    with server_process(tmp_path, user_code="on", drain_timeout_s=1) as server:
        with Client(server.address, timeout_s=1) as client:
            assert ask(client, "stumbles", ROW) == [[1, 1, 1, 1]]
            with pytest.raises(RemoteError, match="DEADLINE_EXCEEDED"):
                ask(client, "stumbles", 99 * ROW)
        with Client(server.address) as client:
            assert ask(client, "steady", ROW) == [[3, 3, 3, 3]]
        server.process.terminate()
        assert server.process.wait(START_TIMEOUT_S) == 0
        server.wait_for_log("a model still runs; leaving without it")
