"""Asks a server for one digit after the other, as the office does, and keeps count of what comes back.

A thread of its own runs an event loop; the tour reads the counts.
"""

import asyncio
import threading
import uuid
from collections import deque
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import grpc.aio
import numpy as np

from serving.commands.release_tour.world import Forms
from serving.pb import open_inference_pb2 as pb
from serving.transport.calls import SERVICE
from serving.transport.client import infer_message, read_outputs
from serving.types import Datatype

CLERKS = 8
"""Requests in flight at a time."""
PAUSE_S = 0.02
RECENT = 500
_TIMEOUT_S = 30.0


@dataclass(slots=True)
class Counts:
    """What has come back: `recent` tells of the last answers whether the digit was right, `versions` who gave them."""

    answered: int = 0
    failed: int = 0
    last_failure: str = ""
    versions: dict[str, int] = field(default_factory=dict)
    recent: deque[bool] = field(default_factory=lambda: deque(maxlen=RECENT))

    @property
    def accuracy(self) -> float:
        """The share of right digits among the last answers; not a number before there is any."""
        right = list(self.recent)
        return sum(right) / len(right) if right else float("nan")


class Traffic:
    """One-row requests for as long as it is open, each with an id of its own. `forms` may be replaced at any time."""

    def __init__(self, address: str, model: str, forms: Forms) -> None:
        self.counts = Counts()
        self.forms = forms
        self._address, self._model = address, model
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="clerks", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def forget_recent(self) -> None:
        """Begin the accuracy anew."""
        self.counts.recent.clear()

    async def _run(self) -> None:
        options = [("grpc.enable_http_proxy", 0)]
        async with grpc.aio.insecure_channel(self._address, options=options) as channel:
            invoke = channel.unary_unary(f"/{SERVICE}/ModelInfer")
            await asyncio.gather(*(self._clerk(invoke, np.random.default_rng(seed)) for seed in range(CLERKS)))

    async def _clerk(self, invoke: grpc.aio.UnaryUnaryMultiCallable, rng: np.random.Generator) -> None:
        while not self._stop.is_set():
            forms = self.forms
            row = int(rng.integers(len(forms.digits)))
            request = infer_message(self._model, {"features": (Datatype.FP32, forms.scans[row : row + 1])})
            request.id = uuid.UUID(bytes=rng.bytes(16)).hex
            try:
                data = await invoke(request.SerializeToString(), timeout=_TIMEOUT_S)
            except grpc.aio.AioRpcError as error:
                self.counts.failed += 1
                self.counts.last_failure = f"{error.code().name}: {error.details()}"
            else:
                self._count(pb.ModelInferResponse.FromString(data), int(forms.digits[row]))
            await asyncio.sleep(PAUSE_S)

    def _count(self, answer: pb.ModelInferResponse, digit: int) -> None:
        counts, label = self.counts, read_outputs(answer)["label"]
        counts.answered += 1
        counts.versions[answer.model_version] = counts.versions.get(answer.model_version, 0) + 1
        counts.recent.append(int(label[0]) == digit)
