"""Sessions without a graph, and the I/O thread played by the test: for tests that decide when a model runs."""

import queue
import threading

import numpy as np

from serving.batching.entries import QueuedRequest
from serving.config import BatchingConfig, InstancesConfig, ModelConfig, SessionConfig
from serving.execution.session import Session
from serving.model import Servable
from serving.types import DYNAMIC, Datatype, Signature, TensorSpec

DEADLINE_S = 30
NATURAL = "[batching]\nmode = 'window'\n"
"""A model.toml that lets an idle instance take all that waits, whatever was learnt of the model."""

WARM_UP = [1, 2, 2, 1, 1, 1, 1, 1]
"""The rows of the runs that a batchable servable makes before it is built; loading adds a sweep."""

AFFINE = Signature(
    (TensorSpec("x", Datatype.FP32, (DYNAMIC, 4)),), (TensorSpec("y", Datatype.FP32, (DYNAMIC, 4)),), batchable=True
)


def affine(x):
    """y = 2 x + 1, as `graphs.affine` computes it."""
    return [2 * x + 1]


class FakeSession:
    """What `Servable` needs of a session, with a function in place of a graph; `runs` holds the rows of each run."""

    def __init__(self, function=affine, signature=AFFINE) -> None:
        self.signature = signature
        self.runs_on_caller = True
        self.runs: list[int] = []
        self._closed = threading.Event()
        self._function = function

    @property
    def closed(self) -> bool:
        return self._closed.is_set()

    def wait_until_closed(self) -> None:
        assert self._closed.wait(DEADLINE_S), "the session was not closed in time"

    def run(self, inputs):
        self.runs.append(len(inputs[0]))
        return self._function(*inputs)

    def close(self) -> None:
        self._closed.set()


class HeldSession(FakeSession):
    """Between `hold` and `let_go` every run waits, which keeps an instance busy for as long as a test likes."""

    def __init__(self, function=affine, signature=AFFINE) -> None:
        super().__init__(function, signature)
        self._running = threading.Semaphore(0)
        self._changed = threading.Condition()
        self._held = False
        self._passes = 0
        self._first_held: int | None = None

    @property
    def served(self) -> list[int]:
        """The runs since the first `hold`, which the warm-up is not among."""
        assert self._first_held is not None, "the session was never held"
        return self.runs[self._first_held :]

    def hold(self) -> None:
        if self._first_held is None:
            self._first_held = len(self.runs)
        self._held = True

    def wait_until_running(self) -> None:
        """Wait until one more run has begun and waits."""
        assert self._running.acquire(timeout=DEADLINE_S), "no run has begun in time"

    def let_one_go(self) -> None:
        """Let one run end; the next one waits again."""
        with self._changed:
            self._passes += 1
            self._changed.notify_all()

    def let_go(self) -> None:
        with self._changed:
            self._held = False
            self._changed.notify_all()

    def run(self, inputs):
        if self._held:
            self._running.release()
            with self._changed:
                free = self._changed.wait_for(lambda: self._passes or not self._held, DEADLINE_S)
                assert free, "the test never let the session go"
                self._passes = max(0, self._passes - 1)
        return super().run(inputs)


class HeldGraph(HeldSession):
    """A real graph whose runs a test can hold up; `model` is the name it is served by."""

    def __init__(self, path, config=None, instances=None) -> None:
        self.model = path.parents[1].name
        self._graph = Session(path, config or SessionConfig(intra_op_threads=1), instances or InstancesConfig())
        super().__init__(lambda *inputs: self._graph.run(inputs), self._graph.signature)

    def close(self) -> None:
        self._graph.close()
        super().close()


class Posts:
    """The I/O thread's inbox: what instance threads post runs when the test says so, on the test's thread."""

    def __init__(self) -> None:
        self._callbacks: queue.SimpleQueue = queue.SimpleQueue()

    def __call__(self, callback) -> None:
        self._callbacks.put(callback)

    def run(self, count: int = 1) -> None:
        """Run the next `count` callbacks, waiting for each."""
        for _ in range(count):
            self._callbacks.get(timeout=DEADLINE_S)()

    def empty(self) -> bool:
        return self._callbacks.empty()


def model_config(*, instances: int = 1, **batching) -> ModelConfig:
    return ModelConfig(batching=BatchingConfig(**batching), instances=InstancesConfig(count=instances))


def servable(session, clock, post, *, config=None, name="m", version=1) -> Servable:
    """A servable around a session; close it."""
    return Servable(name, version, session, config or ModelConfig(), clock=clock, post=post)


def queued(rows=1, *, settle=None, lane=((4,),), input_bytes=None, arrival_ns=0, deadline_ns=None, value=0.0):
    """A request of `rows` rows that hold `value`; its answers are collected in `settle`, a list."""
    x = np.full((rows, 4), value, np.float32)
    answers = [] if settle is None else settle
    return QueuedRequest(
        [x],
        rows=rows,
        lane=lane,
        input_bytes=x.nbytes if input_bytes is None else input_bytes,
        arrival_ns=arrival_ns,
        deadline_ns=deadline_ns,
        settle=answers.append,
    )
