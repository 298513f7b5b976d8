"""The short way of `Batcher.take_now` does what the long way does."""

from hypothesis import given
from hypothesis import strategies as st

from serving.batching.batcher import Batcher
from serving.config import BatchingConfig
from tests.support.clocks import FakeClock
from tests.support.sessions import queued

SEEDS = [(1, 10_000), (2, 12_000), (4, 16_000), (8, 24_000), (16, 40_000), (32, 160_000)]  # 16 rows are the best


class Long(Batcher):
    """A batcher without the short way."""

    def _take_lone(self, batch, rows_max):
        return False


def made(kind, config, *, batchable, events):
    clock = FakeClock()
    batcher = kind(BatchingConfig(**config), clock, instances=1, batchable=batchable)
    batcher.set_inline(True)
    batcher.seed(SEEDS)
    for event in events:
        match event:
            case "hurry":
                batcher.hurry()
            case "stop_grouping":
                batcher.stop_grouping()
            case rows, deadline_ns, columns:
                batcher.submit(queued(rows, deadline_ns=deadline_ns, lane=((columns,),)))
    return batcher


def taken(batcher, rows_max):
    batch = batcher.take_now(rows_max)
    if batch is None:
        return None
    rows = [(entry.rows, entry.lane, entry.progress) for entry in batch.entries]
    return rows, batch.rows, batch.reason, len(batch.over)


entries = st.tuples(st.integers(0, 40), st.sampled_from([None, 10**12]), st.sampled_from([2, 3]))


@given(
    events=st.lists(entries | st.sampled_from(["hurry", "stop_grouping"]), max_size=4),
    rows_max=st.integers(1, 40),
    mode=st.sampled_from(["adaptive", "window", "none"]),
    batchable=st.booleans(),
)
def test_a_lone_entry_is_taken_as_the_queue_would_have_it(events, rows_max, mode, batchable):
    config = {"mode": mode, "batch_rows_max": 32, "queue_rows_max": 256}
    short, long = (made(kind, config, batchable=batchable, events=events) for kind in (Batcher, Long))
    for _ in range(6):
        assert taken(short, rows_max) == taken(long, rows_max)
        assert (short.queued_rows, short.queued_bytes, short.is_empty) == (
            long.queued_rows,
            long.queued_bytes,
            long.is_empty,
        )
    assert short.releases == long.releases
