"""The native transport without a loop, sockets or threads: the test says what is read, and when turns and batches run.

Everything between the bytes of HTTP/2 and the model is real; time is a fake clock's.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field

import hpack
import numpy as np

from serving.admission import Admission
from serving.batching.arena import Staging
from serving.batching.batcher import Batcher
from serving.batching.loads import Loads
from serving.batching.pace import Pace
from serving.batching.policy import NEVER
from serving.config import ModelConfig, ServerConfig
from serving.dataplane import DataPlane
from serving.errors import UnknownModel
from serving.model import Servable, Workplace
from serving.pb import open_inference_pb2 as pb
from serving.repository.handle import Handle
from serving.statistics.counters import RequestCounters
from serving.statistics.drift.counting import NUMPY
from serving.statistics.drift.watch import DriftWatch
from serving.statistics.feedback import Feedback
from serving.statistics.latency import ServableStatistics
from serving.transport.calls import Methods
from serving.transport.large import LargeMessages
from serving.transport.native.connection import Connection
from serving.transport.native.transport import NativeTransport
from serving.transport.native.turn import LoopParts, Turn
from serving.transport.services import InferenceService
from serving.wire import frames
from tests.support import peers
from tests.support.clocks import FakeClock
from tests.support.sessions import FakeSession

OPENING = peers.PREFACE + peers.settings((4, 2**31 - 1)) + peers.frame(frames.SETTINGS, frames.ACK, 0)
WIDE_OPEN = peers.frame(frames.WINDOW_UPDATE, 0, 0, (2**30).to_bytes(4, "big"))


class FakeLoop:
    """What the transport needs of an event loop; `run` runs what was called soon, and what that calls."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self._soon: deque[Callable[[], None]] = deque()

    def call_soon(self, callback, *arguments) -> None:
        self._soon.append(lambda: callback(*arguments))

    def call_later(self, delay_s, callback):
        return self._clock.call_at_ns(self._clock.now_ns() + int(delay_s * 1e9), callback)

    def run(self) -> None:
        while self._soon:
            self._soon.popleft()()


class AtOnce(Executor):
    """Runs everything where it is submitted."""

    def submit(self, function, /, *arguments, **options):
        function(*arguments, **options)


class ThreadlessServable(Servable):
    """A servable whose batches run when the test says so."""

    def __init__(self, session: FakeSession, clock: FakeClock, config: ModelConfig, version: int = 1) -> None:
        self.name, self.version, self.config = "m", version, config
        self.signature, self.statistics = session.signature, ServableStatistics()
        self.batch_rows_max = config.batching.batch_rows_max
        self.batcher = Batcher(config.batching, clock, instances=1, batchable=True)
        self._session, self._clock, self._inline, self._pace = session, clock, None, Pace()
        self._loads, self._target_ns = Loads(), NEVER
        self._failure_logged_ns = 2**62  # nothing is logged
        self.pipeline = None
        self.drift = DriftWatch("m", version, self.signature, config.drift, clock=clock, kernels=NUMPY)
        self.feedback = Feedback("m", version, self.signature, config.drift, clock=clock)
        self._inline_workplace = Workplace(Staging(self.signature), self.drift.counter(), answers_first=False)

    def finish(self, batch) -> None:
        """Run and settle a batch that was taken."""
        if batch.entries:
            self._compute(batch, self._inline_workplace)
        self._settle(batch)

    def run_all(self) -> None:
        """Run everything that waits."""
        while (batch := self.batcher.take_now(self.batch_rows_max)) is not None:
            self.finish(batch)


