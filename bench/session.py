"""From a scenario to figures: the servers, the messages that they get, the generator, and what is asked around a slice.

It joins the parts of the bench for a command: which slices run, and what their figures mean, is the command's matter.
"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from bench import payload
from bench.generator import Generator
from bench.interrupt import Interrupt
from bench.outcome import Outcome
from bench.scenario import Scenario
from bench.server_view import ServerView, figures
from bench.slices import Interval, Recording, Slice, Target
from serving.errors import ConfigError
from serving.transport.client import Client, ClientTls

OnInterval = Callable[[Interval], None]
_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Server:
    """A server to measure, by the address HOST:PORT that a person gave; `model` replaces the scenario's."""

    address: str
    tls: ClientTls | None = None
    model: str = ""

    @property
    def target(self) -> Target:
        """Where the generator connects to. Raises ConfigError for what is no address."""
        host, separator, port = self.address.rpartition(":")
        if not separator or not host or not port.isdecimal() or not 0 < int(port) < 65_536:
            raise ConfigError(f"--address {self.address} is no HOST:PORT, such as 127.0.0.1:8001")
        tls = self.tls or ClientTls()
        return Target(
            host.strip("[]"), int(port), tls=self.tls is not None,
            tls_ca=tls.ca, tls_cert=tls.cert, tls_key=tls.key,
        )  # fmt: skip


class Session:
    """A context manager: clients and connections to some servers, and the generator's process.

    Raises ConfigError on entry for a model or a payload that cannot be, RemoteError for a server that does not answer.
    `on_interval` is called on the thread that measures. While it is open, Ctrl-C ends the slice under way and all that
    come after it. Used by one thread.
    """

    def __init__(
        self, servers: Sequence[Server], scenario: Scenario, on_interval: OnInterval, *, interrupt: Interrupt
    ) -> None:
        self._servers = servers
        self._scenario = scenario
        self._on_interval = on_interval
        self._interrupt = interrupt
        self._open = contextlib.ExitStack()
        self._views: list[ServerView] = []

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            messages = [self._prepare(server, stack) for server in self._servers]
            scenario = self._scenario
            targets = [server.target for server in self._servers]
            self._generator = stack.enter_context(
                Generator(targets, messages, connections=scenario.connections, client=scenario.client)
            )
            stack.enter_context(self._interrupt.ends(self._generator.interrupt))
            self._open = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._open.close()

    def record(self, slice_: Slice) -> Recording:
        """Run a slice and ask its server what it did meanwhile. What goes wrong on the way is in the recording."""
        view = self._views[slice_.target]
        before = view.snapshot()
        recording = self._generator.run(slice_, self._on_interval)
        after = view.snapshot()
        recording.server = figures(before, after, requests=recording.total.sent)
        return recording

    def measure(self, slice_: Slice) -> Outcome:
        """Run a slice and read what it has shown."""
        return Outcome.of(self.record(slice_), self._scenario.rows)

    def _prepare(self, server: Server, stack: contextlib.ExitStack) -> list[bytes]:
        """Look at a server's model; return the messages that it will get."""
        scenario, target = self._scenario, server.target
        model = server.model or scenario.model
        client = stack.enter_context(Client(server.address, timeout_s=_TIMEOUT_S, tls=server.tls))
        view = ServerView(client, model, version=scenario.version, host=target.host, port=target.port)
        self._views.append(view)
        return payload.read(
            scenario.payload_file, view.metadata(), rows=scenario.rows, seed=scenario.seed,
            version=scenario.version, shapes=scenario.shapes_by_input(),
        )  # fmt: skip
