"""Hours of everything at once: `pytest -m soak tests/soak -s`, for SOAK_MINUTES (60).

Stock clients ask for predictions on the compiled and on the ordinary path and in streams, cancel some, and reconnect;
models are reloaded under them; hostile and careless peers connect, send what they should not, and go. At the end no
request has had two answers or none or a wrong one, memory, descriptors, threads, connections and streams are what they
were after the first fifth of the time, and the server's counters say exactly what the clients have seen, by model and
code: those who wait for their answers ask other models than those who leave.
"""

import collections
import os
import random
import re
import socket
import sys
import threading
import time
import urllib.request

import grpc
import numpy as np
import psutil
import pytest

from serving.pb import open_inference_pb2 as pb
from serving.pb.open_inference_pb2_grpc import GRPCInferenceServiceStub
from tests.support import graphs
from tests.support.peers import INFER, PREFACE, data, frame, headers, message, settings
from tests.support.servers import server_process

MINUTES = float(os.environ.get("SOAK_MINUTES", "60"))
TIMEOUT_S = 30
WIDE = 65_536
MODELS = {4: "affine", WIDE: "wide"}
"""By width. Requests that may be cancelled or lost go to the same under another name."""
GROWTH_MIB_MAX = 32
"""Above what allocators keep back and forth, and far below what one KiB lost per hundred requests would add up to."""

pytestmark = pytest.mark.soak


class Tally:
    """What the clients have seen, counted from many threads."""

    def __init__(self):
        self._lock = threading.Lock()
        self.counts = collections.Counter()
        self.problems = []

    def add(self, what, count=1):
        with self._lock:
            self.counts[what] += count

    def problem(self, text):
        with self._lock:
            self.problems.append(text)


class Client:
    """A stock client that goes on until it is told to stop, on a connection that it makes anew now and then."""

    def __init__(self, address, tally, stopping, seed):
        self.address, self.tally, self.stopping = address, tally, stopping
        self.random = random.Random(seed)

    def run(self):
        while not self.stopping.is_set():
            options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", 64 << 20)]
            with grpc.insecure_channel(self.address, options=options) as channel:
                stub = GRPCInferenceServiceStub(channel)
                for _ in range(self.random.randrange(20, 400)):
                    if self.stopping.is_set():
                        return
                    try:
                        self.ask(stub)
                    except Exception as error:  # noqa: BLE001 - the test fails with it at the end
                        self.tally.problem(f"{type(self).__name__}: {error!r}")

    def request(self, number, *, leaves=False):
        width = self.random.choice((4, 4, 4, WIDE))
        rows = np.full((self.random.randrange(1, 4), width), number, np.float32)
        request = pb.ModelInferRequest(model_name=("left_" if leaves else "") + MODELS[width], id=str(number))
        request.inputs.add(name="x", datatype="FP32", shape=rows.shape)
        if self.random.random() < 0.3 and width == 4:
            request.inputs[0].contents.fp32_contents.extend(rows.ravel())
        else:
            request.raw_input_contents.append(rows.tobytes())
        if self.random.random() < 0.2:
            request.parameters["timeout"].int64_param = 20_000_000
        return request, 2 * rows + 1

    def check(self, response, request, expected):
        if response.id != request.id:
            self.tally.problem(f"the answer to {request.id} has the id {response.id}")
        raw = response.raw_output_contents
        values = np.frombuffer(raw[0], np.float32) if raw else response.outputs[0].contents.fp32_contents
        if not np.array_equal(np.reshape(values, expected.shape), expected):
            self.tally.problem(f"a wrong answer to {request.id}")

    def failed(self, request, code):
        """Count an error. A full queue is no problem; all others are, also while a model is reloaded."""
        self.tally.add((request.model_name, code.name))
        if code is not grpc.StatusCode.RESOURCE_EXHAUSTED:
            self.tally.problem(f"an answer with {code}")


