"""What is promised about the cost of watching, and how intervals are held to it."""

import socket

import numpy as np
import psutil
import pytest

from bench import overhead
from bench.compare import Ratio
from bench.load import FEATURES, Target, penstock
from bench.overhead import EXECUTORS, counted, experiments
from serving.errors import ConfigError
from serving.pb import penstock_pb2 as pb
from serving.statistics.drift.governor import FREE_NS
from serving.transport.client import Client
from serving.types import Datatype


def judged(title, **intervals):
    (experiment,) = [one for one in experiments(0.2, 400) if title in one.title]
    ratios = {
        name.replace("_", " "): Ratio(name.replace("_", " "), (low + high) / 2, low, high)
        for name, (low, high) in intervals.items()
    }
    return [line.is_kept for line in experiment.judge(ratios, experiment.title)]


@pytest.mark.parametrize(
    ("p50", "p99", "kept"),
    [
        ((0.99, 1.019), (0.9, 1.2), [True, True]),
        ((0.99, 1.021), (0.9, 1.2), [False, True]),
        ((0.99, 1.0), (1.001, 1.2), [True, False]),
        ((0.90, 0.95), (0.8, 0.99), [True, True]),
    ],
)
def test_latency_is_held_to_its_median_and_its_tail(p50, p99, kept):
    assert judged("1 ms", latency_p50=p50, latency_p99=p99) == kept


@pytest.mark.parametrize(("throughput", "kept"), [((0.91, 1.0), True), ((0.89, 1.0), False)])
def test_the_light_model_loses_a_tenth_of_its_throughput_at_most(throughput, kept):
    assert judged("off, light model", throughput=throughput) == [kept]


@pytest.mark.parametrize(("throughput", "kept"), [((0.98, 1.01), True), ((0.9, 0.99), False)])
def test_scraping_shows_no_loss(throughput, kept):
    assert judged("/metrics", throughput=throughput) == [kept]


def test_only_b_is_scraped_or_counted_and_everything_else_is_the_same():
    latency, throughput, scraping = experiments(0.2, 400)
    assert [one.is_scraped for one in (latency, throughput, scraping)] == [False, False, True]
    assert [one.model for one in (latency, throughput, scraping)] == ["slow", "light", "light"]
    assert [one.pairs for one in (latency, throughput)] == [400, 400]


@pytest.mark.parametrize(
    ("slice_s", "pairs", "scraped_s", "scraped_pairs"), [(0.2, 400, 2, 57), (0.2, 20, 2, 20), (3.3, 40, 3, 44)]
)
def test_a_scraped_slice_has_a_page_for_each_of_its_seconds(slice_s, pairs, scraped_s, scraped_pairs):
    scraping = experiments(slice_s, pairs)[-1]
    assert (scraping.load.duration_s, scraping.pairs) == (scraped_s, scraped_pairs)


def test_a_side_that_is_not_counted_is_paused_on_the_server_and_the_other_is_not(tmp_path):
    overhead._write_model(tmp_path, "light")
    with penstock(tmp_path) as server, Client(f"127.0.0.1:{server.port}") as client:
        overhead._make_reference(client, "light")
        rows = []
        for seconds in (overhead.PAUSE_S_MAX, 0.0):
            overhead._pause(client, "light", seconds)
            client.infer("light", {"x": (Datatype.FP32, np.zeros((100, FEATURES), np.float32))})
            rows.append(overhead._drift_of(client, "light").rows_seen)
        assert rows[1] - rows[0] == 100


def test_a_server_that_logs_much_is_not_held_up_by_it(tmp_path):
    overhead._write_model(tmp_path, "light")
    with penstock(tmp_path) as server, Client(f"127.0.0.1:{server.port}") as client:
        for _ in range(2_000):  # a line of some 70 bytes each, where a pipe holds 65,536
            overhead._pause(client, "light", 0.0)


def test_a_page_that_does_not_come_is_no_cheap_scrape():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        target = Target(psutil.Process(), 0, closed.getsockname()[1])
        with pytest.raises(ConfigError, match=r"not answered: .*refused"), overhead._scraped(target):
            pass


@pytest.mark.parametrize(("spent_ns", "kept"), [(0, True), (10_000_000, True), (10_000_001, False)])
def test_counting_is_held_to_a_hundredth_of_inference(spent_ns, kept):
    report = pb.ServableDrift(spent_ns=spent_ns + EXECUTORS * FREE_NS, infer_ns=1_000_000_000)
    assert counted(report).is_kept is kept
