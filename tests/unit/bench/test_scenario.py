import dataclasses
import tomllib

import pytest

from bench.scenario import Scenario
from bench.slices import ClosedLoop, OpenLoop, Slice
from serving.config import build
from serving.errors import ConfigError

FIELDS = [pytest.param(item, id=item.name) for item in dataclasses.fields(Scenario)]


def write(tmp_path, text):
    path = tmp_path / "scenario.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("item", FIELDS)
def test_every_option_has_a_help_text_and_keeps_to_its_own_bounds(item):
    assert item.metadata["help"].endswith(".")
    default = list(item.default) if isinstance(item.default, tuple) else item.default
    assert getattr(build(Scenario, {item.name: default}), item.name) == item.default


def test_a_file_becomes_a_slice(tmp_path):
    path = write(tmp_path, 'model = "fraud"\nrate = 2000\nslo_ms = 20\ntimeout_ms = 500\nseed = 3\nwarm_up_s = 1')
    scenario = Scenario.of({}, path)
    assert scenario.model == "fraud"
    load = OpenLoop(rate_per_s=2000.0, duration_s=10.0, arrivals="poisson", seed=3)
    assert scenario.to_slice(1) == Slice(load=load, target=1, warm_up_s=1, timeout_s=0.5, slo_ms=20)


def test_concurrency_makes_a_closed_loop():
    scenario = Scenario.of({"model": "m", "concurrency": 8})
    assert scenario.to_slice().load == ClosedLoop(concurrency=8, duration_s=10.0)
    assert scenario.to_slice().slo_ms is None
    assert scenario.to_slice().timeout_s is None


def test_what_is_given_beats_the_file(tmp_path):
    path = write(tmp_path, 'model = "m"\nconcurrency = 8\nrows = 4')
    scenario = Scenario.of({"rate": 100.0, "rows": None, "seed": 7}, path)
    assert (scenario.rate, scenario.concurrency, scenario.rows, scenario.seed) == (100, 0, 4, 7)


def test_strings_are_read_as_flags_and_variables_hold_them():
    assert Scenario.of({"model": "m", "rate": "2e3"}).rate == 2000


def test_paths_in_a_file_are_relative_to_it(tmp_path):
    path = write(tmp_path, 'model = "m"\npayload = "rows.npy"\narrivals = "trace:day.txt"')
    scenario = Scenario.of({}, path)
    assert scenario.payload_file == tmp_path / "rows.npy"
    load = scenario.to_slice().load
    assert (load.arrivals, load.trace, load.rate_per_s) == ("trace", tmp_path / "day.txt", 0)
    assert Scenario.of({"payload": "rows.npy"}, path).payload == "rows.npy"


def test_shapes_are_by_input():
    scenario = Scenario.of({"model": "m", "shapes": ["tokens:128", "image:3,8,8"]})
    assert scenario.shapes_by_input() == {"tokens": (128,), "image": (3, 8, 8)}
    assert scenario.payload_file is None


def test_a_load_may_be_exchanged():
    closed = Scenario(model="m", concurrency=8)
    assert closed.with_rate(5.0) == Scenario(model="m", rate=5.0)
    assert closed.with_rate(5.0).with_concurrency(8) == closed


def test_a_scenario_is_written_as_it_is_read(tmp_path):
    scenario = Scenario(model='a "b"', rate=10.5, shapes=("x:3", "y:4"), payload="/rows.npz", seed=1 << 40)
    text = scenario.to_toml()
    assert Scenario.of({}, write(tmp_path, text)) == scenario
    assert tomllib.loads(text).keys() == {"model", "rate", "shapes", "payload", "seed"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("modle = 'm'", "scenario.toml: unknown key 'modle'; did you mean 'model'?"),
        ("rate = 'fast'", "scenario.toml: rate = 'fast', expected a number"),
        ("rate = nan", "rate = nan, expected at least 0"),
        ("rows = 0", "rows = 0, expected at least 1"),
        ("rate = 1\nconcurrency = 1", "rate = 1 and concurrency = 1; give one of them"),
        ("arrivals = 'burst'", "arrivals = 'burst', expected constant, .*did you mean 'bursty'"),
        ("arrivals = 'trace'", "arrivals = 'trace', expected constant, poisson, bursty or trace:FILE"),
        ("arrivals = 'trace:'", "arrivals = 'trace:', expected"),
        ("arrivals = 'trace:x'\nconcurrency = 1", "a closed loop sends when an answer comes"),
        ("shapes = ['x']", "shape 'x', expected an input and its dimensions"),
        ("client = 'curl'", "client = 'curl', expected one of native, grpcio"),
        ("rate = ", "not valid TOML"),
        ("rate = 1", "no model is named"),
    ],
)
def test_a_file_with_a_mistake_is_refused(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        Scenario.of({}, write(tmp_path, text))


def test_a_mistake_in_what_is_given_is_not_laid_on_the_file(tmp_path):
    with pytest.raises(ConfigError, match=r"^rows = 0"):
        Scenario.of({"rows": 0}, write(tmp_path, "model = 'm'"))


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        Scenario.of({}, tmp_path / "none.toml")


def test_a_scenario_without_a_load_is_no_slice():
    with pytest.raises(ConfigError, match="no load is given; give --rate R"):
        Scenario(model="m").to_slice()
