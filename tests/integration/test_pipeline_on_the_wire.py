"""A pipeline of numbers alone fits the compiled path: the same answers as on the ordinary one, row by row."""

import concurrent.futures

import numpy as np
import pytest

from serving.errors import RemoteError
from serving.transport.client import Client
from serving.types import Datatype
from tests.support import graphs
from tests.support.servers import TRANSPORTS, server_thread

CONFIG = """
[[pipeline.preprocess]]
step = "log1p"
input = "x"

[[pipeline.postprocess]]
step = "threshold"
input = "y"
minimum = 3.0
output = "is_high"

[pipeline]
outputs = ["is_high", "y"]

[batching]
mode = "window"
queue_delay_us_max = 2_000
"""
REQUESTS = 60


@pytest.fixture(scope="module", params=TRANSPORTS)
def server(request, tmp_path_factory):
    models = tmp_path_factory.mktemp("models")
    graphs.write_model(models, "affine", graphs.affine(), config=CONFIG)
    with server_thread(models, **TRANSPORTS[request.param]) as running:
        yield running


def asked(client, value):
    """Return what one row of a value gives, or the error."""
    rows = np.full((1, 4), value, np.float32)
    try:
        return client.infer("affine", {"x": (Datatype.FP32, rows)})[1]
    except RemoteError as error:
        return error


def test_bad_rows_fail_alone_among_many_requests_in_flight(server):
    values = [float(number) if number % 7 else -5.0 for number in range(REQUESTS)]
    with Client(server.address) as client, concurrent.futures.ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda value: asked(client, value), values))
    for value, answer in zip(values, answers, strict=True):
        if value < 0:
            assert isinstance(answer, RemoteError)
            assert answer.code == "INVALID_ARGUMENT"
            assert "row 0: log1p of 'x': -5.0 came in column 0, expected numbers above -1" in str(answer)
        else:
            expected = 2 * np.log1p(value) + 1
            np.testing.assert_allclose(answer["y"], np.full((1, 4), expected), rtol=1e-6)
            assert answer["is_high"].tolist() == [[bool(expected >= 3)] * 4]
