"""What every comparison needs: a forest to serve, a server process to measure, h2load to load it with."""

import contextlib
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import psutil
from numpy.typing import NDArray

from serving.pb import open_inference_pb2 as pb
from serving.transport.client import Client, infer_message
from serving.types import Datatype

METHOD = "/inference.GRPCInferenceService/ModelInfer"
FEATURES = 30

Payload = tuple[str, str, NDArray[np.float32]]
"""Model, input name, rows."""


@dataclass(frozen=True, slots=True)
class Load:
    """Requests per second, and the server's CPU time per request in us, at one level of concurrency."""

    requests_per_s: float
    server_cpu_us: float
    mean_batch_rows: float


@dataclass(frozen=True, slots=True)
class Target:
    """A running server: its process, its gRPC port, and that of /metrics."""

    process: psutil.Process
    port: int
    http_port: int = 0


def write_forest(models: Path) -> Path:
    """Train a random forest of 100 trees on 30 features and write it as model `forest`; return its file."""
    from sklearn.datasets import load_breast_cancer  # noqa: PLC0415 - behind the extra
    from sklearn.ensemble import RandomForestClassifier  # noqa: PLC0415

    from converters.conversion import convert  # noqa: PLC0415

    rows, labels = load_breast_cancer(return_X_y=True)
    rows = rows.astype(np.float32)
    forest = RandomForestClassifier(100, random_state=0).fit(rows, labels)
    path = models / "forest" / "1" / "model.onnx"
    path.parent.mkdir(parents=True)
    path.write_bytes(convert(forest, rows).graph)
    return path


def write_increment(models: Path, name: str, width: int) -> None:
    """Write a model that adds 1 to rows of `width` float32 values: about the cheapest there is."""
    from onnx import TensorProto, checker, helper, numpy_helper  # noqa: PLC0415 - behind the extra

    shape: list[str | int | None] = ["rows", width]
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "one"], ["y"])],
        name,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.ones(1, np.float32), "one")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model)
    path = models / name / "1" / "model.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())


@contextlib.contextmanager
def penstock(models: Path, *arguments: str) -> Iterator[Target]:
    """Run `penstock serve` on a free port."""
    command = [sys.executable, "-m", "serving", "serve", "--models", str(models), "--grpc-port", "0"]
    command += ["--http-port", "0", *arguments]
    # In a session of its own: Ctrl-C is for who measures, who ends it.
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stderr is not None, "bug: the log is not piped"
        rest = threading.Thread(target=deque, args=(process.stderr, 0))  # a server would wait for room in a full pipe
        try:
            port, http_port = _ports(process.stderr)
            rest.start()
            yield Target(psutil.Process(process.pid), port, http_port)
        finally:
            process.terminate()
            if rest.ident is not None:
                rest.join()


def _ports(log: IO[str]) -> tuple[int, int]:
    """Return the ports that a server listens on, when its log says that it serves."""
    port = http_port = 0
    for line in log:
        if match := re.search(r"listening: grpc \S+:(\d+) http \S+:(\d+)", line):
            port, http_port = int(match[1]), int(match[2])
        if "serving" in line and "versions" in line:
            break
    return port, http_port


@contextlib.contextmanager
def running(command: list[str]) -> Iterator[None]:
    """Run a process, silently, until the block ends."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def burning() -> contextlib.AbstractContextManager[None]:
    """Have a process burn a core until the block ends."""
    return running([sys.executable, "-c", "while True: pass"])


@contextlib.contextmanager
def threaded(models: Path, threads: int) -> Iterator[Target]:
    """Run `bench.threaded_server` on a free port."""
    command = [sys.executable, "-m", "bench.threaded_server", str(models), str(threads)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None, "bug: standard input is not piped"
        assert process.stdout is not None, "bug: standard output is not piped"
        port = int(process.stdout.readline())
        try:
            yield Target(psutil.Process(process.pid), port)
        finally:
            process.stdin.close()


def forest_row() -> Payload:
    """Return a request of one row for the forest."""
    return "forest", "features", np.random.default_rng(0).random((1, FEATURES), np.float32)


def framed(payload: Payload) -> bytes:
    """Return a request as the one message of a gRPC call."""
    model, name, rows = payload
    message = infer_message(model, {name: (Datatype.FP32, rows)}).SerializeToString()
    return b"\0" + len(message).to_bytes(4, "big") + message


def h2load(target: Target, requests: int, connections: int, streams: int, payload: Payload) -> Load:
    """Send `requests` with `connections` x `streams` in flight. Exits when one of them fails."""
    with tempfile.NamedTemporaryFile() as body:
        body.write(framed(payload))
        body.flush()
        counts_before, cpu_before = _counts(target), target.process.cpu_times()
        command = h2load_command(target, requests, connections, streams, Path(body.name))
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        counts_after, cpu_after = _counts(target), target.process.cpu_times()
    answered, batches = (after - before for after, before in zip(counts_after, counts_before, strict=True))
    if answered != requests:
        sys.exit(f"{requests} requests were sent and {answered} answered with outputs:\n{output}")
    rate = re.search(r"finished in .*?, ([\d.]+) req/s", output)
    assert rate, f"bug: h2load's output is not understood: {output}"
    cpu_s = cpu_after.user + cpu_after.system - cpu_before.user - cpu_before.system
    return Load(float(rate[1]), cpu_s / requests * 1e6, answered / batches)


def h2load_command(target: Target, requests: int, connections: int, streams: int, body: Path) -> list[str]:
    """Return the command that sends a framed request `requests` times. Exits without h2load."""
    tool = shutil.which("h2load")
    if tool is None:
        sys.exit("this bench needs h2load: apt-get install nghttp2-client")
    command = [tool, "-n", str(requests), "-c", str(connections), "-m", str(streams), "-d", str(body)]
    headers = ["-H", "content-type: application/grpc", "-H", "te: trailers"]
    return [*command, *headers, f"http://127.0.0.1:{target.port}{METHOD}"]


def _counts(target: Target) -> tuple[int, int]:
    """Return rows answered and batches run so far."""
    with Client(f"127.0.0.1:{target.port}") as client:
        answer = client.call("ModelStatistics", pb.ModelStatisticsRequest(), pb.ModelStatisticsResponse)
    statistics = answer.model_stats[0]
    return statistics.inference_count, statistics.execution_count