class Wired:
    """A server of one model `m`, AFFINE unless the session says otherwise, and pools that work at once."""

    def __init__(
        self, config: ModelConfig, session: FakeSession | None = None, *,
        inflating: Executor | None = None, decoding: Executor | None = None, **options,
    ) -> None:  # fmt: skip
        options = {"connections_max": 4, "requests_in_flight_max": 64, **options}
        self.clock = FakeClock()
        self.loop = FakeLoop(self.clock)
        server = ServerConfig(**options)
        self.admission = Admission(server.requests_in_flight_max)
        self.counters = RequestCounters()
        self.servable = ThreadlessServable(session or FakeSession(), self.clock, config)
        self.handle = Handle(self.servable)
        plane = DataPlane(self, self.admission, self.counters, clock=self.clock, timers=self.clock)
        large = LargeMessages(decoding or AtOnce(), self.loop.call_soon)
        service = InferenceService(
            self, plane, None, large=large, worker=AtOnce(), post=self.loop.call_soon, why_not_ready=str
        )
        methods = Methods(service.unary(), service.streaming(), service.infer)
        parts = LoopParts(self.loop, self.clock, self.clock, self.loop.call_soon, Turn(self.loop))
        self.transport = NativeTransport(
            methods, plane, server, parts, None,
            worker=inflating or AtOnce(), calls_max=server.requests_in_flight_max + 16, run_cheap_batches=lambda: False,
        )  # fmt: skip
        self.core = self.transport._core
        self.intake = self.transport._intake
        self.transport.follow([self.handle])

    def route(self, name: str, version: str, key: int, request_id: str) -> Handle:
        """As `ModelRepository.route`, without a rollout."""
        if name != "m" or not self.handle.acquire():
            raise UnknownModel(f"no model is called {name}")
        return self.handle

    def connect(self) -> "FakePeer":
        """Open a connection and exchange settings."""
        peer = FakePeer(self)
        peer.send(OPENING + WIDE_OPEN)
        self.loop.run()
        return peer

    @property
    def arena(self):
        """The arena of the model."""
        return self.intake._doors[0].place.arena

    def check_that_nothing_is_held(self, connections: int = 0) -> None:
        """Nothing is in flight and nothing waits, and all that was lent for requests has come back."""
        batcher, core = self.servable.batcher, self.core
        assert self.admission.in_flight == 0
        assert (batcher.queued_rows, batcher.queued_bytes, batcher._reserved) == (0, 0, None)
        assert (len(batcher._queue), batcher._queue.lanes) == (0, {})
        assert (self.intake._answers.groups, self.intake._open, self.intake._dying) == ({}, [], {})
        assert all(door is None or not door.place.arena._leases for door in self.intake._doors)
        assert self.handle._users == 0
        assert (core.held_bytes, len(core.connections), self.transport.streams) == (0, connections, 0)
        assert not any(connection.calls or connection.parts for connection in core.connections.values())
        assert self.clock.pending == 0


class FakeTransport(asyncio.Transport):
    """A socket that takes everything, unless it `is_full`; `written` is what was not looked at yet."""

    def __init__(self, loop: FakeLoop, connection: Connection) -> None:
        super().__init__({"peername": ("127.0.0.1", 50_000)})
        self._loop = loop
        self._connection = connection
        self.written = b""
        self.is_over = False
        self.is_full = False  # what is written waits, and the connection is asked to pause
        self.is_slow = False  # what is written waits, but it is not so much
        self.is_reading = True

    def set_write_buffer_limits(self, high=None, low=None):
        pass

    def write(self, chunk):
        assert not self.is_over
        self.written += chunk
        if self.is_full:
            self._connection.pause_writing()

    def pause_reading(self):
        self.is_reading = False

    def resume_reading(self):
        self.is_reading = True

    def get_write_buffer_size(self):
        return len(self.written) if self.is_full or self.is_slow else 0

    def close(self):
        if not self.is_full:
            self.abort()

    def abort(self):
        if not self.is_over:
            self.is_over = True
            self._loop.call_soon(self._connection.connection_lost, None)


@dataclass
class Heard:
    """What came for one stream."""

    status: int | None = None
    message: str = ""
    fields: dict[bytes, bytes] = field(default_factory=dict)
    body: bytes = b""
    is_reset: bool = False

    @property
    def rows(self) -> np.ndarray:
        """The first output, raw or typed."""
        response = pb.ModelInferResponse.FromString(self.body[5:])
        (output,) = response.outputs
        elements = (
            np.frombuffer(response.raw_output_contents[0], np.float32)
            if response.raw_output_contents
            else np.array(output.contents.fp32_contents, np.float32)
        )
        return elements.reshape(output.shape)


