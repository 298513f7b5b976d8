"""Builds every part of the server, starts it, drains it, stops it. The only place that knows them all.

One I/O thread runs the event loop: sockets, queues, settling, statistics. Instance threads run models. A small pool of
loader threads reads the model repository and answers the control plane.
"""

import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.metadata import PackageNotFoundError, distribution

import uvloop

from serving.admission import Admission
from serving.clock import LoopTimers, MonotonicClock
from serving.config import ServerConfig
from serving.controlplane import ControlPlane
from serving.dataplane import DataPlane
from serving.errors import ConfigError
from serving.execution.instances import INSTANCE_THREADS
from serving.model import Servable
from serving.repository.manager import ModelRepository
from serving.statistics.counters import RequestCounters
from serving.statistics.exporter import CONTENT_TYPE, Exporter, ServableView, Snapshot
from serving.transport.calls import SERVICE, Methods
from serving.transport.grpcio import GrpcioTransport
from serving.transport.health import HEALTH_SERVICE, HealthService
from serving.transport.http import HttpServer
from serving.transport.large import LargeMessages
from serving.transport.reflection import ReflectionService
from serving.transport.services import InferenceService

_WORKERS = 4
_CODEC_THREADS = 2
_SWITCH_INTERVAL_S = 0.0005
_OTHER_CALLS_MAX = 1024  # health, metadata, control plane: answered also while inference is at its bound
_LAST_WORDS_S = 1.0  # for answers on their way out; health watches, which never end by themselves, are cut off then
_log = logging.getLogger(__name__)


class Server:
    """A running Penstock. Create, start and stop it on a running event loop; that loop's thread is the I/O thread."""

    def __init__(self, config: ServerConfig) -> None:
        loop = asyncio.get_running_loop()
        clock = MonotonicClock()
        self._config = config
        self._post = loop.call_soon_threadsafe
        self._workers = ThreadPoolExecutor(_WORKERS, thread_name_prefix="worker")
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="repository")  # the first load, polling, the end
        self._codecs = ThreadPoolExecutor(_CODEC_THREADS, thread_name_prefix="codec")
        self._renderer = ThreadPoolExecutor(1, thread_name_prefix="metrics")  # of its own: loads can take minutes
        self._admission = Admission(config.requests_in_flight_max)
        counters = RequestCounters()
        self._repository = ModelRepository(
            config.models,
            partial(Servable.load, clock=clock, post=self._post),
            clock,
            drain_timeout_s=config.drain_timeout_s,
            changed=lambda: self._post(self._health.refresh),
        )
        self._health = HealthService(lambda: not self.why_not_ready())
        data_plane = DataPlane(self._repository, self._admission, counters, clock=clock, timers=LoopTimers(loop, clock))
        inference = InferenceService(
            self._repository,
            data_plane,
            ControlPlane(self._repository, config.control_plane),
            large=LargeMessages(self._codecs, self._post),
            worker=self._workers,
            post=self._post,
            why_not_ready=self.why_not_ready,
        )
        reflection = ReflectionService([SERVICE, HEALTH_SERVICE])
        methods = Methods(
            {**inference.unary(), **self._health.unary()},
            {**inference.streaming(), **self._health.streaming(), **reflection.streaming()},
        )
        self._grpc = GrpcioTransport(
            methods,
            clock,
            message_bytes_max=config.max_message_mib << 20,
            calls_max=config.requests_in_flight_max + _OTHER_CALLS_MAX,
            connections_max=config.connections_max,
        )
        self._counters = counters
        self._exporter = Exporter()
        self._http = HttpServer(self._render_metrics, CONTENT_TYPE, self.why_not_ready)
        self._polling: asyncio.Task[None] | None = None
        self.grpc_port = 0
        self.http_port = 0

    async def start(self) -> None:
        """Open both ports, then load the models. Raises ConfigError when a port or the repository cannot be had."""
        config = self._config
        self.grpc_port = await self._grpc.start(config.host, config.grpc_port)
        self.http_port = await self._http.start(config.host, config.http_port)
        _log.info("listening: grpc %s:%d http %s:%d", config.host, self.grpc_port, config.host, self.http_port)
        await self._on_loader(self._repository.load_all)
        for name in self._repository.unready_models():
            _log.warning("model '%s' has no ready version", name)
        _log.info("serving %d model versions", len(list(self._repository.servables())))
        if config.poll_interval_s:
            self._polling = asyncio.create_task(self._poll(config.poll_interval_s))

    async def stop(self) -> None:
        """Refuse new work, answer what is in flight, close the ports and unload the models."""
        if self._repository.started:
            _log.info("draining %d requests", self._admission.in_flight)
        answered = asyncio.Event()
        self._admission.drain(answered.set)
        self.stop_loading()
        self._repository.hurry()
        self._health.refresh()
        if self._polling is not None:
            self._polling.cancel()
        await self._wait_for_answers(answered)
        await self._grpc.stop(_LAST_WORDS_S)
        await self._on_loader(self._repository.close)
        await self._http.stop()
        for pool in (self._workers, self._codecs, self._renderer, self._loader):
            await asyncio.to_thread(pool.shutdown, cancel_futures=True)
        if self._repository.started:
            _log.info("stopped")

    def stop_loading(self) -> None:
        """Begin no further load; `start` returns once the loads under way have ended."""
        self._repository.stop_loading()

    def why_not_ready(self) -> str:
        """Say why the server should get no traffic; nothing when it should."""
        return "the server is draining" if self._admission.draining else self._repository.why_not_ready()

    async def _wait_for_answers(self, answered: asyncio.Event) -> None:
        try:
            await asyncio.wait_for(answered.wait(), self._config.drain_timeout_s)
        except TimeoutError:
            _log.warning("%d requests still run after drain_timeout_s", self._admission.in_flight)

    async def _on_loader(self, work: Callable[[], None]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._loader, work)

    async def _poll(self, interval_s: float) -> None:
        while True:
            await asyncio.sleep(interval_s)
            try:
                await self._on_loader(self._repository.refresh)
            except Exception:  # noqa: BLE001 - logged, and answered
                _log.exception("looking for changes in the model repository failed; trying again")

    async def _render_metrics(self) -> bytes:
        snapshot = Snapshot(
            [_view(servable) for servable in self._repository.servables()],
            self._counters.outcomes.copy(),
            self._admission.in_flight,
        )
        return await asyncio.get_running_loop().run_in_executor(self._renderer, self._exporter.render, snapshot)


