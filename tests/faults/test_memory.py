"""Loading and unloading one model again and again leaves nothing behind: no memory, no file, no thread."""

import gc
import os

import numpy as np
import psutil
import pytest

from serving.pb import open_inference_pb2 as pb
from serving.transport.client import Client
from serving.types import Datatype
from tests.support import graphs
from tests.support.servers import server_thread

WEIGHTS_MIB = 8
WARM_UP = 5
GROWTH_MIB_MAX = 2 * WEIGHTS_MIB
LATE_THREADS = 3
"""Of pools, which start them when they are first needed; a thread that stayed per round would be twenty."""
"""Two copies of the weights: far below what forgetting one per round would cost, above what allocators keep."""


@pytest.mark.parametrize("rounds", [25, pytest.param(200, marks=pytest.mark.slow)])
def test_what_a_model_took_comes_back_when_it_is_unloaded(repository, rounds):
    graphs.write_model(repository, "heavy", graphs.heavy())
    process = psutil.Process(os.getpid())

    def measure():
        gc.collect()
        return process.memory_info().rss >> 20, process.num_fds(), process.num_threads()

    with server_thread(repository) as server, Client(server.address) as client:

        def cycle():
            client.infer("heavy", {"x": (Datatype.FP32, np.ones((8, 512), np.float32))})
            for verb in ("Unload", "Load"):
                request = getattr(pb, f"RepositoryModel{verb}Request")(model_name="heavy")
                client.call(f"RepositoryModel{verb}", request, getattr(pb, f"RepositoryModel{verb}Response"))

        for _ in range(WARM_UP):
            cycle()
        before = measure()
        for _ in range(rounds - WARM_UP):
            cycle()
        after = measure()
    assert after[0] - before[0] <= GROWTH_MIB_MAX
    assert after[1] == before[1]
    assert after[2] <= before[2] + LATE_THREADS
