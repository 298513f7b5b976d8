"""A peer's process: started on free ports of the loopback interface, awaited, and ended with all its children.

It runs in a session of its own, so that Ctrl-C in the terminal reaches us alone and we end it in order. Everything it
writes lies in a temporary folder, its output in a log there, and goes with it.
"""

import contextlib
import os
import select
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from bench.peers.model import PeerModel
from bench.peers.peer import HOST, Installed, Launch, PeerFailed, Ports
from serving.errors import RemoteError
from serving.pb import open_inference_pb2 as pb
from serving.transport.client import Client

READY_S_MAX = 180.0
"""A first start of ours compiles its kernels, others import frameworks."""
STOP_S_MAX = 15.0
_POLL_S = 0.1
_ANSWER_S_MAX = 5.0
_LOG_LINES = 20
_LOG_BYTES = 8192
_FOREIGN_VARIABLES = ("PYTHON", "VIRTUAL_ENV", "PENSTOCK_", "MLSERVER_")
"""Beginnings of variables that are about our own process, or would set options of a peer behind our back."""


@contextlib.contextmanager
def started(installed: Installed, model: PeerModel, *, ready_s_max: float = READY_S_MAX) -> Iterator[Ports]:
    """Run a peer that serves a model, for as long as the `with` lasts. Raises PeerFailed when it does not get ready."""
    with tempfile.TemporaryDirectory(prefix="penstock-peer-", ignore_cleanup_errors=True) as name:
        folder, ports = Path(name), free_ports()
        launch = installed.prepare(model, folder, ports)
        with Process(launch, folder) as process:
            await_ready(process, ports.grpc, model.name, ready_s_max=ready_s_max)
            yield ports


def free_ports() -> Ports:
    """Return ports that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(3)]
        for taken in sockets:
            taken.bind((HOST, 0))
        return Ports(*(taken.getsockname()[1] for taken in sockets))


def await_ready(process: "Process", port: int, model: str, *, ready_s_max: float) -> None:
    """Wait until the server and its model say that they are ready. Raises PeerFailed when they do not in time."""
    deadline_s = time.monotonic() + ready_s_max
    while True:
        if process.has_ended(within_s=_POLL_S):
            raise PeerFailed(f"ended with {process.status()} before it was ready{process.last_words()}", process.log())
        why = _why_not_ready(port, model)
        if why is None:
            return
        if time.monotonic() > deadline_s:
            raise PeerFailed(f"not ready within {ready_s_max:g} s: {why}{process.last_words()}", process.log())


def _why_not_ready(port: int, model: str) -> str | None:
    # A client of its own each time: one that was refused would wait longer and longer before it tries again.
    with Client(f"{HOST}:{port}", timeout_s=_ANSWER_S_MAX) as client:
        try:
            if not client.call("ServerReady", pb.ServerReadyRequest(), pb.ServerReadyResponse).ready:
                return "ServerReady says no"
            if not client.call("ModelReady", pb.ModelReadyRequest(name=model), pb.ModelReadyResponse).ready:
                return f"ModelReady says no of '{model}'"
        except RemoteError as error:
            return f"port {port} gives {error.code}"
    return None


class Process:
    """A context manager: a command that runs in a session of its own, in `folder`, with its output in a log there.

    At the end it is asked to stop; what it and its children have not done `STOP_S_MAX` later is ended at once, and so
    when waiting is interrupted.
    """

    def __init__(self, launch: Launch, folder: Path) -> None:
        self._launch = launch
        self._folder = folder
        self._log = folder / "peer.log"

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            try:
                self._process = subprocess.Popen(
                    self._launch.arguments, cwd=self._folder, env=_variables(self._launch), stdin=subprocess.DEVNULL,
                    stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
                )  # fmt: skip
            except OSError as error:
                raise PeerFailed(f"{self._launch.arguments[0]} cannot be started: {error.strerror}") from None
        self._pidfd = os.pidfd_open(self._process.pid)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        children = self._children()
        try:
            if not self.has_ended():
                signal.pidfd_send_signal(self._pidfd, signal.SIGTERM)
                self.has_ended(within_s=STOP_S_MAX)
        finally:
            self._end_all([*children, *self._children()])

    def has_ended(self, within_s: float = 0) -> bool:
        """Wait a while for the process to end. It is not reaped yet: its number stays its own until all is ended."""
        return bool(select.select([self._pidfd], [], [], within_s)[0])

    def status(self) -> str:
        """Say how an ended process has ended."""
        end = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        assert end is not None, "bug: only an ended process has a status"
        return f"exit status {end.si_status}" if end.si_code == os.CLD_EXITED else signal.Signals(end.si_status).name

    def log(self) -> str:
        """Return the last lines of the output."""
        with self._log.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - _LOG_BYTES))
            return "\n".join(log.read().decode(errors="replace").splitlines()[-_LOG_LINES:])

    def last_words(self) -> str:
        """Return the last line of the output, to end a sentence with."""
        lines = [line.strip() for line in self.log().splitlines() if line.strip()]
        return f": {lines[-1]}" if lines else ", saying nothing"

    def _children(self) -> list[psutil.Process]:
        """Return the descendants, those that left the session too."""
        try:
            return psutil.Process(self._process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def _end_all(self, children: list[psutil.Process]) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        self._process.wait()
        os.close(self._pidfd)


def _variables(launch: Launch) -> dict[str, str]:
    """Return our variables without those that are about us, and the peer's; its own programs come first in PATH."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN_VARIABLES)}
    programs = str(Path(launch.arguments[0]).parent)
    kept["PATH"] = os.pathsep.join(filter(None, (programs, kept.get("PATH"))))
    return {**kept, "OMP_NUM_THREADS": "1", **launch.variables}
