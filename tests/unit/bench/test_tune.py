import dataclasses
import itertools
import json
import tomllib

import numpy as np
import pytest

from bench.slices import INTERRUPTED, ClosedLoop, Recording, Slice
from bench.tune import SETTINGS_MAX, Setting, frontier, model_toml, settings_for, tune
from serving.config import ModelConfig, build
from serving.errors import ConfigError
from tests.support.virtual_servers import recording

TEMPLATE = Slice(load=ClosedLoop(concurrency=32, duration_s=1.0))


class Machine:
    """Throughput and latency by setting, as `speed` gives them (requests/s, ms), with some noise between slices."""

    def __init__(self, speed, *, seed=0, broken=()):
        self.asked = []
        self._speed = speed
        self._random = np.random.default_rng(seed)
        self._broken = broken

    def measure(self, setting, slice_):
        self.asked.append((setting, slice_.load.duration_s))
        if setting in self._broken:
            return Recording(slice_, failure="the model does not load")
        rate, latency_ms = self._speed(setting)
        count = int(rate * slice_.load.duration_s * self._random.normal(1, 0.005))
        times = np.linspace(0, slice_.load.duration_s, count, endpoint=False)
        return recording(slice_, times, np.full(count, latency_ms / 1e3 * self._random.normal(1, 0.005)))


def two_cores(setting):
    """Return what a heavy model might do: two instances of one thread are best, batches of 32 rows good enough."""
    cores = min(2, setting.instances * (setting.intra_op_threads or 1))
    efficiency = 0.8 if setting.intra_op_threads > 1 else 1.0
    batching = {1: 0.3, 8: 0.7, 32: 1.0, 128: 1.0, 256: 1.0}[setting.batch_rows_max]
    return 1000 * cores * efficiency * batching, setting.batch_rows_max / 4 + 10


def config(**tables):
    return build(ModelConfig, tables)


def test_settings_do_not_exceed_the_cores_and_begin_with_the_current_one():
    settings = settings_for(2, ModelConfig())
    assert settings[0] == Setting(1, 0, 256)
    assert {(item.instances, item.intra_op_threads) for item in settings[1:]} == {(1, 1), (1, 2), (2, 1)}
    assert len(settings) == len(set(settings)) == 3 * 5  # one of the grid is the current one


@pytest.mark.parametrize("cores", [1, 3, 6, 16, 96])
def test_settings_are_bounded_on_any_machine(cores):
    settings = settings_for(cores, ModelConfig())
    assert 5 <= len(settings) <= SETTINGS_MAX
    assert len(set(settings)) == len(settings)
    assert all(setting.instances * setting.intra_op_threads <= cores for setting in settings[1:])
    assert {setting.batch_rows_max for setting in settings} == {1, 8, 32, 128, 256}


def test_a_batch_holds_a_request_and_the_queue_holds_a_batch():
    limited = config(batching={"batch_rows_max": 64, "queue_rows_max": 100})
    assert {item.batch_rows_max for item in settings_for(2, limited, rows=20)} == {32, 64}
    with pytest.raises(ConfigError, match="requests of 101 rows fit in no batch of up to 100 rows"):
        settings_for(2, limited, rows=101)


def test_a_model_without_rows_is_not_tuned_for_batches():
    assert {item.batch_rows_max for item in settings_for(4, ModelConfig(), batchable=False)} == {256}


def test_a_model_that_runs_some_sizes_only_keeps_them():
    padded = config(batching={"batch_rows_allowed": [4, 16]})
    settings = settings_for(4, padded)
    assert {item.batch_rows_max for item in settings} == {16}
    text = model_toml({"batching": {"batch_rows_allowed": [4, 16]}}, settings[-1])
    assert build(ModelConfig, tomllib.loads(text)).batching == padded.batching


def test_the_best_setting_is_found():
    machine = Machine(two_cores)
    tuning = tune(machine.measure, settings_for(2, ModelConfig()), template=TEMPLATE)
    assert tuning.best.setting == Setting(2, 1, 32)
    assert tuning.current.setting == Setting(1, 0, 256)
    assert tuning.current.number == tuning.best.number


def test_fewer_settings_run_for_longer_round_by_round():
    machine = Machine(two_cores)
    tune(machine.measure, settings_for(16, ModelConfig()), template=TEMPLATE)
    durations = [duration_s for _, duration_s in machine.asked]
    counts = [durations.count(duration_s) for duration_s in sorted(set(durations))]
    assert sorted(set(durations)) == [1, 2, 4, 8]
    assert counts[0] == 64
    assert all(later <= earlier / 2 for earlier, later in itertools.pairwise(counts))


