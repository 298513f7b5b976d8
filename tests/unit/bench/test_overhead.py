"""What is promised about the cost of watching, and how intervals are held to it."""

import socket

import psutil
import pytest

from bench import overhead
from bench.compare import Ratio
from bench.load import Target
from bench.overhead import EXECUTORS, counted, experiments
from serving.errors import ConfigError
from serving.pb import penstock_pb2 as pb
from serving.statistics.drift.governor import FREE_NS


def judged(title, **intervals):
    (experiment,) = [one for one in experiments(2.0) if title in one.title]
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


def test_only_b_is_scraped_and_both_sides_are_otherwise_the_same():
    latency, throughput, scraping = experiments(2.0)
    assert [one.copies for one in (latency, throughput, scraping)] == [overhead.COPIES, 1, 1]
    assert [one.is_scraped for one in (latency, throughput, scraping)] == [False, False, True]
    assert scraping.models[0] == scraping.models[1]
    assert latency.models == ("slow_off", "slow_on")
    assert throughput.models == ("light_off", "light_on")


def test_copies_of_both_sides_are_loaded_in_turn():
    names = sorted(overhead._copies("slow_off", overhead.COPIES) + overhead._copies("slow_on", overhead.COPIES))
    assert [name.rsplit("_", 1)[1] for name in names] == ["off", "on"] * overhead.COPIES


def test_a_page_that_does_not_come_is_no_cheap_scrape():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        target = Target(psutil.Process(), 0, closed.getsockname()[1])
        with pytest.raises(ConfigError, match=r"not answered: .*refused"), overhead._scraped(target):
            pass


@pytest.mark.parametrize(("spent_ns", "kept"), [(0, True), (10_000_000, True), (10_000_001, False)])
def test_counting_is_held_to_a_hundredth_of_inference(spent_ns, kept):
    reports = [pb.ServableDrift(spent_ns=spent_ns + EXECUTORS * FREE_NS, infer_ns=1_000_000_000)]
    assert counted(reports).is_kept is kept


def test_what_one_copy_has_free_pays_for_no_other_one():
    spent_ns = (EXECUTORS * FREE_NS + 30_000_000, 0)
    reports = [pb.ServableDrift(spent_ns=one, infer_ns=1_000_000_000) for one in spent_ns]
    assert counted(reports).ratio.estimate == pytest.approx(0.015)