def _view(servable: Servable) -> ServableView:
    return ServableView.copy_of(
        servable.name,
        str(servable.version),
        servable.statistics,
        batch_rows_max=servable.batch_rows_max,
        queued_rows=servable.batcher.queued_rows,
        queued_bytes=servable.batcher.queued_bytes,
    )


def serve(config: ServerConfig) -> None:
    """Run a server until SIGTERM or SIGINT. Raises ConfigError when it cannot start."""
    check_onnxruntime()
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    uvloop.run(_serve(config))
    if any(thread.name.startswith(INSTANCE_THREADS) for thread in threading.enumerate()):
        _log.warning("a model still runs; leaving without it")
        logging.shutdown()
        os._exit(0)  # the interpreter's own way out would tear the C++ threads down under the run


async def _serve(config: ServerConfig) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    server = Server(config)
    starting = asyncio.ensure_future(server.start())
    waiting = asyncio.ensure_future(stopping.wait())
    await asyncio.wait({starting, waiting}, return_when=asyncio.FIRST_COMPLETED)
    try:
        if not starting.done():
            server.stop_loading()
        await starting
        await waiting
    finally:
        waiting.cancel()
        await server.stop()


def check_onnxruntime() -> None:
    """Refuse to run with two builds of onnxruntime installed: they overwrite each other's files."""
    builds = [name for name in ("onnxruntime", "onnxruntime-gpu") if _is_installed(name)]
    if len(builds) > 1:
        raise ConfigError(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other; "
            "uninstall both, then install the one you want"
        )


def _is_installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True
