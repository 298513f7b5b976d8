"""What a servable's batcher has learnt and done, read off its parts into numbers that nobody changes any more.

It reads and decides nothing. On the I/O thread, for who asks now and then.
"""

from serving.batching.batcher import Batcher
from serving.batching.demand import MISSED, burst_factor, rows_per_ns, utilisation
from serving.batching.policy import RELEASES
from serving.config import ModelConfig
from serving.statistics.batching import BatchingView, ServiceTime, padding_rows
from serving.statistics.latency import ServableStatistics


def batching_view(
    batcher: Batcher, config: ModelConfig, statistics: ServableStatistics, *, now_ns: int
) -> BatchingView:  # fmt: skip
    """Return the state of a batcher now. `statistics` are those of its servable."""
    outlook, decision = batcher.outlook, batcher.decision()
    times, demand, instances = outlook.times, outlook.demand, config.instances.count
    rows_allowed = tuple(times.curve.sizes) if times.curve.stepped else ()
    return BatchingView(
        mode=config.batching.mode,
        instances=instances,
        target_ns=config.slo_ms * 1e6,
        sizes=[ServiceTime(rows, times.mean_ns(rows), times.upper_ns(rows)) for rows in times.curve.sizes],
        knee_rows=times.knee_rows,
        chosen_rows=batcher.chosen_rows(),
        best_rows_per_s=times.best_rows_per_s * instances,
        waiting=None if decision is None else (decision.rows, decision.reason.name.lower()),
        rows_per_s=rows_per_ns(demand, now_ns) * 1e9,
        burst=burst_factor(demand),
        utilisation=utilisation(demand, instances, now_ns),
        missed=demand[MISSED],
        overhead_ns=outlook.overhead_ns,
        expected_ns=outlook.predicted_ns,
        actual_ns=outlook.actual_ns,
        releases={reason.name.lower(): batcher.releases[reason] for reason in RELEASES},
        waits=batcher.waits,
        rows_allowed=rows_allowed,
        padding_rows=padding_rows(statistics.batches_by_rows(), rows_allowed),
    )
