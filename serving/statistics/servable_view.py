"""What is shown of one servable at one moment: counters that nobody changes any more."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from serving.statistics.batching import BatchingView
from serving.statistics.latency import Histogram, ServableStatistics


@dataclass(frozen=True, slots=True)
class QueueView:
    """What waits for an instance."""

    rows: int = 0
    input_bytes: int = 0
    requests: int = 0


@dataclass(frozen=True, slots=True)
class Footprint:
    """What loading a servable took.

    `graph_bytes` is how large its files are: graph, weights and what lies beside. `memory_bytes` is by how much the
    process's resident memory grew meanwhile, with warm-up and sweep, and `gpu_bytes` by how much the memory in use on
    its GPU did, 0 without one; whatever else the process, or anybody on that GPU, did then is in it.
    """

    load_ns: int = 0
    graph_bytes: int = 0
    memory_bytes: int = 0
    gpu_bytes: int = 0


@dataclass(frozen=True, slots=True)
class ServableView:
    """One servable, as the exporter sees it; `gpu` is the number of the one that runs it, None on the CPU."""

    model: str
    version: str
    batch_rows_max: int
    queue: QueueView
    footprint: Footprint
    rows: int
    batches: int
    reruns: int
    missed: int
    dead_rows: int
    stages: Mapping[str, Histogram]
    batches_by_rows: Mapping[int, int]
    batching: BatchingView | None = None
    gpu: int | None = None
    is_drift_paused: bool = False

    @classmethod
    def copy_of(
        cls, model: str, version: str, statistics: ServableStatistics, *,
        batch_rows_max: int, queue: QueueView, footprint: Footprint, batching: BatchingView | None = None,
        gpu: int | None = None,
    ) -> Self:  # fmt: skip
        """Copy the counters of a servable. On the I/O thread."""
        return cls(
            model=model,
            version=version,
            batch_rows_max=batch_rows_max,
            queue=queue,
            footprint=footprint,
            rows=statistics.inference_count,
            batches=statistics.execution_count,
            reruns=statistics.rerun_count,
            missed=statistics.missed_count,
            dead_rows=statistics.dead_rows,
            batching=batching,
            gpu=gpu,
            stages={stage: histogram.copy() for stage, histogram in statistics.stages.items()},
            batches_by_rows=statistics.batches_by_rows(),
        )
