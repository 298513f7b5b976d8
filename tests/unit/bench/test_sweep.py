import json

import numpy as np
import pytest

from bench.slices import ClosedLoop, OpenLoop, Recording, ServerFigures, Slice
from bench.sweep import read_levels, run, slices
from serving.errors import ConfigError
from tests.support.virtual_servers import VirtualServer

TEMPLATE = Slice(load=OpenLoop(rate_per_s=1.0, duration_s=2.0, arrivals="constant", seed=4), slo_ms=5.0)


@pytest.mark.parametrize(
    ("text", "levels"),
    [
        ("100", (100,)),
        ("100, 200,400", (100, 200, 400)),
        ("100..400..100", (100, 200, 300, 400)),
        ("100..399..100", (100, 200, 300)),
        ("0.1..0.3..0.1", (0.1, 0.2, pytest.approx(0.3))),
        ("100..1000..x2", (100, 200, 400, 800)),
        ("1..1000..x10", (1, 10, 100, 1000)),
        ("5..5..x2", (5,)),
    ],
)
def test_levels_are_a_list_or_a_range(text, levels):
    assert read_levels(text) == levels


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a list as in 100,200,400"),
        ("100..200", "expected a list"),
        ("1..2..3..4", "expected a list"),
        ("100..200..x1", "expected a list"),
        ("100..200..0", "expected a list"),
        ("200..100..10", "expected a list"),
        ("0..100..10", "expected a list"),
        ("100,nan", "not above 0"),
        ("0,100", "not above 0"),
        ("1..inf..1", "expected a list"),
        ("200,100", "do not ascend"),
        ("100,100", "do not ascend"),
        ("1..1000000..1", "are 201, expected at most 200"),
    ],
)
def test_what_are_no_levels_is_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        read_levels(text)


def test_rates_are_swept_in_the_template_s_manner():
    swept = slices(TEMPLATE, rates=[10.0, 20.0])
    assert [slice_.load.rate_per_s for slice_ in swept] == [10, 20]
    assert {(slice_.load.arrivals, slice_.load.seed, slice_.slo_ms) for slice_ in swept} == {("constant", 4, 5.0)}


def test_concurrencies_are_swept_in_a_closed_loop():
    closed = slices(TEMPLATE, concurrencies=[1.0, 8.0])
    assert [slice_.load for slice_ in closed] == [ClosedLoop(concurrency=count, duration_s=2.0) for count in (1, 8)]
    assert slices(closed[0], rates=[3.0])[0].load == OpenLoop(rate_per_s=3.0, duration_s=2.0)


def test_a_sweep_of_neither_or_both_is_refused():
    for levels in ({}, {"rates": [1.0], "concurrencies": [1.0]}):
        with pytest.raises(ConfigError, match="rates or concurrencies; give one of them"):
            slices(TEMPLATE, **levels)
    with pytest.raises(ConfigError, match=r"concurrency = 1.5, expected a whole number"):
        slices(TEMPLATE, concurrencies=[1.5])


def test_every_level_has_an_outcome():
    server = VirtualServer(lambda count: np.full(count, 1e-3))
    seen = []

    def measure(slice_):
        recording = server.measure(slice_)
        recording.server = ServerFigures(mean_batch_rows=slice_.load.rate_per_s)
        return recording

    sweep = run(measure, slices(TEMPLATE, rates=[100.0, 500.0, 2000.0]), rows=4, on_outcome=seen.append)
    assert [outcome.throughput_rps for outcome in sweep.outcomes] == [100, 500, pytest.approx(1000, rel=0.02)]
    assert [outcome.server.mean_batch_rows for outcome in sweep.outcomes] == [100, 500, 2000]
    assert [outcome.rows for outcome in sweep.outcomes] == [4] * 3
    assert seen == list(sweep.outcomes)
    assert sweep.failure is None


def test_a_failure_ends_the_sweep_and_keeps_what_was_found():
    server = VirtualServer(lambda count: np.full(count, 1e-3))

    def measure(slice_):
        return Recording(slice_, failure="gone") if slice_.load.rate_per_s == 200 else server.measure(slice_)

    sweep = run(measure, slices(TEMPLATE, rates=[100.0, 200.0, 300.0]))
    assert ([outcome.throughput_rps for outcome in sweep.outcomes], sweep.failure) == ([100, 0], "gone")
    assert json.loads(json.dumps(sweep.to_json(), allow_nan=False))["failure"] == "gone"
