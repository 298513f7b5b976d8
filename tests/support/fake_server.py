"""An inference server whose answers leave at moments that arithmetic foretells: plain sockets, h2, one thread.

It serves requests one after the other, in the order in which they came: answer i leaves at
max(arrival i, leave i-1) + service, and nothing begins to be served while it stalls. The thread sleeps until shortly
before a leave and then watches the clock.
"""

import contextlib
import heapq
import itertools
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings

from bench.slices import Target
from serving.pb import open_inference_pb2 as pb

SERVICE = "/inference.GRPCInferenceService/"
RESET, SILENCE, HTTP_503 = -1, -2, -3
"""What stands in place of a gRPC code: RST_STREAM, no answer at all, an answer of a proxy."""
WATCH_S = 0.0003
IDLE_S = 0.05


@dataclass(frozen=True)
class Stall:
    """In every period, counted from the first request, serving stops for `length_s` after `offset_s`."""

    length_s: float
    period_s: float
    offset_s: float = 0.0

    def resume_s(self, at_s: float) -> float:
        """When serving can begin that would begin at `at_s` after the first request."""
        inside = (at_s - self.offset_s) % self.period_s
        return at_s + self.length_s - inside if at_s >= self.offset_s and inside < self.length_s else at_s


@dataclass(frozen=True)
class Behaviour:
    """What a fake server does. `outcome` gives the code of the nth ModelInfer, from 0; `*_after` count ModelInfers."""

    service_s: float = 0.0
    stall: Stall | None = None
    outcome: Callable[[int], int] = lambda _: 0
    dies_after: int | None = None
    goaway_after: int | None = None
    streams_max: int = 1000
    window_bytes: int = 65_535
    answer_bytes: int = 0
    tls: ssl.SSLContext | None = None


def leaves(arrivals_s: list[float], behaviour: Behaviour) -> list[float]:
    """Foretell when answers leave, in s, from when requests arrive; both count from the first request."""
    found, last = [], 0.0
    for arrival in arrivals_s:
        begin = max(arrival, last)
        last = (behaviour.stall.resume_s(begin) if behaviour.stall else begin) + behaviour.service_s
        found.append(last)
    return found


@dataclass
class _Peer:
    """A connection."""

    socket: socket.socket
    h2: h2.connection.H2Connection
    paths: dict[int, str] = field(default_factory=dict)
    bodies: dict[int, bytearray] = field(default_factory=dict)
    unsent: dict[int, bytes] = field(default_factory=dict)
    """Answers that wait for a window, without what is sent of them."""


