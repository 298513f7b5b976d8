"""What the server says of itself: its model's metadata, and what it and its process did during a slice.

All of it is an extra: a server that does not answer ModelStatistics, or runs on another machine, is measured without.
"""

from collections import Counter
from dataclasses import dataclass, field

import psutil

from bench import server_process
from bench.slices import ServerFigures
from serving.config import nearest
from serving.errors import ConfigError, RemoteError
from serving.pb import open_inference_pb2 as pb
from serving.transport.client import Client

STAGES = ("queue", "compute_input", "compute_infer", "compute_output")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a server has counted since it loaded each version of the model, and the CPU time of its process so far.

    `statistics` is None when the server keeps none, `cpu_s` when its process is not on this machine.
    """

    statistics: dict[str, pb.ModelStatistics] | None
    cpu_s: float | None


@dataclass(slots=True)
class _Sums:
    """Differences of what was counted, summed over versions. `stages_ns`: count and time of each stage."""

    requests: int = 0
    rows: int = 0
    executions: int = 0
    stages: dict[str, tuple[int, int]] = field(default_factory=dict)
    batches: Counter[int] = field(default_factory=Counter)


class ServerView:
    """Looks at one model of one server from outside. Not thread-safe; the client stays its owner's.

    `host` and `port` are where the server listens, to find its process when that is on this machine.
    """

    def __init__(self, client: Client, model: str, *, version: str = "", host: str = "", port: int = 0) -> None:
        self._client = client
        self._model = model
        self._version = version
        self._processes: tuple[psutil.Process, ...] = server_process.find(host, port) if host and port else ()

    @property
    def is_local(self) -> bool:
        """Whether the server's process was found on this machine."""
        return bool(self._processes)

    def metadata(self) -> pb.ModelMetadataResponse:
        """Return the model's tensors. Raises ConfigError for an unknown model, RemoteError for all else."""
        try:
            return self._client.metadata(self._model, self._version)
        except RemoteError as error:
            if error.code != "NOT_FOUND":
                raise
            known = self._model_names()
            if self._model in known:
                raise ConfigError(f"the server does not serve version '{self._version}' of model '{self._model}': "
                                  f"{error}") from None  # fmt: skip
            remedy = nearest(self._model, known) if known else f": {error}"
            raise ConfigError(f"the server has no model '{self._model}'{remedy}") from None

    def snapshot(self) -> Snapshot:
        """Return what was counted so far. Never raises: a server that does not tell, or is gone, tells nothing."""
        return Snapshot(self._statistics(), server_process.cpu_s(self._processes))

    def _statistics(self) -> dict[str, pb.ModelStatistics] | None:
        request = pb.ModelStatisticsRequest(name=self._model, version=self._version)
        try:
            answer = self._client.call("ModelStatistics", request, pb.ModelStatisticsResponse)
        except RemoteError:
            return None
        return {entry.version: entry for entry in answer.model_stats if entry.name == self._model}

    def _model_names(self) -> set[str]:
        try:
            index = self._client.call("RepositoryIndex", pb.RepositoryIndexRequest(), pb.RepositoryIndexResponse)
        except RemoteError:
            return set()
        return {entry.name for entry in index.models}


def figures(before: Snapshot, after: Snapshot, *, requests: int) -> ServerFigures:
    """Return what the server did between two snapshots.

    `requests` were sent in between, warm-up included; they divide the CPU time when the server does not count its own.
    The server's counts are of everybody's requests, and so is its CPU time: measure while nobody else asks.
    """
    sums = _sums(before, after)
    cpu_us = None
    counted = sums.requests or requests
    if before.cpu_s is not None and after.cpu_s is not None and counted:
        cpu_us = (after.cpu_s - before.cpu_s) / counted * 1e6
    return ServerFigures(
        stages_us={stage: ns / count / 1e3 for stage, (count, ns) in sums.stages.items() if count},
        mean_batch_rows=sums.rows / sums.executions if sums.executions else None,
        batch_rows=dict(sorted(sums.batches.items())),
        cpu_us_per_request=cpu_us,
    )


def _sums(before: Snapshot, after: Snapshot) -> _Sums:
    sums = _Sums()
    if before.statistics is None or after.statistics is None:
        return sums
    for version, later in after.statistics.items():
        earlier = before.statistics.get(version, pb.ModelStatistics())
        if earlier.inference_stats.success.count > later.inference_stats.success.count:
            earlier = pb.ModelStatistics()  # the version was loaded anew in between, and counts from 0
        _add(sums, earlier, later)
    return sums


def _add(sums: _Sums, earlier: pb.ModelStatistics, later: pb.ModelStatistics) -> None:
    sums.rows += later.inference_count - earlier.inference_count
    sums.executions += later.execution_count - earlier.execution_count
    for outcome in ("success", "fail"):
        count, _ = _difference(earlier.inference_stats, later.inference_stats, outcome)
        sums.requests += count
    for stage in STAGES:
        count, ns = _difference(earlier.inference_stats, later.inference_stats, stage)
        count_so_far, ns_so_far = sums.stages.get(stage, (0, 0))
        sums.stages[stage] = count_so_far + count, ns_so_far + ns
    batches = Counter({batch.batch_size: batch.compute_infer.count for batch in later.batch_stats})
    batches.subtract({batch.batch_size: batch.compute_infer.count for batch in earlier.batch_stats})
    sums.batches.update(+batches)


def _difference(earlier: pb.InferStatistics, later: pb.InferStatistics, name: str) -> tuple[int, int]:
    """Return count and ns by which a duration grew."""
    first, last = getattr(earlier, name), getattr(later, name)
    return last.count - first.count, last.ns - first.ns
