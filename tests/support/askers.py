"""Clients that ask a server again and again, in threads, and remember what they were answered."""

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator

import grpc
import numpy as np

from serving.pb import open_inference_pb2 as pb
from serving.transport.services import SERVICE

FAILED = "failed"
_OPTIONS = [("grpc.enable_http_proxy", 0), ("grpc.max_receive_message_length", -1)]


class Asker:
    """Asks `affine` again and again, for so many `rows` each time, with an id of its own, until told to stop.

    `versions` counts answers by the version that gave them; a failed one counts as FAILED.
    """

    def __init__(
        self, address: str, name: str, *, value: float = 1.0, header: str | None = None, ids: bool = True, rows: int = 1
    ) -> None:  # fmt: skip
        self.versions: Counter[str] = Counter()
        self.by_id: dict[str, str] = {}
        self._name, self._value, self._ids, self._rows = name, value, ids, rows
        self._metadata = [("penstock-route", header)] if header is not None else []
        self._channel = grpc.insecure_channel(address, options=_OPTIONS)
        self._infer = self._channel.unary_unary(f"/{SERVICE}/ModelInfer")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(60)
        self._channel.close()

    def ask(self, request_id: str = "", *, version: str = "") -> str:
        """Ask once; return the version that answered."""
        row = np.full((self._rows, 4), self._value, np.float32)
        request = pb.ModelInferRequest(model_name="affine", model_version=version, id=request_id)
        request.inputs.add(name="x", datatype="FP32", shape=row.shape)
        request.raw_input_contents.append(row.tobytes())
        try:
            data = self._infer(request.SerializeToString(), timeout=60, metadata=self._metadata)
        except grpc.RpcError as error:
            return FAILED if error.code() is grpc.StatusCode.INTERNAL else f"{error.code()}: {error.details()}"
        answer = pb.ModelInferResponse.FromString(data)
        assert answer.id == request_id
        (first, *_) = np.frombuffer(answer.raw_output_contents[0], np.float32)
        scale = (first - 1) / self._value
        assert answer.model_version == str(round(scale)), "an answer of one package under the number of another"
        return answer.model_version

    def _run(self) -> None:
        number = 0
        while not self._stop.is_set():
            number += 1
            request_id = f"{self._name}-{number}" if self._ids else ""
            version = self.ask(request_id)
            self.versions[version] += 1
            if self._ids:
                self.by_id[request_id] = version


@contextlib.contextmanager
def asking(address: str, count: int = 3, **options) -> Iterator[list[Asker]]:
    """Keep a server busy with so many clients."""
    askers = [Asker(address, f"client{number}", **options) for number in range(count)]
    try:
        for asker in askers:
            asker.start()
        yield askers
    finally:
        for asker in askers:
            asker.stop()


def answered(askers: list[Asker]) -> Counter[str]:
    return sum((asker.versions for asker in askers), Counter())