class Unary(Client):
    """Some requests at once; all are awaited."""

    def ask(self, stub):
        asked = [self.request(self.random.randrange(10**6)) for _ in range(self.random.randrange(1, 24))]
        futures = [stub.ModelInfer.future(request, timeout=TIMEOUT_S) for request, _ in asked]
        for future, (request, expected) in zip(futures, asked, strict=True):
            if (error := future.exception()) is None:
                self.tally.add((request.model_name, "OK"))
                self.check(future.result(), request, expected)
            else:
                self.failed(request, error.code())


class Cancelling(Client):
    """Requests that are cancelled before, while or after they are answered."""

    def ask(self, stub):
        asked = [self.request(1, leaves=True)[0] for _ in range(16)]
        futures = [stub.ModelInfer.future(request, timeout=TIMEOUT_S) for request in asked]
        self.stopping.wait(self.random.random() * 0.002)
        for future in futures:
            future.cancel()
        self.tally.add("cancelled", len(futures))


class Streaming(Client):
    """Streams, some of them left half way."""

    def ask(self, stub):
        leaves = self.random.random() < 0.3
        numbers = range(self.random.randrange(1, 100))
        asked = {str(number): self.request(number, leaves=leaves) for number in numbers}
        stream = stub.ModelStreamInfer(iter([request for request, _ in asked.values()]), timeout=TIMEOUT_S)
        for answer in stream:
            response = answer.infer_response
            request, expected = asked.pop(response.id)
            if answer.error_message:
                self.tally.add((request.model_name, "RESOURCE_EXHAUSTED"))
                if "queue" not in answer.error_message:
                    self.tally.problem(answer.error_message)
                continue
            self.tally.add((request.model_name, "OK"))
            self.check(response, request, expected)
            if leaves:
                stream.cancel()
                return
        if asked:
            self.tally.problem(f"a stream ended with {len(asked)} requests unanswered")


class Reloading(Client):
    """Loads and unloads models under the others."""

    def ask(self, stub):
        self.stopping.wait(self.random.random() * 4)
        name = self.random.choice(("affine", "wide", "left_affine", "spare"))
        if name == "spare":
            stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name=name), timeout=TIMEOUT_S)
        stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name=name), timeout=TIMEOUT_S)
        self.tally.add("loads")


def infer_frames(stream_id, body):
    return headers(stream_id, INFER) + data(stream_id, message(body), 1)


class Hostile(Client):
    """Peers that break rules, stall, or go in the middle of something."""

    def run(self):
        host, port = self.address.rsplit(":", 1)
        good = pb.ModelInferRequest(model_name="left_affine")
        good.inputs.add(name="x", datatype="FP32", shape=(1, 4))
        good.raw_input_contents.append(bytes(16))
        body = good.SerializeToString()
        attacks = [
            lambda: os.urandom(4096),
            lambda: b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
            lambda: PREFACE[: self.random.randrange(24)],
            lambda: PREFACE + settings() + frame(6, 0, 0, bytes(8)) * 3000,
            lambda: PREFACE + settings() * 3000,
            lambda: PREFACE + settings() + b"".join(headers(k) + frame(3, 0, k, bytes(4)) for k in range(1, 4000, 2)),
            lambda: PREFACE + settings() + headers(1, flags=0) + frame(9, 0, 1, b"") * 100,
            lambda: PREFACE + settings() + headers(1) + frame(0, 0, 1, b"") * 3000,
            lambda: PREFACE + settings() + infer_frames(1, body)[: self.random.randrange(20, 200)],
            lambda: PREFACE + settings() + b"".join(infer_frames(k, body) for k in range(1, 201, 2)),
            lambda: PREFACE + settings((4, 0)) + b"".join(infer_frames(k, body) for k in range(1, 201, 2)),
            lambda: PREFACE + settings() + infer_frames(1, self.mangled(body)),
            lambda: PREFACE + settings() + headers(1) + data(1, b"\0\x03\xff\xff\xff" + bytes(9000)),
            lambda: self.mangled(PREFACE + settings() + infer_frames(1, body) * 3),
        ]
        while not self.stopping.is_set():
            try:
                with socket.create_connection((host, int(port)), timeout=5) as peer:
                    peer.sendall(self.random.choice(attacks)())
                    if self.random.random() < 0.7:
                        peer.settimeout(0.2)
                        while peer.recv(65_536):
                            pass
            except OSError:
                pass
            self.tally.add("attacks")
            self.stopping.wait(0.02)

    def mangled(self, octets):
        changed = bytearray(octets)
        for _ in range(self.random.randrange(1, 5)):
            changed[self.random.randrange(len(changed))] = self.random.randrange(256)
        return bytes(changed)


