"""What is promised about the cost of watching, and how intervals are held to it."""

import signal
import socket
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import psutil
import pytest

from bench import load, overhead
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
    ("slice_s", "pairs", "scraped_s", "scraped_pairs"),
    [(0.2, 400, 2, 57), (0.2, 20, 2, 20), (3.3, 40, 3, 44), (2.4, 10_000, 2, 10_000)],
)
def test_scraped_slices_are_whole_seconds_for_about_as_long_as_the_others(slice_s, pairs, scraped_s, scraped_pairs):
    scraping = experiments(slice_s, pairs)[-1]
    assert (scraping.load.duration_s, scraping.pairs) == (scraped_s, scraped_pairs)


def test_all_of_a_is_paused_and_nothing_of_b_and_nothing_that_is_scraped():
    sides = [[overhead._pause_s(one, side) > 0 for side in (0, 1)] for one in experiments(0.2, 400)]
    assert sides == [[True, False], [True, False], [False, False]]


def test_a_side_that_is_paused_is_not_counted_by_the_server(tmp_path):
    overhead._write_model(tmp_path, "light")
    with penstock(tmp_path) as server, Client(f"127.0.0.1:{server.port}") as client:
        overhead._make_reference(client, "light")
        seen = [overhead._drift_of(client, "light").rows_seen]
        for pause_s in (overhead.PAUSE_S_MAX, 0.0):
            overhead._pause(client, "light", pause_s)
            client.infer("light", {"x": (Datatype.FP32, np.zeros((100, FEATURES), np.float32))})
            seen.append(overhead._drift_of(client, "light").rows_seen)
        assert np.diff(seen).tolist() == [0, 100]


def test_a_server_that_logs_much_is_not_held_up_by_it(tmp_path):
    overhead._write_model(tmp_path, "light")
    with penstock(tmp_path) as server, Client(f"127.0.0.1:{server.port}") as client:
        for _ in range(2_000):  # a line of some 70 bytes each, where a pipe holds 65,536
            overhead._pause(client, "light", 0.0)


def test_a_server_does_not_outlive_a_ctrl_c_while_it_starts(tmp_path, monkeypatch):
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\necho begins >&2\nexec sleep 600\n")
    program.chmod(0o700)
    started = []

    class Noted(subprocess.Popen):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            started.append(self)

    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(load.sys, "executable", str(program))
    monkeypatch.setattr(load.subprocess, "Popen", Noted)
    monkeypatch.setattr(load, "_ports", interrupt)
    with pytest.raises(KeyboardInterrupt), penstock(tmp_path):
        pass
    (process,) = started
    assert process.wait(10) == -signal.SIGTERM


def wait_for_scraper():
    while any(thread.name == "scraper" for thread in threading.enumerate()):
        time.sleep(0.001)


class Pages(BaseHTTPRequestHandler):
    """Answers everything, and counts."""

    count, first_s = 0, 0.0

    def do_GET(self):
        Pages.first_s = Pages.first_s or time.monotonic()
        Pages.count += 1
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        """Say nothing."""


def test_pages_are_asked_for_from_the_warm_up_on_until_the_slice_ends(monkeypatch):
    monkeypatch.setattr(overhead, "_SCRAPE_S", 0.001)
    Pages.count, Pages.first_s, enough, began_s = 0, 0.0, 20, time.monotonic()
    with HTTPServer(("127.0.0.1", 0), Pages) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            with overhead._scraped(Target(psutil.Process(), 0, server.server_port)):
                while Pages.count < enough:
                    time.sleep(0.001)
            asked = Pages.count
        finally:
            server.shutdown()
            thread.join()
    assert Pages.count == asked >= enough
    assert Pages.first_s - began_s > overhead.WARM_UP_S


def test_a_page_that_does_not_come_is_no_cheap_scrape(monkeypatch):
    monkeypatch.setattr(overhead, "WARM_UP_S", 0.0)
    monkeypatch.setattr(overhead, "_SCRAPE_S", 0.001)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        target = Target(psutil.Process(), 0, closed.getsockname()[1])
        with pytest.raises(ConfigError, match=r"not answered: .*refused"), overhead._scraped(target):
            wait_for_scraper()


@pytest.mark.parametrize(("spent_ns", "kept"), [(0, True), (10_000_000, True), (10_000_001, False)])
def test_counting_is_held_to_a_hundredth_of_inference(spent_ns, kept):
    report = pb.ServableDrift(spent_ns=spent_ns + EXECUTORS * FREE_NS, infer_ns=1_000_000_000)
    assert counted(report).is_kept is kept
