"""A server with a well-behaved stock client on it, that must get every answer whatever others do to the server."""

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np

from serving.pb.open_inference_pb2_grpc import GRPCInferenceServiceStub
from serving.wire import layout
from tests.support import graphs
from tests.support.conformance import raw_request, read_outputs
from tests.support.metrics import counter
from tests.support.raw_client import RawClient
from tests.support.servers import TRANSPORTS, ServerThread, server_thread

ANSWER_TIMEOUT_S = 30
REQUESTS_AFTERWARDS = 20
WINDOW = "[batching]\nmode = 'window'\nqueue_delay_us_max = 60_000_000\n"


class Bystander:
    """Asks one request after the other on one connection, until it is told to stop; each answer must be its own."""

    def __init__(self, address: str) -> None:
        self.answered = 0
        self.failure: BaseException | None = None
        self._stopping = threading.Event()
        self._channel = grpc.insecure_channel(address, [("grpc.enable_http_proxy", 0)])
        self._stub = GRPCInferenceServiceStub(self._channel)
        self._first = threading.Event()
        self._thread = threading.Thread(target=self._run, name="bystander", daemon=True)
        self._thread.start()
        assert self._first.wait(ANSWER_TIMEOUT_S)

    def ask(self) -> None:
        row = np.full((1, 4), self.answered, np.float32)
        response = self._stub.ModelInfer(raw_request("affine", x=("FP32", row)), timeout=ANSWER_TIMEOUT_S)
        np.testing.assert_array_equal(read_outputs(response)["y"], 2 * row + 1)
        self.answered += 1

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self.ask()
                self._first.set()
        except BaseException as error:  # noqa: BLE001 - handed to the test
            self.failure = error
        finally:
            self._first.set()

    def leave(self) -> None:
        """Stop, and ask a few times more: the connection must have outlived everything."""
        self._stopping.set()
        self._thread.join(ANSWER_TIMEOUT_S)
        assert self.failure is None, f"after {self.answered} answers: {self.failure}"
        for _ in range(REQUESTS_AFTERWARDS):
            self.ask()
        self._channel.close()


class Siege:
    """The server that a test attacks."""

    def __init__(self, server: ServerThread) -> None:
        self.server = server
        self.before = self.refusals()

    def connect(self, **options) -> RawClient:
        """Connect one more peer; close it."""
        return RawClient(self.server.address, **options)

    @staticmethod
    def request(model: str, value: float = 0.0, rows: int = 1) -> bytes:
        """Return a request to a model, of rows of 4."""
        return raw_request(model, x=("FP32", np.full((rows, 4), value, np.float32))).SerializeToString()

    @property
    def core(self):
        """What all connections of the native transport share; look at it on the I/O thread."""
        return self.server.server._grpc._core

    def refusals(self) -> dict[str, int]:
        return self.server.call(self.server.server._grpc.refusals)

    def refused(self) -> dict[str, int]:
        """What was refused since the beginning of the test, by reason."""
        return {
            reason: count - self.before[reason]
            for reason, count in self.refusals().items()
            if count != self.before[reason]
        }

    def exported(self, reason: str) -> float:
        """What /metrics says of a reason."""
        return counter(self.server, "penstock_refused_total", reason=reason)

    def answered(self, **labels: str) -> float:
        return counter(self.server, "penstock_requests_total", **labels)

    def wait_until_forgotten(self, connections: int = 1) -> None:
        """Wait until only so many connections are left, and nothing of the others."""
        core, limits = self.core, self.core.state.limits

        def is_forgotten() -> bool:
            free = len(core._free_slots)
            return len(core.connections) == connections and free == limits.connections - connections

        self.server.wait_until(is_forgotten)
        self.server.wait_until(lambda: core.held_bytes == 0)


@contextlib.contextmanager
def besieged(models: Path, **options) -> Iterator[Siege]:
    """Run a native server with `affine` and `waits`, a bystander beside whatever the test does, and look for leaks."""
    graphs.write_model(models, "affine", graphs.affine())
    graphs.write_model(models, "waits", graphs.affine(), config=WINDOW)
    graphs.write_model(models, "echo", graphs.open_inner())
    with server_thread(models, **TRANSPORTS["native"], **options) as server:
        bystander = Bystander(server.address)
        siege = Siege(server)
        yield siege
        siege.wait_until_forgotten()
        bystander.leave()
        server.wait_until(lambda: server.in_flight == 0)
        server.wait_until(lambda: free_streams(siege) == len(siege.core.state.streams))


def free_streams(siege: Siege) -> int:
    """Count the rows in the list of free ones."""
    state, count = siege.core.state, 0
    stream = int(state.shared[layout.H_FREE_STREAM])
    while stream >= 0:
        count += 1
        stream = int(state.streams[stream, layout.S_NEXT])
    return count
