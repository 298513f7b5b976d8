"""Builds every part of the server, starts it, drains it, stops it. The only place that knows them all.

One I/O thread runs the event loop: sockets, queues, settling, statistics. Instance threads run models. A small pool of
loader threads reads the model repository and answers the control plane.
"""

import asyncio
import dataclasses
import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvloop

from serving import aliased
from serving.admission import Admission
from serving.batching.calibrations import Calibrations, usual_folder
from serving.batching.inline import InlineRuns
from serving.clock import Clock, LoopTimers, MonotonicClock
from serving.config import ServerConfig, without_effect
from serving.controlplane import ControlPlane
from serving.dataplane import DataPlane
from serving.errors import ConfigError
from serving.execution.instances import INSTANCE_THREADS
from serving.model import Servable, Shared
from serving.package.signing import trusted_keys
from serving.repository.loading import Loader
from serving.repository.manager import ModelRepository
from serving.repository.trials import ArmLoads, ArmReading, Reading, Trials
from serving.statistics import KERNEL_MODULES
from serving.statistics.counters import RequestCounters
from serving.statistics.drift.rounds import DriftRounds
from serving.statistics.exporter import CONTENT_TYPE, Exporter, Snapshot
from serving.statistics.rollout import ArmView, RolloutView
from serving.statistics.servable_view import QueueView, ServableView
from serving.statistics.tracing import Tracer
from serving.transport.calls import SERVICE, Methods, Transport
from serving.transport.grpcio import GrpcioTransport
from serving.transport.health import HEALTH_SERVICE, HealthService
from serving.transport.http import HttpServer
from serving.transport.large import LargeMessages
from serving.transport.monitor import MONITOR_SERVICE, MonitorService
from serving.transport.native.turn import LoopParts, Turn
from serving.transport.reflection import ReflectionService
from serving.transport.services import InferenceService
from serving.transport.tls import Certificates, TlsFiles
from serving.transport.webhook import Webhook

if TYPE_CHECKING:
    from serving.aliased.rollout import FollowedAliases
    from serving.statistics.spans import Spans
    from serving.transport.native.transport import NativeTransport

