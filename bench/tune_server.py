"""A server to try settings on: `penstock serve` on a copy of the model, whose `model.toml` may change.

The user's files are read and never written: the copy is a temporary folder with links to the model's versions and a
`model.toml` of its own. A new setting is loaded into the running server, as an operator would load it.
"""

import collections
import os
import re
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bench.slices import Measure, Recording, Slice
from bench.tune import MeasureSetting, Setting, model_toml
from serving.config import ENVIRONMENT_PREFIX, ModelConfig, build, read_toml
from serving.errors import ConfigError, RemoteError
from serving.pb import open_inference_pb2 as pb
from serving.transport.client import Client

START_TIMEOUT_S = 300.0
"""Compiling the kernels for the first time is in it."""
STOP_TIMEOUT_S = 30.0
LOAD_TIMEOUT_S = 600.0
LOG_LINES_MAX = 20


class TuneServer:
    """`penstock serve` as a child process. Use it in a `with`; `address` is where it listens. Not thread-safe."""

    def __init__(self, models: Path, model: str, *arguments: str) -> None:
        self.model = model
        self.values: dict[str, Any] = _values(models / model)
        self.config = build(ModelConfig, self.values)
        self._source = models / model
        self._arguments = arguments
        self._port = 0
        self._log: collections.deque[str] = collections.deque(maxlen=LOG_LINES_MAX)
        self._started = threading.Event()
        self._applied: Setting | None = None

    @property
    def port(self) -> int:
        """The gRPC port on 127.0.0.1."""
        return self._port

    @property
    def address(self) -> str:
        """Host and gRPC port."""
        return f"127.0.0.1:{self._port}"

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="penstock-tune-")
        try:
            self._copy()
            self._start()
        except BaseException:
            self._folder.cleanup()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop()
        self._folder.cleanup()

    def apply(self, setting: Setting) -> None:
        """Load the model with a setting, and return when it serves. Raises RemoteError when it does not load."""
        if setting == self._applied:
            return
        self._toml.write_text(model_toml(self.values, setting))
        with Client(self.address, timeout_s=LOAD_TIMEOUT_S) as client:
            request = pb.RepositoryModelLoadRequest(model_name=self.model)
            client.call("RepositoryModelLoad", request, pb.RepositoryModelLoadResponse)
        self._applied = setting

    def measuring(self, measure: Measure) -> MeasureSetting:
        """Return what `bench.tune` needs: apply a setting, then run a slice; a setting that is refused fails it."""

        def run(setting: Setting, slice_: Slice) -> Recording:
            try:
                self.apply(setting)
            except RemoteError as error:
                return Recording(slice_, failure=f"{setting}: {error}")
            return measure(slice_)

        return run

    @property
    def _toml(self) -> Path:
        return Path(self._folder.name) / self.model / "model.toml"

    def _copy(self) -> None:
        folder = Path(self._folder.name) / self.model
        folder.mkdir()
        for entry in self._source.iterdir():
            if entry.name != "model.toml":
                (folder / entry.name).symlink_to(entry.resolve())
        if (source := self._source / "model.toml").exists():
            self._toml.write_bytes(source.read_bytes())

    def _start(self) -> None:
        command = [sys.executable, "-m", "serving", "serve", "--models", self._folder.name, "--grpc-port", "0",
                   "--http-port", "0", *self._arguments]  # fmt: skip
        # Variables that are meant for the user's own server, such as its certificate, do not concern this one.
        environment = {name: value for name, value in os.environ.items() if not name.startswith(ENVIRONMENT_PREFIX)}
        # In a session of its own, so that Ctrl-C in the terminal does not reach it.
        self._process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
        )
        self._reader = threading.Thread(target=self._read_log, name="server log", daemon=True)
        self._reader.start()
        if not self._started.wait(START_TIMEOUT_S) or not self._port:
            self._stop()
            lines = "; ".join(self._log) or "it wrote no log"
            raise ConfigError(f"`penstock serve` did not start on a copy of {self._source}: {lines}")

    def _read_log(self) -> None:
        """Read the log to its end, so that the server never waits for a reader."""
        assert self._process.stderr is not None, "bug: the log is not piped"
        with self._process.stderr as lines:
            for line in lines:
                self._log.append(line.strip())
                if match := re.search(r"listening: grpc \S+:(\d+)", line):
                    self._port = int(match[1])
                if "serving" in line and "versions" in line:
                    self._started.set()
        self._started.set()

    def _stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()


def _values(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder; name the model repository and a model in it")
    path = folder / "model.toml"
    return read_toml(path) if path.exists() else {}
