"""How many rows one turn lets in: no more than the queue takes or can answer in time, whatever comes between reads."""

import pytest

from serving.batching.batcher import Batcher
from serving.config import BatchingConfig, ModelConfig
from tests.support.sessions import queued
from tests.support.wired import Wired, message

MS = 1_000_000
OK, EXHAUSTED = 0, 8


@pytest.fixture
def make():
    """A server with two clients, which one of them has asked once."""

    def build(target_ns=None, **batching):
        config = ModelConfig(batching=BatchingConfig(**batching))
        wired = Wired(config, requests_in_flight_max=512)
        if target_ns is not None:
            batcher = Batcher(config.batching, wired.clock, instances=1, batchable=True, target_ns=target_ns)
            batcher.seed([(rows, float(rows * MS)) for rows in (1, 2, 4, 8, 16)])
            wired.servable.batcher = batcher
        peers = [wired.connect(), wired.connect()]
        peers[0].ask(message())
        work_off(wired)
        return wired, *peers

    return build


def work_off(wired):
    wired.loop.run()
    wired.servable.run_all()
    wired.loop.run()


def test_a_turn_of_several_reads_lets_in_what_can_be_answered_in_time(make):
    wired, one, other = make(20.0 * MS, batch_rows_max=16)
    one.ask(message())
    other.ask(*[message()] * 60)
    wired.loop.run()
    assert 10 < wired.servable.batcher.queued_rows <= 20
    work_off(wired)
    one.close()
    other.close()
    wired.check_that_nothing_is_held()


def test_what_is_queued_between_two_reads_leaves_the_second_one_less_room(make):
    wired, one, other = make(batch_rows_max=8, queue_rows_max=8)
    (first,) = one.ask(message(2))
    wired.servable.submit(queued(4))
    later = other.ask(*[message()] * 4)
    work_off(wired)
    assert one.read()[first].status == OK
    heard = other.read()
    assert [heard[stream].status for stream in later] == [OK, OK, EXHAUSTED, EXHAUSTED]
    one.close()
    other.close()
    wired.check_that_nothing_is_held()
