"""Servers for `penstock registry check`: `penstock serve` as processes of their own, and load from `penstock bench`."""

import contextlib
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path

from serving.config import ENVIRONMENT_PREFIX
from serving.errors import ConfigError
from serving.package import Package, export
from serving.release.inference import Estimate
from serving.release.measured import CompareLatency, Ratios, Running
from serving.release.policy import CostConfig
from serving.transport.client import Client, infer_message
from serving.types import Array, Datatype

START_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 30.0
_LOG_LINES_MAX = 200
MODEL = "candidate"
CONNECTIONS, CONCURRENCY = 2, 4
WARM_UP_S = 0.1


class TrialServer:
    """A `penstock serve` of one package, with the defaults of all options whatever the environment says.

    One thread uses it; close it. Ask it when `wait_until_ready` has returned.
    """

    def __init__(self, folder: str, package: Package) -> None:
        arguments = ["serve", "--models", folder, "--grpc-port", "0", "--http-port", "0", "--log-format", "text"]
        defaults = {name: value for name, value in os.environ.items() if not name.startswith(ENVIRONMENT_PREFIX)}
        self._process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-m", "serving", *arguments], stderr=subprocess.PIPE, text=True, env=defaults
        )
        self._datatypes = {spec.name: spec.datatype for spec in package.signature.inputs}
        self._lines: deque[str] = deque(maxlen=_LOG_LINES_MAX)
        self._changed = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read, name="log of a trial", daemon=True)
        self._reader.start()
        self._client: Client | None = None
        self.address = ""

    def wait_until_ready(self) -> None:
        """Wait until the model serves. Raises ConfigError with the reason when it does not."""
        self.address = self._wait(r"listening: grpc (\S+)")
        self._wait(r"serving (\d+) model versions")
        if not self._find(r"ready after (\S+) ms"):
            raise ConfigError(self._find(r"not loaded: (.*)") or "the server did not load the package")
        self._client = Client(self.address)

    def infer(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """See `serving.release.measured.Running`."""
        assert self._client is not None, "bug: a server was asked before it was ready"
        _, outputs = self._client.infer(MODEL, self._typed(inputs))
        return outputs

    def memory_bytes(self) -> int:
        """See `serving.release.measured.Running`: resident memory, see proc(5)."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        match = re.search(r"^VmRSS:\s+(\d+) kB$", status, re.MULTILINE)
        if match is None:
            raise ConfigError("a server of the package has ended")
        return int(match[1]) * 1024

    def message(self, inputs: Mapping[str, Array]) -> bytes:
        """Return a request, encoded, for a load generator."""
        data: bytes = infer_message(MODEL, self._typed(inputs)).SerializeToString()
        return data

    def close(self) -> None:
        """End the process."""
        if self._client is not None:
            self._client.close()
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        assert self._process.stderr is not None, "bug: a server without a log"
        self._process.stderr.close()

    def _typed(self, inputs: Mapping[str, Array]) -> dict[str, tuple[Datatype, Array]]:
        return {name: (self._datatypes[name], array) for name, array in inputs.items()}

    def _read(self) -> None:
        assert self._process.stderr is not None, "bug: a server without a log"
        for line in self._process.stderr:
            with self._changed:
                self._lines.append(line.rstrip())
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _wait(self, pattern: str) -> str:
        """Return what a line of the log says, when it comes. Raises ConfigError when the server ends before."""
        with self._changed:
            self._changed.wait_for(lambda: self._find(pattern) or self._ended, START_TIMEOUT_S)
            found = self._find(pattern)
        if not found:
            raise ConfigError(f"a server of the package did not start: {'; '.join(list(self._lines)[-3:])}")
        return found

    def _find(self, pattern: str) -> str:
        return next((match[1] for line in list(self._lines) if (match := re.search(pattern, line))), "")


@contextlib.contextmanager
def serve(package: Package) -> Iterator[TrialServer]:
    """Serve a package in a process of its own, as `penstock serve` does by default."""
    with tempfile.TemporaryDirectory(prefix="penstock-check-") as folder:
        export(package, Path(folder) / MODEL / "1")
        server = TrialServer(folder, package)
        try:
            server.wait_until_ready()
            yield server
        finally:
            server.close()


def latency_comparison() -> CompareLatency | None:
    """Return how to compare latency; None where `penstock bench` is not installed, as in the image."""
    return _compare if importlib.util.find_spec("bench") else None


def _compare(new: Running, old: Running, row: Mapping[str, Array], cost: CostConfig) -> Ratios:
    from bench.compare import compare  # noqa: PLC0415 - optional
    from bench.generator.handle import Generator  # noqa: PLC0415
    from bench.slices import ClosedLoop, Slice, Target  # noqa: PLC0415

    assert isinstance(new, TrialServer), "bug: latency of a server that is none of ours"
    assert isinstance(old, TrialServer), "bug: latency of a server that is none of ours"
    targets = [Target("127.0.0.1", int(server.address.rpartition(":")[2])) for server in (old, new)]
    load = ClosedLoop(concurrency=CONCURRENCY, duration_s=cost.latency_slice_s)
    before, after = (Slice(load=load, target=target, warm_up_s=WARM_UP_S) for target in (0, 1))
    messages = [[old.message(row)], [new.message(row)]]
    with Generator(targets, messages, connections=CONNECTIONS) as generator:
        found = compare(lambda slice_: generator.run(slice_, _ignore), before, b=after, pairs=cost.latency_pairs)
    if found.failure:
        raise ConfigError(f"latency could not be compared: {found.failure}")
    ratios = {ratio.figure: Estimate(ratio.estimate, ratio.low, ratio.high) for ratio in found.ratios}
    return Ratios(ratios["latency mean"], ratios["latency p99"])


def _ignore(_: object) -> None:
    """Take an interval of a slice; the slice as a whole counts."""
