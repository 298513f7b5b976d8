"""What is counted when a request is sent and when its call ends: lag, latency, codes, and what is in time.

The buckets follow the rule of the bench's histogram. Knows the clock's numbers and no frame.
"""

import numpy as np
from numpy.typing import NDArray

from serving.wire.client.layout import (
    LAGS,
    LATENCIES,
    SUB_BITS,
    TIME_NS_MAX,
    X_CODES,
    X_IN_SLO,
    X_LAG_MAX_NS,
    X_LAG_TOTAL_NS,
    X_LATENCY_MAX_NS,
    X_LATENCY_TOTAL_NS,
    X_SENT,
    X_SLO_NS,
    Client,
)
from serving.wire.compiler import inlined, kernel

(
    OK,
    CANCELLED,
    UNKNOWN,
    INVALID_ARGUMENT,
    DEADLINE_EXCEEDED,
    NOT_FOUND,
    ALREADY_EXISTS,
    PERMISSION_DENIED,
    RESOURCE_EXHAUSTED,
    FAILED_PRECONDITION,
    ABORTED,
    OUT_OF_RANGE,
    UNIMPLEMENTED,
    INTERNAL,
    UNAVAILABLE,
    DATA_LOSS,
    UNAUTHENTICATED,
) = range(17)
CODE_NAMES = (
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
    "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
    "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
)  # fmt: skip


@inlined
def bucket_of(time_ns: int) -> int:
    """Return the bucket of a time in 0..TIME_NS_MAX."""
    shift = 0
    rest = time_ns >> (SUB_BITS + 1)
    step = 16
    while step > 0:  # how many bits `rest` has, by halves
        if rest >> step:
            rest >>= step
            shift += step
        step >>= 1
    shift += rest
    return (shift << SUB_BITS) + (time_ns >> shift)


@inlined
def count_sent(shared: NDArray[np.int64], counts: NDArray[np.int64], lag_ns: int) -> None:
    """Count a request that goes out so long after its intended moment."""
    lag_ns = min(max(lag_ns, 0), TIME_NS_MAX)
    shared[X_SENT] += 1
    shared[X_LAG_TOTAL_NS] += lag_ns
    shared[X_LAG_MAX_NS] = max(shared[X_LAG_MAX_NS], lag_ns)
    counts[LAGS, bucket_of(lag_ns)] += 1


@inlined
def count_answer(client: Client, code: int, latency_ns: int) -> None:
    """Count the end of a call; latency is of OK answers."""
    shared = client.shared
    shared[X_CODES + code] += 1
    if code != OK:
        return
    shared[X_IN_SLO] += 1 if latency_ns <= shared[X_SLO_NS] else 0
    latency_ns = min(max(latency_ns, 0), TIME_NS_MAX)
    shared[X_LATENCY_TOTAL_NS] += latency_ns
    shared[X_LATENCY_MAX_NS] = max(shared[X_LATENCY_MAX_NS], latency_ns)
    client.counts[LATENCIES, bucket_of(latency_ns)] += 1


@kernel("void(int64[::1], int64[::1])")
def bucket_all(times_ns: NDArray[np.int64], buckets: NDArray[np.int64]) -> None:
    """Write the bucket of each time, so that a test can compare the rule with the histogram's."""
    assert times_ns.size == buckets.size, "bug: times and buckets differ in number"
    for k in range(times_ns.size):
        buckets[k] = bucket_of(min(max(times_ns[k], 0), TIME_NS_MAX))