def metrics(http):
    with urllib.request.urlopen(f"{http}/metrics") as answer:
        return answer.read().decode()


def value(text, name):
    return sum(float(number) for number in re.findall(rf"^{name}(?:{{[^}}]*}})? ([\d.e+]+)$", text, re.MULTILINE))


def answers(text):
    """Return the counters of answers of the models whose clients wait for them, by model and code."""
    found = re.findall(r'^penstock_requests_total{code="(\w+)",model="(\w+)",.*} ([\d.e+]+)$', text, re.MULTILINE)
    counted = collections.Counter()
    for code, model, number in found:
        if model in MODELS.values():
            counted[model, code] += int(float(number))
    return counted


def footprint(process, http):
    text = metrics(http)
    return {
        "memory_mib": process.memory_info().rss >> 20,
        "descriptors": process.num_fds(),
        "threads": process.num_threads(),
        "connections": value(text, "penstock_connections"),
        "streams": value(text, "penstock_streams"),
        "in_flight": value(text, "penstock_requests_in_flight"),
    }


def quiet(process, http, clients):
    """Let every client stop, wait until the server has noticed, and measure it."""
    stopping, threads = clients
    stopping.set()
    for thread in threads:
        thread.join(2 * TIMEOUT_S)
        assert not thread.is_alive(), f"{thread.name} hangs"
    deadline = time.monotonic() + 2 * TIMEOUT_S
    while (seen := footprint(process, http))["connections"] or seen["in_flight"] or seen["streams"]:
        assert time.monotonic() < deadline, f"something is left: {seen}"
        threading.Event().wait(0.2)
    return seen


def start(server, tally, seed):
    stopping = threading.Event()
    kinds = [Unary, Unary, Cancelling, Streaming, Reloading, Hostile, Hostile]
    clients = [kind(server.address, tally, stopping, seed * 100 + k) for k, kind in enumerate(kinds)]
    threads = [threading.Thread(target=client.run, name=type(client).__name__, daemon=True) for client in clients]
    for thread in threads:
        thread.start()
    return stopping, threads


def test_nothing_grows_and_everything_is_answered_once(repository):
    for width, name in MODELS.items():
        for model in (name, f"left_{name}"):
            graphs.write_model(repository, model, graphs.affine(width))
    graphs.write_model(repository, "spare", graphs.heavy())
    tally, random_seed = Tally(), 0
    arguments = ("--transport", "native", "--handshake-timeout-s", "5", "--message-timeout-s", "10")
    with server_process(repository, *arguments, "--stall-timeout-s", "10") as server:
        process = psutil.Process(server.process.pid)
        phases = 10
        seen = []
        for phase in range(phases):
            clients = start(server, tally, random_seed + phase)
            threading.Event().wait(MINUTES * 60 / phases)
            seen.append(quiet(process, server.http, clients))
            print(f"{phase + 1} of {phases}: {seen[-1]} {dict(tally.counts)}", file=sys.stderr, flush=True)
            assert not tally.problems, tally.problems[:5]
        text = metrics(server.http)
    seen_by_clients = {key: count for key, count in tally.counts.items() if key[0] in MODELS.values()}
    assert answers(text) == seen_by_clients
    # A single look may find a connection of our own to /metrics, or memory that allocators have not given back yet,
    # which goes up and down by tens of MiB; what leaks is there at every look, so the least of some looks shows it.
    early, late = seen[2:5], seen[-3:]
    assert least(late, "memory_mib") - least(early, "memory_mib") <= GROWTH_MIB_MAX, seen
    for what in ("descriptors", "threads"):
        assert least(late, what) <= least(early, what), seen


def least(seen, what):
    return min(each[what] for each in seen)
