"""Running servers: in a thread of the test's own process, or as the process that a user starts."""

import asyncio
import contextlib
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import uvloop

from serving.config import ServerConfig
from serving.server import Server

START_TIMEOUT_S = 60
PROGRAM = (sys.executable, "-m", "serving")
TRANSPORTS = {"native": {"transport": "native"}, "grpcio": {"transport": "grpcio"}}
"""The options that choose a transport, by its name: what both must do is tested on both (fixture `transport`)."""


class ServerThread:
    """A server in this process, on a loop in a thread of its own; `call` runs a function on that loop."""

    def __init__(self, config: ServerConfig) -> None:
        self._config = config
        self._started = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=lambda: uvloop.run(self._main()), name="test server", daemon=True)
        self._thread.start()
        assert self._started.wait(START_TIMEOUT_S), "the server did not start in time"
        if self._failure is not None:
            raise self._failure

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        try:
            self.server = Server(self._config)
            await self.server.start()
        except BaseException as error:  # noqa: BLE001 - handed to the test
            self._failure = error
            return
        finally:
            self._started.set()
        await self._stopping.wait()
        await self.server.stop()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server.grpc_port}"

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.server.http_port}"

    def call(self, function):
        """Run a function on the I/O thread and return its result."""

        async def run():
            return function()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(START_TIMEOUT_S)

    def complete(self, coroutine):
        """Run a coroutine on the I/O thread and return its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(START_TIMEOUT_S)

    def wait_until(self, predicate) -> None:
        """Wait until a predicate is true on the I/O thread."""

        async def wait():
            while not predicate():  # noqa: ASYNC110 - what it waits for has no event of its own
                await asyncio.sleep(0)

        asyncio.run_coroutine_threadsafe(asyncio.wait_for(wait(), START_TIMEOUT_S), self._loop).result()

    @property
    def in_flight(self) -> int:
        """Requests admitted and not yet answered; ask it on the I/O thread."""
        return self.server._admission.in_flight

    def has_noted_a_cancel(self, *, in_flight: int) -> bool:
        """Whether a running request was cancelled: `in_flight` are left, or its stream is known to be dead."""
        core = getattr(self.server._grpc, "_core", None)
        return self.in_flight == in_flight or (core is not None and core.deaths > 0)

    @property
    def queued_rows(self) -> int:
        """Rows that wait for an instance, over all models; ask it on the I/O thread."""
        return sum(servable.batcher.queued_rows for servable in self.server._repository.servables())

    def stop(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(START_TIMEOUT_S)
        assert not self._thread.is_alive(), "the server did not stop in time"


@contextlib.contextmanager
def server_thread(models: Path, **options) -> Iterator[ServerThread]:
    """Run a server in this process, on free ports unless `options` name them."""
    own = {"grpc_port": 0, "http_port": 0, "calibration_dir": str(models / ".calibration")}
    server = ServerThread(ServerConfig(models=models, **(own | options)))
    try:
        yield server
    finally:
        server.stop()


class ServerProcess:
    """`penstock serve` as a process; its log is collected line by line."""

    def __init__(self, models: Path, *arguments: str, environment=None, program=PROGRAM) -> None:
        self.process = subprocess.Popen(
            [
                *program,
                "serve",
                "--models",
                str(models),
                "--grpc-port",
                "0",
                "--http-port",
                "0",
                "--calibration-dir",
                str(models / ".calibration"),
                *arguments,
            ],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environment or {})},
        )
        self.log: list[str] = []
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        match = self.wait_for_log(r"listening: grpc ([\d.:]+) http ([\d.:]+)")
        self.address, self.http = match[1], f"http://{match[2]}"
        self.wait_for_log(r"serving \d+ model versions")

    def _read(self) -> None:
        for line in self.process.stderr:
            with self._changed:
                self.log.append(line.rstrip())
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    def wait_for_log(self, pattern: str) -> re.Match:
        """Wait until a line of the log, past or future, matches."""

        def find():
            return next((match for line in self.log if (match := re.search(pattern, line))), None)

        with self._changed:
            self._changed.wait_for(lambda: find() or not self._reader.is_alive(), START_TIMEOUT_S)
            match = find()
        assert match, f"no line matches {pattern!r} in: {self.log}"
        return match

    def stop(self) -> int:
        """End the process as an orchestrator would; return its exit status."""
        self.process.terminate()
        status = self.process.wait(START_TIMEOUT_S)
        self._reader.join(START_TIMEOUT_S)
        self.process.stderr.close()
        return status


@contextlib.contextmanager
def server_process(models: Path, *arguments: str, environment=None, **options) -> Iterator[ServerProcess]:
    """Run `penstock serve` on free ports; `options` are flags by the names that configuration files use."""
    flags = [text for name, value in options.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    server = ServerProcess(models, *arguments, *flags, environment=environment)
    try:
        yield server
    finally:
        server.stop()