_WORKERS = 4
_CODEC_THREADS = 2
_SWITCH_INTERVAL_S = 0.0005
_OTHER_CALLS_MAX = 1024  # health, metadata, control plane: answered also while inference is at its bound
_REGISTRY_THREADS = "registry"
_LOOK_S = 1.0  # so often is looked after a look at the registry that does not end
_LAST_LOOK_S = 5.0  # for a look that is under way when the server stops
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
        turn = Turn(loop)
        self._spans = _spans(config)
        tracer = Tracer(clock, config.trace_ratio, self._spans.export) if self._spans is not None else None
        shared = _shared(config, turn, clock, tracer)
        self._repository = self._model_repository(clock, shared)
        self._webhook = Webhook.of(config)
        self._drift = DriftRounds(
            lambda: [watch for s in self._repository.servables() for watch in (s.drift, s.feedback.watch)],
            self._webhook.send,
        )
        self._aliases = aliased.follower(config, self._repository, clock)
        self._registry = ThreadPoolExecutor(1, thread_name_prefix=_REGISTRY_THREADS)  # of its own: it may be slow
        self._looking: asyncio.Future[None] | None = None
        self._health = HealthService(lambda: not self.why_not_ready())
        timers = LoopTimers(loop, clock)
        data_plane = DataPlane(self._repository, self._admission, counters, clock=clock, timers=timers, tracer=tracer)
        control_plane = ControlPlane(self._repository, config.control_plane, config.control_plane_clients)
        inference = InferenceService(
            self._repository,
            data_plane,
            control_plane,
            large=LargeMessages(self._codecs, self._post),
            worker=self._workers,
            post=self._post,
            why_not_ready=self.why_not_ready,
        )
        monitor = MonitorService(self._repository, control_plane, counters, self._drift.run_aside, self._post)
        reflection = ReflectionService([SERVICE, MONITOR_SERVICE, HEALTH_SERVICE])
        methods = Methods(
            {**inference.unary(), **monitor.unary(), **self._health.unary()},
            {**inference.streaming(), **self._health.streaming(), **reflection.streaming()},
            inference.infer,
        )
        files = TlsFiles.of(config)
        self._certificates = Certificates(files) if files is not None else None
        parts = LoopParts(loop, clock, timers, self._post, turn)
        self._grpc = self._transport(methods, data_plane, parts, shared.inline)
        self._counters = counters
        self._exporter = Exporter(has_triton=config.triton_metrics == "on")
        self._http = HttpServer(self._render_metrics, CONTENT_TYPE, self.why_not_ready)
        self._following: list[asyncio.Task[None]] = []  # what looks for changes, again and again
        self.grpc_port = 0
        self.http_port = 0

    def _model_repository(self, clock: Clock, shared: Shared) -> ModelRepository:
        """Make what loads models, as the configuration says. Raises ConfigError."""
        config = self._config
        load = partial(Servable.load, clock=clock, post=self._post, shared=shared)
        aside = partial(Servable.load, clock=clock, post=self._post, shared=replace(shared, inline=None))
        keys, elsewhere = _keys(config), aliased.models_of(config)

        def changed() -> None:
            self._post(self._note_change)

        arms = ArmLoads(Loader(load, keys), Loader(aside, keys))
        return ModelRepository(
            config.models,
            Loader(load, keys, _state(config)),
            clock,
            drain_timeout_s=config.drain_timeout_s,
            changed=changed,
            elsewhere=elsewhere,
            trials=Trials(arms, clock, self._post, changed, aside=self._renderer.submit) if elsewhere else None,
        )

    def _transport(
        self, methods: Methods, data_plane: DataPlane, parts: LoopParts, inline: InlineRuns | None
    ) -> Transport:
        """Make the transport that the configuration chooses."""
        config = self._config
        calls_max = config.requests_in_flight_max + _OTHER_CALLS_MAX
        if inline is None:
            return GrpcioTransport(methods, parts.clock, config, self._certificates, calls_max=calls_max)
        return _native_transport()(
            methods, data_plane, config, parts, self._certificates,
            worker=self._codecs, calls_max=calls_max, run_cheap_batches=inline.run,
        )  # fmt: skip

    async def start(self) -> None:
        """Open both ports, then load the models.

        Raises ConfigError when a port or the repository cannot be had, or a TLS file cannot be used.
        """
        config = self._config
        for name in without_effect(config):
            _log.warning("%s has no effect with --transport %s", name, config.transport)
        if self._certificates is not None:
            await self._certificates.load()
            if config.tls_reload_interval_s:
                self._follow(self._certificates.follow(config.tls_reload_interval_s))
        self.grpc_port = await self._grpc.start(config.host, config.grpc_port)
        self.http_port = await self._http.start(config.host, config.http_port)
        _log.info("listening: grpc %s:%d http %s:%d", config.host, self.grpc_port, config.host, self.http_port)
        await self._on_loader(self._repository.load_all)
        if self._aliases is not None:
            while not (await self._look_at_aliases(self._aliases) or self._repository.is_stopping()):
                pass
            if config.registry_interval_s:
                self._follow(self._follow_aliases(self._aliases, config.registry_interval_s))
        for name in self._repository.unready_models():
            _log.warning("model '%s' has no ready version", name)
        _log.info("serving %d model versions", len(list(self._repository.servables())))
        self._follow(self._drift.run())
        self._follow(self._webhook.run())
        if config.poll_interval_s:
            self._follow(self._poll(config.poll_interval_s))

    async def stop(self) -> None:
        """Refuse new work, answer what is in flight, close the ports and unload the models."""
        if self._repository.started:
            _log.info("draining %d requests", self._admission.in_flight)
        answered = asyncio.Event()
        self._admission.drain(answered.set)
        self.stop_loading()
        self._repository.hurry()
        self._health.refresh()
        for task in self._following:
            task.cancel()
        self._grpc.begin_drain()
        await self._wait_for_answers(answered)
        await self._grpc.stop(_LAST_WORDS_S)
        await self._on_loader(self._repository.close)
        await self._http.stop()
        if self._spans is not None:
            await asyncio.to_thread(self._spans.close)
        await self._leave_registry()
        pools = (self._workers, self._codecs, self._renderer, self._loader, self._drift.worker)
        for pool in pools:
            await asyncio.to_thread(pool.shutdown, cancel_futures=True)
        if self._repository.started:
            _log.info("stopped")

    def stop_loading(self) -> None:
        """Begin no further load; `start` returns once the loads under way have ended."""
        self._repository.stop_loading()

    def why_not_ready(self) -> str:
        """Say why the server should get no traffic; nothing when it should."""
        return "the server is draining" if self._admission.draining else self._repository.why_not_ready()

    def _note_change(self) -> None:
        """Tell everybody who cares that what serves has changed."""
        try:
            self._grpc.follow(self._repository.handles(), list(self._repository.routings.values()))
        finally:
            self._health.refresh()

    async def _wait_for_answers(self, answered: asyncio.Event) -> None:
        try:
            await asyncio.wait_for(answered.wait(), self._config.drain_timeout_s)
        except TimeoutError:
            _log.warning("%d requests still run after drain_timeout_s", self._admission.in_flight)

    def _follow(self, changes: Coroutine[Any, Any, None]) -> None:
        self._following.append(asyncio.create_task(changes))

    async def _on_loader(self, work: Callable[[], None]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._loader, work)

    async def _poll(self, interval_s: float) -> None:
        while True:
            await asyncio.sleep(interval_s)
            try:
                await self._on_loader(self._repository.refresh)
            except Exception:  # noqa: BLE001 - logged, and answered
                _log.exception("looking for changes in the model repository failed; trying again")

    async def _follow_aliases(self, aliases: "FollowedAliases", interval_s: float) -> None:
        while True:
            await asyncio.sleep(interval_s)
            await self._look_at_aliases(aliases)

    async def _look_at_aliases(self, aliases: "FollowedAliases") -> bool:
        """Begin a look, or go on with the one under way; say whether it is over, or so late that nobody waits for it.

        Not over is a look that takes longer than _LOOK_S.
        """
        loop = asyncio.get_running_loop()
        try:
            if self._looking is None:
                self._looking = loop.run_in_executor(self._registry, aliases.look, self._repository.readings())
            looking = self._looking
            if not (await asyncio.wait({looking}, timeout=_LOOK_S))[0]:
                return await loop.run_in_executor(self._workers, aliases.go_on)
            self._looking = None
            looking.result()
        except Exception:  # noqa: BLE001 - a mistake of ours leaves the server with what it has
            _log.exception("looking at the registry failed; trying again")
        return True

    async def _leave_registry(self) -> None:
        """Wait for a look under way, but not for one that does not come back, such as from a disk that is away."""
        self._registry.shutdown(wait=False, cancel_futures=True)
        if self._looking is not None and not (await asyncio.wait({self._looking}, timeout=_LAST_LOOK_S))[0]:
            _log.warning("the registry has not answered; leaving without it")
            return
        await asyncio.to_thread(self._registry.shutdown)
        if self._aliases is not None:
            self._aliases.close()

    async def _render_metrics(self) -> bytes:
        drift = await self._drift.views()
        snapshot = Snapshot(
            [_view(servable) for servable in self._repository.servables()],
            self._counters.outcomes.copy(),
            self._admission.in_flight,
            self._grpc.refusals(),
            self._grpc.connections,
            self._grpc.streams,
            drift,
            None if self._spans is None else (self._spans.traced, self._spans.dropped),
            [_rollout_view(name, reading) for name, reading in self._repository.readings().items()],
        )
        return await asyncio.get_running_loop().run_in_executor(self._renderer, self._exporter.render, snapshot)


