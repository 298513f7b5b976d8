"""Histograms of the stages of requests as messages, with the quantiles that derive from them, and back."""

from collections.abc import Mapping, Sequence

import numpy as np

from serving.errors import InvalidRequest, RemoteError
from serving.pb import penstock_pb2 as pb
from serving.statistics.latency import Histogram
from serving.statistics.stages import BUCKETS, bucket_of, edges_ns

QUANTILES_USUAL = (0.5, 0.9, 0.95, 0.99, 0.999)
QUANTILES_MAX = 100
_TOTAL_S_MAX = 1e18
"""More no server has counted; much more a histogram could not hold."""


def checked_quantiles(quantiles: Sequence[float]) -> Sequence[float]:
    """Return the quantiles to derive: those that were asked for, else the usual ones. Raises InvalidRequest."""
    if len(quantiles) > QUANTILES_MAX:
        raise InvalidRequest(f"{len(quantiles)} quantiles in one call, at most {QUANTILES_MAX}")
    for quantile in quantiles:
        if not 0 <= quantile <= 1:
            raise InvalidRequest(f"quantile {quantile:g}, expected a number from 0 to 1")
    return quantiles or QUANTILES_USUAL


def encode(model: str, version: str, stages: Mapping[str, Histogram], quantiles: Sequence[float]) -> pb.ServableLatency:
    """Write the histograms of one model version."""
    encoded = [_encode_stage(stage, histogram, quantiles) for stage, histogram in stages.items()]
    return pb.ServableLatency(name=model, version=version, stages=encoded)


def decode(message: pb.ServableLatency) -> dict[str, Histogram]:
    """Read the histograms of one model version. Raises RemoteError for what this version cannot have written."""
    return {stage.stage: _decode_stage(stage) for stage in message.stages}


def _encode_stage(stage: str, histogram: Histogram, quantiles: Sequence[float]) -> pb.StageLatency:
    begins_ns, counts = edges_ns(), histogram.buckets
    ends_ns = [*begins_ns[1:-1], 0]
    asked = quantiles if histogram.count else ()
    return pb.StageLatency(
        stage=stage,
        count=histogram.count,
        total_s=histogram.total_ns / 1e9,
        quantiles=[pb.LatencyQuantile(quantile=q, us=histogram.quantile_ns(q) / 1e3) for q in asked],
        buckets=[
            pb.LatencyBucket(from_ns=begins_ns[k], below_ns=ends_ns[k], count=int(counts[k]))
            for k in np.flatnonzero(counts).tolist()
        ],
    )


def _decode_stage(stage: pb.StageLatency) -> Histogram:
    if not 0.0 <= stage.total_s <= _TOTAL_S_MAX:
        raise RemoteError("INTERNAL", f"stage '{stage.stage}' took {stage.total_s:g} s in all, expected a time")
    begins_ns, counts = edges_ns(), np.zeros(BUCKETS, np.int64)
    for item in stage.buckets:
        bucket = bucket_of(max(0, item.from_ns))
        if begins_ns[bucket] != item.from_ns or item.count < 0:
            raise RemoteError("INTERNAL", f"stage '{stage.stage}' has an unknown bucket, from {item.from_ns} ns")
        counts[bucket] += item.count
    return Histogram.of(counts, round(stage.total_s * 1e9))
