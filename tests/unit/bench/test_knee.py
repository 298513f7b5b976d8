import dataclasses
import json

import numpy as np
import pytest

from bench.histogram import Histogram
from bench.knee import Plan, find
from bench.slices import ClosedLoop, OpenLoop, Recording, Slice
from serving.errors import ConfigError
from tests.support.virtual_servers import VirtualServer, recording, waits

SERVICE_S, P99_MS = 1e-3, 10.0
TEMPLATE = Slice(load=OpenLoop(rate_per_s=1.0, duration_s=1.0))


def fixed(count):
    """Return service times that are all the same."""
    return np.full(count, SERVICE_S)


def search(server, *, seed=0, measure=None, p99_ms=P99_MS, **options):
    template = dataclasses.replace(TEMPLATE, load=dataclasses.replace(TEMPLATE.load, seed=seed))
    clock = lambda: server.spent_s  # noqa: E731 - virtual time
    return find(measure or server.measure, template, p99_ms=p99_ms, clock=clock, **options)


@pytest.fixture(scope="module")
def true_knee():
    """The knee of the server, by bisection over long simulations that share their gaps."""
    gaps = np.random.default_rng(0).exponential(1.0, 2_000_000)
    low, high = 100.0, 999.0
    while high / low > 1.001:
        rate = (low + high) / 2
        latency = waits(np.cumsum(gaps / rate), fixed(len(gaps))) + SERVICE_S
        low, high = (rate, high) if np.quantile(latency, 0.99) <= P99_MS / 1e3 else (low, rate)
    return low


def test_the_knee_of_a_fixed_service_time_is_found_in_two_minutes(true_knee):
    found, held, spent_s = 0, 0, []
    for seed in range(20):
        server = VirtualServer(fixed)
        knee = search(server, seed=seed * 1000)
        found += abs(knee.rate / true_knee - 1) <= 0.05
        held += knee.low <= true_knee <= knee.high
        spent_s.append(server.spent_s)
    assert found >= 19
    assert held >= 17
    assert max(spent_s) < 120


def test_the_search_ends_early_when_it_is_sure():
    server = VirtualServer(lambda count: np.full(count, 1e-4))
    knee = search(server, p99_ms=1.0, plan=Plan(width=1.1))
    assert knee.ended == "the interval is narrow enough"
    assert knee.high / knee.low <= 1.1
    assert server.spent_s < 80


def test_a_noisy_machine_makes_the_answer_less_sure_and_not_wrong(true_knee):
    random = np.random.default_rng(5)
    server = VirtualServer(lambda count: fixed(count) * random.lognormal(0, 0.05))
    knee = search(server)
    assert knee.low < true_knee < knee.high
    assert knee.rate == pytest.approx(true_knee, rel=0.1)


def test_a_server_slower_than_the_start_is_found_by_halving():
    server = VirtualServer(lambda count: np.full(count, 0.02))
    knee = search(server, p99_ms=200.0)
    assert knee.probes[0].rate == 100
    assert knee.probes[1].rate == 50
    assert 25 < knee.rate < 50


def test_every_probe_is_a_slice_of_its_own_with_the_objective():
    server = VirtualServer(fixed)
    seen = []
    knee = search(server, on_probe=seen.append)
    assert seen == list(knee.probes)
    assert {slice_.slo_ms for slice_ in server.slices} == {P99_MS}
    assert [slice_.load.seed for slice_ in server.slices] == list(range(len(seen)))
    values = json.loads(json.dumps(knee.to_json(), allow_nan=False))
    assert {probe["verdict"] for probe in values["probes"]} <= {"pass", "fail", "undecided"}
    assert values["probes"][0]["outcome"]["offered_rps"] == 100


def test_a_limit_below_the_service_time_is_never_met():
    knee = search(VirtualServer(fixed), p99_ms=0.5)
    assert (knee.rate, knee.low, knee.high) == (None, None, None)
    assert knee.ended == "p99 is above 0.5 ms even at 25 requests/s"


def test_a_server_without_a_knee_is_said_so():
    def measure(slice_):
        return recording(slice_, np.linspace(0, 1, 100), np.full(100, 1e-4))

    knee = search(VirtualServer(fixed), measure=measure)
    assert knee.rate is None
    assert knee.ended.startswith("p99 stays within 10 ms up to 3.2768e+06 requests/s")


def test_the_time_may_be_spent_before_there_is_a_bracket():
    server = VirtualServer(fixed)
    knee = search(server, plan=Plan(rate_start=1.0, bracket_s=8.0, time_s_max=20.0))
    assert knee.rate is None
    assert knee.ended.startswith("the time was spent before a rate that fails was found")