def _spans(config: ServerConfig) -> "Spans | None":
    """Make what sends traces, which brings the SDK with it. Raises ConfigError."""
    if not config.otlp_endpoint:
        return None
    from serving.statistics.spans import Spans, otlp_exporter  # noqa: PLC0415

    return Spans(otlp_exporter(config.otlp_endpoint))


def _shared(config: ServerConfig, turn: Turn, clock: Clock, tracer: Tracer | None) -> Shared:
    calibrations = Calibrations(Path(config.calibration_dir) if config.calibration_dir else usual_folder())
    shared = Shared(calibrations=calibrations, allow_user_code=config.user_code == "on", tracer=tracer)
    if config.transport != "native":
        return shared
    _native_transport()  # all kernels at once; they bring numba with them, so grpcio does without
    from serving.statistics.drift.kernels import KERNELS  # noqa: PLC0415
    from serving.statistics.stage_kernel import count_batch  # noqa: PLC0415

    inline = InlineRuns(clock, budget_us=config.inline_us_max, wake=turn.wake_for_later_phase)
    return replace(shared, inline=inline, kernels=KERNELS, count_batch=count_batch)


def _native_transport() -> "type[NativeTransport]":
    """Load the kernels, which says so when it takes long, then what calls them. Both bring numba with them."""
    from serving.wire import kernels  # noqa: PLC0415

    kernels.load(others=KERNEL_MODULES)
    from serving.transport.native.transport import NativeTransport  # noqa: PLC0415

    return NativeTransport