def test_an_objective_comes_before_throughput():
    tuning = tune(
        Machine(two_cores).measure,
        settings_for(2, ModelConfig()),
        template=dataclasses.replace(TEMPLATE, slo_ms=14.0),
    )
    assert tuning.best.setting == Setting(2, 1, 8)


def test_an_objective_that_none_keeps_is_missed_by_little():
    tuning = tune(
        Machine(two_cores).measure, settings_for(2, ModelConfig()), template=dataclasses.replace(TEMPLATE, slo_ms=1.0)
    )
    assert tuning.best.setting.batch_rows_max == 1


def test_the_frontier_holds_what_no_other_beats():
    trials = tune(Machine(two_cores).measure, settings_for(2, ModelConfig()), template=TEMPLATE).trials
    front = frontier(trials)
    for trial in trials:
        beaten = [other for other in front if other.outcome.throughput_rps >= trial.outcome.throughput_rps
                  and other.outcome.latency_us.p99 <= trial.outcome.latency_us.p99]  # fmt: skip
        assert beaten or trial in front
    rates = [trial.outcome.throughput_rps for trial in front]
    assert rates == sorted(rates)
    assert [trial.outcome.latency_us.p99 for trial in front] == sorted(trial.outcome.latency_us.p99 for trial in front)


def test_settings_that_fail_are_out_and_their_trials_kept():
    settings = settings_for(2, ModelConfig())
    broken = {setting for setting in settings if setting.instances == 2} | {settings[0]}
    machine = Machine(two_cores, broken=broken)
    tuning = tune(machine.measure, settings, template=TEMPLATE)
    assert tuning.best.setting == Setting(1, 2, 32)
    assert sum(trial.outcome.failure is not None for trial in tuning.trials) == len(broken)
    assert tuning.current.outcome.failure == "the model does not load"
    assert not {trial.setting for trial in tuning.frontier} & broken
    json.dumps(tuning.to_json(), allow_nan=False)


def test_an_interrupted_tuning_keeps_its_trials_and_recommends_nothing():
    machine = Machine(two_cores)
    settings = settings_for(2, config())

    def measure(setting, slice_):
        recorded = machine.measure(setting, slice_)
        if len(machine.asked) == 4:
            recorded.failure = INTERRUPTED
        return recorded

    found = tune(measure, settings, template=TEMPLATE)
    assert len(found.trials) == len(machine.asked) == 4
    assert found.frontier
    assert (found.best, found.failure) == (None, "interrupted")
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["failure"] == "interrupted"


def test_when_all_fail_there_is_no_best():
    settings = settings_for(2, ModelConfig())
    tuning = tune(Machine(two_cores, broken=set(settings)).measure, settings, template=TEMPLATE)
    assert tuning.best is None
    assert tuning.frontier == ()
    assert len(tuning.trials) == len(settings)


def test_the_same_seed_asks_in_the_same_order():
    first, second, third = Machine(two_cores), Machine(two_cores), Machine(two_cores)
    for machine, seed in ((first, 1), (second, 1), (third, 2)):
        tune(machine.measure, settings_for(2, ModelConfig()), template=TEMPLATE, seed=seed)
    assert first.asked == second.asked != third.asked


def test_a_model_toml_keeps_what_it_has():
    values = {"version_policy": "all", "batching": {"mode": "window", "queue_delay_us_max": 50, "batch_rows_max": 4},
              "session": {"providers": ["CPUExecutionProvider"]}}  # fmt: skip
    text = model_toml(values, Setting(2, 1, 32))
    assert tomllib.loads(text) == {
        "version_policy": "all",
        "batching": {"mode": "window", "queue_delay_us_max": 50, "batch_rows_max": 32},
        "session": {"providers": ["CPUExecutionProvider"], "intra_op_threads": 1},
        "instances": {"count": 2},
    }
    assert Setting.of(build(ModelConfig, tomllib.loads(text))) == Setting(2, 1, 32)


def test_a_model_toml_that_could_not_be_used_is_refused():
    with pytest.raises(ConfigError, match="a full batch could never be queued"):
        model_toml({"batching": {"queue_rows_max": 8}}, Setting(1, 1, 32))


def test_a_setting_is_read_by_people():
    assert str(Setting(2, 1, 32)) == "2 x 1 threads, 32 rows"
    assert str(Setting(1, 0, 256)) == "1 x threads by cores, 256 rows"
