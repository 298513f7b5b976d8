import json
import math
from collections import Counter

import numpy as np
import pytest

from bench.histogram import Histogram
from bench.outcome import LatencyUs, Outcome
from bench.slices import ClosedLoop, Interval, OpenLoop, Recording, ServerFigures, Slice

NAMES = {"throughput_rps", "throughput_rows_per_s", "goodput_rps", "sent", "answered", "errors", "latency_us",
         "client_limited", "server"}  # fmt: skip


def interval(begin_s, answered, *, latency_us=1000, lag_us=1, busy_s=0.05, **others):
    return Interval(
        begin_s,
        begin_s + 0.25,
        sent=answered,
        answered=answered,
        latency=Histogram.of(np.full(answered, latency_us * 1000)),
        lag=Histogram.of(np.full(answered, lag_us * 1000)),
        busy_s=busy_s,
        **others,
    )


def outcome(*intervals, load=None, rows=1, server=None, slo_ms=None, **others):
    load = load or OpenLoop(rate_per_s=400.0, duration_s=1.0)
    server = server or ServerFigures()
    return Outcome.of(Recording(Slice(load=load, slo_ms=slo_ms), list(intervals), server=server, **others), rows)


STEADY = [interval(0.25 * index, 100, in_slo=90) for index in range(4)]


def test_rates_are_per_second_of_the_counted_duration():
    result = outcome(*STEADY, rows=8)
    assert (result.throughput_rps, result.throughput_rows_per_s, result.goodput_rps) == (400, 3200, 400)
    assert (result.offered_rps, result.concurrency, result.load) == (400, None, "poisson")


def test_goodput_counts_answers_within_the_objective():
    assert outcome(*STEADY, slo_ms=5.0).goodput_rps == 360


def test_latency_is_read_off_the_histogram():
    assert outcome(*STEADY).latency_us == LatencyUs(*[pytest.approx(1000, rel=1 / 1024)] * 5, max=1000)


def test_a_few_answers_after_the_end_stand_for_those_of_before():
    assert outcome(*STEADY[:3], interval(0.75, 95), interval(1.0, 5)).throughput_rps == 400


def test_a_backlog_counts_in_the_time_that_it_took():
    slow = [interval(0.25 * index, 50) for index in range(8)]
    assert outcome(*slow).throughput_rps == pytest.approx(200, rel=0.01)
    idle_first = [interval(0.25 * index, 50 if index > 2 else 0) for index in range(11)]
    assert outcome(*idle_first).throughput_rps == pytest.approx(200, rel=0.01)


def test_a_steady_server_with_long_latency_is_not_charged_for_it():
    late = [interval(0.25 * index, 100 if index > 1 else 0) for index in range(6)]
    assert outcome(*late).throughput_rps == pytest.approx(400, rel=0.01)


def test_errors_are_by_code_and_sorted():
    failing = [interval(0.0, 1, errors=Counter(UNAVAILABLE=2)), interval(0.25, 1, errors=Counter(INTERNAL=1))]
    assert list(outcome(*failing).errors.items()) == [("INTERNAL", 1), ("UNAVAILABLE", 2)]


@pytest.mark.parametrize(
    ("options", "limited"),
    [({}, False), ({"busy_s": 0.23}, True), ({"lag_us": 90}, False), ({"lag_us": 110}, True)],
)
@pytest.mark.parametrize("load", [OpenLoop(rate_per_s=400.0, duration_s=1.0), ClosedLoop(concurrency=4, duration_s=1)])
def test_a_generator_that_lags_or_is_busy_is_the_limit(load, options, limited):
    result = outcome(*(interval(0.25 * index, 100, **options) for index in range(4)), load=load)
    assert result.client_limited is limited


def test_a_generator_that_could_not_send_is_the_limit():
    assert outcome(*STEADY, unsent=1).client_limited


def test_a_slice_that_ended_early_has_the_rates_of_what_it_did():
    result = outcome(*STEADY[:2], failure="the connection is closed")
    assert (result.throughput_rps, result.duration_s) == (400, 0.5)
    assert result.failure == "the connection is closed"


def test_a_closed_loop_has_a_concurrency_and_no_rate():
    result = outcome(*STEADY, load=ClosedLoop(concurrency=4, duration_s=1.0))
    assert (result.load, result.offered_rps, result.concurrency) == ("closed", None, 4)


def test_nothing_answered_is_null_in_json():
    result = outcome(failure="no connection")
    assert math.isnan(result.latency_us.p99)
    values = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert values["latency_us"] == dict.fromkeys(("mean", "p50", "p90", "p99", "p999")) | {"max": 0}
    assert values["throughput_rps"] == 0
    assert values["client_limited"] is False


def test_json_holds_what_scripts_rely_on():
    server = ServerFigures({"queue": 3.0}, 2.5, {1: 4, 32: 1}, None)
    values = json.loads(json.dumps(outcome(*STEADY, server=server).to_json(), allow_nan=False))
    assert values.keys() >= NAMES
    assert values["server"] == {
        "stages_us": {"queue": 3.0},
        "mean_batch_rows": 2.5,
        "batch_rows": {"1": 4, "32": 1},
        "cpu_us_per_request": None,
    }
    assert [point["answered_rps"] for point in values["timeline"]] == [400] * 4
    assert "histogram" not in values


def test_the_timeline_has_a_point_per_interval_and_none_for_an_empty_one():
    points = outcome(*STEADY, Interval(1.0, 1.0)).timeline
    assert [point.at_s for point in points] == [0.25, 0.5, 0.75, 1.0]
