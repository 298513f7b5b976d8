"""Many requests on several connections get the answers that each of them gets alone."""

import contextlib

import grpc
import numpy as np
import pytest

from bench.load import FEATURES, write_forest
from serving.pb import open_inference_pb2 as pb
from serving.transport.calls import SERVICE
from tests.support.conformance import raw_request, read_outputs
from tests.support.servers import server_thread

REQUESTS, CONNECTIONS = 600, 4
DEADLINE_S = 60


def requests():
    """Requests of 1 to 7 rows like those that the forest was trained on; some ask for one output only."""
    random = np.random.default_rng(5)
    for number in range(REQUESTS):
        rows = random.integers(1, 8) if number % 3 else 1
        request = raw_request("forest", features=("FP32", random.gamma(2.0, 40.0, (rows, FEATURES)).astype(np.float32)))
        request.id = f"request {number}"
        if number % 5 == 0:
            request.outputs.add(name="probabilities")
        yield request.SerializeToString()


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    models = tmp_path_factory.mktemp("forest")
    write_forest(models)
    return models


def as_numbers(answer):
    """Return the id and the outputs; a label that half of the trees vote for is left to rounding."""
    response = pb.ModelInferResponse.FromString(answer)
    outputs = read_outputs(response)
    if "label" in outputs:
        is_tie = np.isclose(outputs["probabilities"][:, 0], 0.5, rtol=0, atol=1e-5)
        outputs["label"] = np.where(is_tie, -1, outputs["label"])
    return response.id, outputs


@pytest.mark.parametrize("inline_us_max", [0, 200])
def test_answers_under_load_are_those_of_one_at_a_time(models, inline_us_max):
    messages = list(requests())
    options = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]
    with server_thread(models, inline_us_max=inline_us_max) as server, contextlib.ExitStack() as stack:
        channels = [stack.enter_context(grpc.insecure_channel(server.address, options)) for _ in range(CONNECTIONS)]
        invoke = [channel.unary_unary(f"/{SERVICE}/ModelInfer") for channel in channels]
        alone = [as_numbers(invoke[0](message, timeout=DEADLINE_S)) for message in messages]
        futures = [invoke[k % CONNECTIONS].future(message, timeout=DEADLINE_S) for k, message in enumerate(messages)]
        together = [as_numbers(future.result(DEADLINE_S)) for future in futures]
        batches = server.call(lambda: next(server.server._repository.servables()).statistics.execution_count)
        assert server.call(lambda: server.in_flight) == 0
    for (name, expected), (other_name, outputs) in zip(alone, together, strict=True):
        assert name == other_name
        assert outputs.keys() == expected.keys()
        for output, array in expected.items():
            np.testing.assert_allclose(outputs[output], array, rtol=0, atol=1e-6)
    assert batches < 2 * REQUESTS, "nothing was batched"