class FakePeer:
    """A client: writes frames, and reads whatever has come for each stream. An answer that comes twice is an error."""

    def __init__(self, wired: Wired) -> None:
        self._wired = wired
        self._next_id = 1
        self._decoder = hpack.Decoder()
        self.heard: dict[int, Heard] = {}
        self.goaways: list[int] = []
        self.connection = Connection(wired.core)
        self.socket = FakeTransport(wired.loop, self.connection)
        self.connection.connection_made(self.socket)

    def request(self, message: bytes, *, timeout: bytes = b"", fields=peers.INFER) -> tuple[int, bytes]:
        """Return the stream id and the frames of a unary call."""
        stream_id = self._next_id
        self._next_id += 2
        fields = [*fields, (b"grpc-timeout", timeout)] if timeout else fields
        return stream_id, peers.headers(stream_id, fields) + self.data(stream_id, message)

    @staticmethod
    def data(stream_id: int, message: bytes) -> bytes:
        """Return a message as DATA that ends a stream."""
        body = peers.message(message)
        pieces = [body[at : at + 16_384] for at in range(0, len(body), 16_384)]
        return b"".join(
            peers.data(stream_id, piece, frames.END_STREAM if k == len(pieces) else 0)
            for k, piece in enumerate(pieces, 1)
        )

    def ask(self, *messages: bytes, **facts) -> list[int]:
        """Send unary calls in one read; return their stream ids."""
        calls = [self.request(message, **facts) for message in messages]
        self.send(b"".join(chunk for _, chunk in calls))
        return [stream_id for stream_id, _ in calls]

    def send(self, chunk: bytes) -> None:
        """Have bytes read; no turn runs."""
        while chunk and not self.socket.is_over:
            view = self.connection.get_buffer(-1)
            count = min(len(chunk), len(view))
            view[:count] = chunk[:count]
            self.connection.buffer_updated(count)
            chunk = chunk[count:]

    def cancel(self, stream_id: int) -> None:
        """Reset a stream."""
        self.send(peers.frame(frames.RST_STREAM, 0, stream_id, (8).to_bytes(4, "big")))

    def close(self) -> None:
        """Go away."""
        self.socket.abort()
        self._wired.loop.run()

    @property
    def is_over(self) -> bool:
        """Whether the server has closed the connection."""
        return self.socket.is_over

    def read(self) -> dict[int, Heard]:
        """Take in what was written; return what has come for each stream."""
        written, self.socket.written = self.socket.written, b""
        for kind, flags, stream_id, payload in peers.split_frames(written):
            heard = self.heard.setdefault(stream_id, Heard())
            if kind == frames.HEADERS:
                assert heard.status is None, "an answer came twice"
                heard.fields |= dict(self._decoder.decode(payload, raw=True))
                if flags & frames.END_STREAM:
                    heard.status = int(heard.fields[b"grpc-status"])
                    heard.message = heard.fields.get(b"grpc-message", b"").decode()
            elif kind == frames.DATA:
                assert heard.status is None, "DATA came behind the end"
                heard.body += payload
            elif kind == frames.RST_STREAM:
                heard.is_reset = True
            elif kind == frames.GOAWAY:
                self.goaways.append(int.from_bytes(payload[:4], "big"))
        return self.heard


def message(
    rows: int = 1, value: float = 1.0, *, id: str = "", typed: bool = False, width: int = 4, name: str = "m",  # noqa: A002
) -> bytes:  # fmt: skip
    """A request for a model: raw, which the kernels take, or typed, which they leave to the ordinary path."""
    x = np.full((rows, width), value, np.float32)
    request = pb.ModelInferRequest(model_name=name, id=id)
    tensor = request.inputs.add(name="x", datatype="FP32", shape=x.shape)
    if typed:
        tensor.contents.fp32_contents.extend(x.reshape(-1).tolist())
    else:
        request.raw_input_contents.append(x.tobytes())
    return request.SerializeToString()
