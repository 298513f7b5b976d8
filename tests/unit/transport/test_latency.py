import pytest

from serving.errors import RemoteError
from serving.pb import penstock_pb2 as pb
from serving.statistics.latency import Histogram
from serving.transport.latency import decode, encode


def histogram():
    one = Histogram()
    for duration_ns, times in ((0, 2), (1_024, 1), (5_000_000, 3), (1 << 40, 1)):
        one.add(duration_ns, times)
    return one


def test_a_histogram_comes_back_as_it_was():
    message = encode("m", "1", {"request": histogram()}, [0.5])
    found = decode(pb.ServableLatency.FromString(message.SerializeToString()))["request"]
    assert found.buckets.tolist() == histogram().buckets.tolist()
    assert (found.count, found.total_ns) == (7, histogram().total_ns)


def test_the_last_bucket_has_no_end():
    (stage,) = encode("m", "1", {"request": histogram()}, []).stages
    assert (stage.buckets[-1].count, stage.buckets[-1].below_ns) == (1, 0)
    assert (stage.buckets[0].from_ns, stage.buckets[0].below_ns) == (0, 1_024)


@pytest.mark.parametrize("bucket", [pb.LatencyBucket(from_ns=1_500, count=1), pb.LatencyBucket(from_ns=0, count=-1),
                                    pb.LatencyBucket(from_ns=-5, count=1)])  # fmt: skip
def test_buckets_of_other_servers_are_refused(bucket):
    with pytest.raises(RemoteError, match="unknown bucket"):
        decode(pb.ServableLatency(stages=[pb.StageLatency(stage="request", buckets=[bucket])]))


@pytest.mark.parametrize("total_s", [-1.0, float("nan"), float("inf"), 1e300])
def test_a_sum_that_is_no_time_is_refused(total_s):
    with pytest.raises(RemoteError, match="expected a time"):
        decode(pb.ServableLatency(stages=[pb.StageLatency(stage="request", total_s=total_s)]))