def _keys(config: ServerConfig) -> Path | None:
    """Return the folder of keys that packages must be signed with. Raises ConfigError when it cannot be used."""
    if not config.package_keys:
        return None
    folder = Path(config.package_keys)
    trusted_keys(folder)  # each load reads it again; a mistake should show at the start
    return folder


def _state(config: ServerConfig) -> Path | None:
    return Path(config.state_dir) if config.state_dir else None


def _view(servable: Servable) -> ServableView:
    batcher = servable.batcher
    view = ServableView.copy_of(
        servable.name,
        str(servable.version),
        servable.statistics,
        batch_rows_max=servable.batch_rows_max,
        queue=QueueView(batcher.queued_rows, batcher.queued_bytes, batcher.queued_requests),
        footprint=servable.footprint,
        batching=servable.batching(),
        gpu=servable.config.instances.gpu,
    )
    return dataclasses.replace(view, is_drift_paused=servable.drift.paused_s > 0.0)


def _rollout_view(model: str, reading: Reading) -> RolloutView:
    if reading.share:
        arms = (("canary", reading.canary), ("control", reading.control))
        return RolloutView(model, tuple(_arm_view(name, arm, reading.share) for name, arm in arms))
    shadow = ArmView("shadow", reading.canary.version, 0.0, reading.canary.requests, reading.canary.errors)
    return RolloutView(model, (shadow,), reading.differing, reading.dropped)


def _arm_view(name: str, arm: ArmReading, share: float) -> ArmView:
    return ArmView(name, arm.version, share, arm.requests, arm.errors, arm.latency)


def serve(config: ServerConfig) -> None:
    """Run a server until SIGTERM or SIGINT. Raises ConfigError when it cannot start."""
    check_onnxruntime()
    if config.transport == "native":
        _native_transport()  # before there is a loop with signal handlers, which would be deaf while it compiles
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    uvloop.run(_serve(config))
    left = [thread.name for thread in threading.enumerate()]
    is_running = any(name.startswith(INSTANCE_THREADS) for name in left)
    if is_running:
        _log.warning("a model still runs; leaving without it")
    if is_running or any(name.startswith(_REGISTRY_THREADS) for name in left):
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
        gc.collect()
        gc.freeze()  # what was made until now stays; looking through it again and again would hold up the I/O thread
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