def test_a_generator_at_its_limit_is_not_taken_for_the_server():
    server = VirtualServer(fixed)

    def measure(slice_):
        recorded = server.measure(slice_)
        recorded.unsent = 50 if slice_.load.rate_per_s > 300 else 0
        return recorded

    knee = search(server, measure=measure)
    assert knee.rate is None
    assert knee.ended == "the load generator could not offer 400 requests/s; the knee was not reached below it"


def late(server, *, probes):
    """Measure with a generator that is late in some probes by so much that none is answered within the objective."""

    def measure(slice_):
        recorded = server.measure(slice_)
        if len(server.slices) in probes:
            for interval in recorded.intervals:
                interval.in_slo = 0
                interval.lag = Histogram.of(np.full(interval.sent, 15_000_000))
        return recorded

    return measure


def test_probes_that_were_sent_late_are_made_again_and_do_not_count(true_knee):
    server = VirtualServer(fixed)
    disturbed = {2, 6, 11, 12, 13, 17}
    knee = search(server, measure=late(server, probes=disturbed))
    verdicts = {number: probe.verdict for number, probe in enumerate(knee.probes, 1)}
    assert {number for number, verdict in verdicts.items() if verdict == "late"} == disturbed
    assert knee.probes[1].rate == knee.probes[2].rate == 200
    assert knee.rate == pytest.approx(true_knee, rel=0.05)
    assert knee.low < true_knee < knee.high


def test_a_machine_that_is_always_busy_with_other_things_is_said_so():
    server = VirtualServer(fixed)
    knee = search(server, measure=late(server, probes=range(3, 1000)))
    assert [probe.rate for probe in knee.probes] == [100, 200, *[400] * 8]
    assert "sent late in 8 probes of 400 requests/s in a row" in knee.ended
    assert knee.rate is None


def test_a_rate_far_over_the_objective_is_a_bracket_whoever_was_late():
    server = VirtualServer(fixed)
    knee = search(server, measure=late(server, probes=range(4, 1000)), plan=Plan(rate_start=200.0))
    assert [probe.rate for probe in knee.probes[:4]] == [200, 400, 800, 1600]
    assert knee.probes[3].verdict == "fail"
    assert 400 < knee.low < knee.rate < knee.high


def test_a_machine_that_calms_down_again_has_an_answer(true_knee):
    server = VirtualServer(fixed)
    knee = search(server, measure=late(server, probes=range(7, 20)))
    assert sum(probe.verdict == "late" for probe in knee.probes) == 13
    assert knee.rate == pytest.approx(true_knee, rel=0.05)


def test_a_late_generator_does_not_spoil_a_probe_that_passes_clearly():
    server = VirtualServer(lambda count: np.full(count, 1e-5))

    def measure(slice_):
        recorded = server.measure(slice_)
        for interval in recorded.intervals:
            interval.lag = Histogram.of(np.full(interval.sent, 2_000_000))
        return recorded

    knee = search(server, measure=measure, plan=Plan(rate_start=10_000.0))
    assert {probe.verdict for probe in knee.probes if probe.rate < 50_000} == {"pass"}


@pytest.mark.parametrize("probes", [0, 2, 9])
def test_what_was_found_before_a_failure_is_kept(probes):
    server = VirtualServer(fixed)

    def measure(slice_):
        if len(server.slices) == probes:
            return Recording(slice_, failure="the server closed the connection")
        return server.measure(slice_)

    knee = search(server, measure=measure)
    assert len(knee.probes) == probes + 1
    assert knee.failure == "the server closed the connection"
    assert "ended early: the server closed the connection" in knee.ended
    assert (knee.rate is not None) == (probes == 9)


@pytest.mark.parametrize(
    "load",
    [ClosedLoop(concurrency=1, duration_s=1.0), OpenLoop(rate_per_s=1.0, duration_s=1.0, arrivals="trace")],
)
def test_a_load_without_a_rate_is_refused(load):
    with pytest.raises(ConfigError, match="a knee is a rate"):
        find(VirtualServer(fixed).measure, Slice(load=load), p99_ms=1.0)


@pytest.mark.parametrize("p99_ms", [0.0, -1.0, float("nan"), float("inf")])
def test_a_limit_that_is_none_is_refused(p99_ms):
    with pytest.raises(ConfigError, match="expected a number above 0"):
        search(VirtualServer(fixed), p99_ms=p99_ms)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate_start": 0.0}, "rate_start = 0 requests/s"),
        ({"width": 1.0}, "width = 1, expected a ratio above 1"),
        ({"time_s_max": 5.0}, "5 s in all, expected at least 14"),
    ],
)
def test_a_plan_that_cannot_work_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        Plan(**options)
