"""The generator's process: it takes slices from a pipe, runs them, and sends back what happened.

It lives as long as the pipe. What it sends: `Ready`, then for every slice some `Interval`s and one `Recording` without
intervals, or `Refused`. A `Stop` ends the slice that runs. Garbage is not collected while a slice runs: a collection
would delay what is due.
"""

import contextlib
import ctypes
import gc
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Protocol

from bench.generator.native import NativeClient, OnInterval
from bench.slices import Recording, Slice, Target
from serving.errors import ConfigError

_PR_SET_TIMERSLACK = 29


@dataclass(frozen=True, slots=True)
class Ready:
    """The process can take slices."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A slice or a target cannot be used as it is; the message of a ConfigError."""

    message: str


@dataclass(frozen=True, slots=True)
class Stop:
    """The slice that runs is to end now; what it has recorded is wanted."""


class Client(Protocol):
    """Runs slices on one target."""

    def run(self, slice_: Slice, on_interval: OnInterval) -> Recording:
        """Run a slice. Raises ConfigError."""

    def close(self) -> None:
        """Close all connections."""


def main(
    pipe: Connection, targets: Sequence[Target], messages: Sequence[Sequence[bytes]], connections: int, client: str
) -> None:
    """Serve slices until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to both; the parent decides
    _sleep_precisely()
    with contextlib.suppress(EOFError, ConnectionError):
        try:
            clients = [
                _client(client, target, own, connections, pipe) for target, own in zip(targets, messages, strict=True)
            ]
        except ConfigError as error:
            pipe.send(Refused(str(error)))
            return
        pipe.send(Ready())
        while True:
            asked = pipe.recv()
            if not isinstance(asked, Stop):  # one that came too late for its slice
                _run(pipe, clients, asked)
    os._exit(0)  # nothing is left to be done, and nobody to wait for it


def _client(kind: str, target: Target, messages: Sequence[bytes], connections: int, pipe: Connection) -> Client:
    if kind == "native":
        return NativeClient(target, messages, connections=connections, watched_fd=pipe.fileno())
    from bench.generator.stock import StockClient  # noqa: PLC0415 - grpcio takes its time to load

    return StockClient(target, messages, connections=connections, watched_fd=pipe.fileno())


def _run(pipe: Connection, clients: list[Client], slice_: Slice) -> None:
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        recording: Recording | Refused = clients[slice_.target].run(slice_, pipe.send)
    except ConfigError as error:
        recording = Refused(str(error))
    finally:
        gc.enable()
    pipe.send(recording)


def _sleep_precisely() -> None:
    """Ask Linux to wake this thread on time, and not within the 50 us that it allows itself."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)