class FakeServer:
    """Runs in a thread of its own until `stop`. `infers` and `answered` count ModelInfers; `messages` keeps them."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.infers = self.answered = 0
        self.messages: list[bytes] = []
        self.resets = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._wake, self._woken = socket.socketpair()
        self._peers: dict[int, _Peer] = {}
        self._leaves: list[tuple[float, int, _Peer, int, str, int]] = []
        self._order = itertools.count()
        self._begin_s: float | None = None
        self._last_leave_s = 0.0
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="fake server", daemon=True)
        self._thread.start()

    def target(self, **options) -> Target:
        host = "localhost" if self.behaviour.tls else "127.0.0.1"
        return Target(host, self.port, tls=self.behaviour.tls is not None, **options)

    def stop(self) -> None:
        self._wake.close()
        self._thread.join()
        self._woken.close()
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            while self._turn():
                pass
        except BaseException as failure:  # noqa: BLE001 - raised where the test stops the server
            self._failure = failure
        finally:
            self._die()

    def _die(self) -> None:
        self._listener.close()
        for peer in self._peers.values():
            peer.socket.close()
        self._peers.clear()
        self._leaves.clear()

    def _turn(self) -> bool:
        wait_s = IDLE_S
        while self._leaves:
            wait_s = self._leaves[0][0] - time.monotonic()
            if wait_s > 0:
                break
            _, _, peer, stream_id, path, outcome = heapq.heappop(self._leaves)
            self._answer(peer, stream_id, path, outcome)
        listening = [] if self._listener.fileno() < 0 else [self._listener]
        sockets = [*listening, self._woken, *self._peers]
        ready, _, _ = select.select(sockets, [], [], max(0.0, min(wait_s - WATCH_S, IDLE_S)))
        for found in ready:
            if found is self._woken:
                return False
            if found is self._listener:
                self._accept()
            elif found in self._peers:
                self._read(self._peers[found])
        return True

    def _accept(self) -> None:
        connected, _ = self._listener.accept()
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.behaviour.tls is not None:
            try:
                connected = self.behaviour.tls.wrap_socket(connected, server_side=True)
            except (ssl.SSLError, OSError):
                connected.close()
                return
        codes = h2.settings.SettingCodes
        settings = {
            codes.MAX_CONCURRENT_STREAMS: self.behaviour.streams_max,
            codes.INITIAL_WINDOW_SIZE: self.behaviour.window_bytes,
        }
        connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        connection.local_settings = h2.settings.Settings(client=False, initial_values=settings)
        peer = _Peer(connected, connection)
        self._peers[connected.fileno()] = peer
        connection.initiate_connection()
        self._send(peer)

    def _read(self, peer: _Peer) -> None:
        try:
            chunk = peer.socket.recv(1 << 18)
            while isinstance(peer.socket, ssl.SSLSocket) and peer.socket.pending():
                chunk += peer.socket.recv(1 << 18)
        except OSError:
            chunk = b""
        now_s = time.monotonic()
        if not chunk:
            self._drop(peer)
            return
        try:
            events = peer.h2.receive_data(chunk)
        except h2.exceptions.ProtocolError:
            self._drop(peer)
            return
        for event in events:
            self._take(peer, event, now_s)
        self._send(peer)

    def _take(self, peer: _Peer, event: h2.events.Event, now_s: float) -> None:
        if isinstance(event, h2.events.RequestReceived):
            peer.paths[event.stream_id] = dict(event.headers)[":path"].removeprefix(SERVICE)
            peer.bodies[event.stream_id] = bytearray()
        elif isinstance(event, h2.events.DataReceived):
            peer.bodies[event.stream_id] += event.data
            peer.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            self._queue(peer, event.stream_id, now_s)
        elif isinstance(event, h2.events.StreamReset):
            self.resets += 1
            peer.unsent.pop(event.stream_id, None)
        elif isinstance(event, h2.events.WindowUpdated):
            for stream_id in list(peer.unsent):
                self._go_on(peer, stream_id)

    def _queue(self, peer: _Peer, stream_id: int, now_s: float) -> None:
        path = peer.paths.pop(stream_id)
        body = bytes(peer.bodies.pop(stream_id))
        leave_s, outcome = now_s, 0
        if path == "ModelInfer":
            outcome = self.behaviour.outcome(self.infers)
            self.infers += 1
            self.messages.append(body[5:])
            if self._begin_s is None:
                self._begin_s = now_s
            begin_s = max(now_s - self._begin_s, self._last_leave_s)
            (leave_s,) = leaves([begin_s], self.behaviour)
            self._last_leave_s = leave_s
            leave_s += self._begin_s
        heapq.heappush(self._leaves, (leave_s, next(self._order), peer, stream_id, path, outcome))

    def _answer(self, peer: _Peer, stream_id: int, path: str, outcome: int) -> None:
        with contextlib.suppress(h2.exceptions.StreamClosedError, h2.exceptions.ProtocolError):
            if outcome == RESET:
                peer.h2.reset_stream(stream_id, h2.errors.ErrorCodes.INTERNAL_ERROR)
            elif outcome == HTTP_503:
                peer.h2.send_headers(stream_id, [(":status", "503")], end_stream=True)
            elif outcome > 0:
                head = [(":status", "200"), ("content-type", "application/grpc")]
                trailers = [("grpc-status", str(outcome)), ("grpc-message", "as asked")]
                peer.h2.send_headers(stream_id, head + trailers, end_stream=True)
            elif outcome == 0:
                message = self._message(path)
                peer.h2.send_headers(stream_id, [(":status", "200"), ("content-type", "application/grpc")])
                peer.unsent[stream_id] = b"\0" + len(message).to_bytes(4, "big") + message
                self._go_on(peer, stream_id)
        self._send(peer)
        if path == "ModelInfer":
            self.answered += 1
            self._end_connections()

    def _end_connections(self) -> None:
        behaviour = self.behaviour
        if self.answered == behaviour.goaway_after:
            for peer in self._peers.values():
                peer.h2.close_connection(h2.errors.ErrorCodes.ENHANCE_YOUR_CALM, b"too many requests")
                self._send(peer)
        if self.answered == behaviour.dies_after:
            self._die()

    def _go_on(self, peer: _Peer, stream_id: int) -> None:
        """Send as much of an answer as the windows take, and its trailers after the last byte."""
        rest = peer.unsent[stream_id]
        while rest:
            count = min(peer.h2.local_flow_control_window(stream_id), peer.h2.max_outbound_frame_size, len(rest))
            if count <= 0:
                break
            peer.h2.send_data(stream_id, rest[:count])
            rest = rest[count:]
        peer.unsent[stream_id] = rest
        if not rest:
            del peer.unsent[stream_id]
            peer.h2.send_headers(stream_id, [("grpc-status", "0")], end_stream=True)

    def _message(self, path: str) -> bytes:
        if path == "ModelMetadata":
            tensor = pb.ModelMetadataResponse.TensorMetadata(name="x", datatype="FP32", shape=[-1, 4])
            return pb.ModelMetadataResponse(name="fake", versions=["1"], inputs=[tensor]).SerializeToString()
        if path == "ServerMetadata":
            return pb.ServerMetadataResponse(name="fake", version="1").SerializeToString()
        if path == "ModelStatistics":
            statistics = pb.ModelStatistics(name="fake", version="1", inference_count=self.answered)
            return pb.ModelStatisticsResponse(model_stats=[statistics]).SerializeToString()
        answer = pb.ModelInferResponse(model_name="fake", model_version="1")
        if self.behaviour.answer_bytes:
            answer.raw_output_contents.append(bytes(self.behaviour.answer_bytes))
        return answer.SerializeToString()

    def _send(self, peer: _Peer) -> None:
        data = peer.h2.data_to_send()
        if data and peer.socket.fileno() >= 0:
            try:
                peer.socket.sendall(data)
            except OSError:
                self._drop(peer)

    def _drop(self, peer: _Peer) -> None:
        self._peers = {fd: other for fd, other in self._peers.items() if other is not peer}
        self._leaves = [leave for leave in self._leaves if leave[2] is not peer]
        heapq.heapify(self._leaves)
        peer.socket.close()


@contextlib.contextmanager
def fake_server(**behaviour) -> Iterator[FakeServer]:
    """Run a fake server; `behaviour` are the fields of Behaviour."""
    server = FakeServer(Behaviour(**behaviour))
    try:
        yield server
    finally:
        server.stop()
