"""Reloading a model under load loses no request, and every answer is of one version of the model, never a mixture."""

import threading

import numpy as np

from serving.pb import open_inference_pb2 as pb
from serving.transport.client import Client
from serving.types import Datatype
from tests.support import graphs
from tests.support.servers import server_thread

CLIENTS, RELOADS = 6, 8
ROWS = np.arange(8, dtype=np.float32).reshape(2, 4)


class Load:
    """A client that asks again and again until it is told to stop; `answers` are the multipliers that it saw."""

    def __init__(self, address, stop):
        self.answers, self.failure = [], None
        self._address, self._stop = address, stop
        self.first = threading.Event()
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self):
        try:
            with Client(self._address, timeout_s=30) as client:
                while not self._stop.is_set():
                    _, outputs = client.infer("affine", {"x": (Datatype.FP32, ROWS)})
                    scale = (outputs["y"][1, 3] - 1) / ROWS[1, 3]
                    np.testing.assert_array_equal(outputs["y"], scale * ROWS + 1)
                    self.answers.append(float(scale))
                    self.first.set()
        except BaseException as error:  # noqa: BLE001 - handed to the test
            self.failure = error
            self.first.set()


def replace(path, content):
    """Change a file in one step, as a careful deployment does."""
    draft = path.with_name(f".{path.name}")
    draft.write_bytes(content)
    draft.replace(path)


def test_no_request_is_lost_while_graph_and_configuration_change(repository, transport):
    folder = graphs.write_model(repository, "affine", graphs.affine(scale=1.0))
    with server_thread(repository, poll_interval_s=0.05, **transport) as server:
        stop = threading.Event()
        loads = [Load(server.address, stop) for _ in range(CLIENTS)]
        with Client(server.address) as client:
            for load in loads:
                assert load.first.wait(30)
            for reload in range(2, 2 + RELOADS):
                replace(folder / "model.onnx", graphs.affine(scale=float(reload)))
                replace(folder.parent / "model.toml", b"[batching]\nbatch_rows_max = %d" % (2 * reload))
                client.call(
                    "RepositoryModelLoad",
                    pb.RepositoryModelLoadRequest(model_name="affine"),
                    pb.RepositoryModelLoadResponse,
                )
                _, outputs = client.infer("affine", {"x": (Datatype.FP32, ROWS)})
                np.testing.assert_array_equal(outputs["y"], reload * ROWS + 1)
            stop.set()
            for load in loads:
                load.thread.join(30)
            index = client.call("RepositoryIndex", pb.RepositoryIndexRequest(), pb.RepositoryIndexResponse)
        assert [load.failure for load in loads] == [None] * CLIENTS
        assert all(load.answers == sorted(load.answers) for load in loads), "an older graph answered after a newer one"
        assert len({scale for load in loads for scale in load.answers}) > 2
        assert [(entry.state, entry.reason) for entry in index.models] == [("READY", "")]
        assert server.call(lambda: server.in_flight) == 0
