"""Which instances, threads and batch rows suit a model on this machine: trials in rounds, the frontier, a `model.toml`.

Successive halving (Jamieson and Talwalkar, Non-stochastic best arm identification, 2016): all settings run for a short
time, the better third goes on for twice as long, until a few have run for long. Every round runs in another order, so
that a drift of the machine does not fall on the same setting. The setting that the model has now stays to the end, to
be compared with. Pure: what runs a slice under a setting is given (`bench.tune_server`).
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tomli_w

from bench.outcome import Outcome
from bench.slices import INTERRUPTED, Recording, Slice
from serving.config import ModelConfig, build
from serving.errors import ConfigError

BATCH_ROWS = (1, 8, 32, 128, 256)
SETTINGS_MAX = 64
KEPT = 3
"""One in so many settings goes on to the next round."""
FINALISTS = 3
TIE = 0.02
"""Throughputs within this share of each other are taken as equal, and the shorter p99 decides."""


@dataclass(frozen=True, slots=True, order=True)
class Setting:
    """What is tuned: `instances.count`, `session.intra_op_threads` and `batching.batch_rows_max` of a `model.toml`."""

    instances: int
    intra_op_threads: int
    batch_rows_max: int

    @classmethod
    def of(cls, config: ModelConfig) -> "Setting":
        """Read what a model has now; 0 threads are the cores divided by the instances."""
        return cls(config.instances.count, config.session.intra_op_threads, config.batching.batch_rows_max)

    def __str__(self) -> str:
        threads = f"{self.intra_op_threads} threads" if self.intra_op_threads else "threads by cores"
        return f"{self.instances} x {threads}, {self.batch_rows_max} rows"


@dataclass(frozen=True, slots=True)
class Trial:
    """One slice under one setting."""

    setting: Setting
    number: int
    """Of the round, from 1 on."""
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Tuning:
    """All trials; the frontier, by ascending throughput; the best of the finalists, None when no trial was answered.

    A setting is on the frontier when no other has both more throughput and a shorter p99, by the longest trial of each.
    """

    trials: tuple[Trial, ...]
    frontier: tuple[Trial, ...]
    best: Trial | None
    current: Trial | None
    failure: str | None = None
    """Why it ended before its time; then there is no best, since too little was compared."""

    def to_json(self) -> dict[str, Any]:
        """Return the tuning as JSON holds it."""
        return {
            "trials": [_trial_json(trial) for trial in self.trials],
            "frontier": [dataclasses.asdict(trial.setting) for trial in self.frontier],
            "best": _trial_json(self.best) if self.best else None,
            "current": _trial_json(self.current) if self.current else None,
            "failure": self.failure,
        }


MeasureSetting = Callable[[Setting, Slice], Recording]
"""Runs a slice on a server under a setting; one that cannot be used gives a recording with a failure."""


def settings_for(cores: int, config: ModelConfig, *, rows: int = 1, batchable: bool = True) -> list[Setting]:
    """Return the settings worth trying on a machine: at most `SETTINGS_MAX`, the model's own first.

    Instances times threads do not exceed the cores, which onnxruntime only loses by. `rows` are those of a request; a
    batch must hold them, and the queue that the model has must hold a batch.
    """
    current = Setting.of(config)
    shares = [(instances, threads) for instances in _powers(cores) for threads in _powers(cores // instances)]
    is_free = batchable and not config.batching.batch_rows_allowed  # sizes that are allowed are the model's, not ours
    sizes = sorted({*BATCH_ROWS, current.batch_rows_max}) if is_free else [current.batch_rows_max]
    usable = [size for size in sizes if rows <= size <= config.batching.queue_rows_max]
    if not usable:
        raise ConfigError(f"requests of {rows} rows fit in no batch of up to {config.batching.queue_rows_max} rows; "
                          "raise batching.queue_rows_max, or lower --rows")  # fmt: skip
    grid = [Setting(*share, size) for share in shares for size in usable]
    others = [setting for setting in grid if not _same(setting, current, cores)]
    # Too many are thinned evenly; the grid is in order, so that every part of it stays.
    places = np.linspace(0, len(others) - 1, min(SETTINGS_MAX - 1, len(others))).astype(int)
    return [current, *(others[place] for place in places)]


def tune(
    measure: MeasureSetting,
    settings: Sequence[Setting],
    *,
    template: Slice,
    rows: int = 1,
    seed: int = 0,
    on_trial: Callable[[Trial], None] = lambda _: None,
) -> Tuning:
    """Try settings, the first of which is the current one. The first round's slices are as long as the template's.

    With the template's `slo_ms`, a setting whose p99 exceeds it is worse than any that keeps it. Settings that fail are
    out, and their trials are kept. An interrupted slice ends the tuning.
    """
    random = np.random.default_rng(seed)
    current = settings[0]
    trials: list[Trial] = []
    latest: dict[Setting, Trial] = {}
    alive, number = list(settings), 1
    while alive:
        slice_ = _lengthened(template, 2 ** (number - 1))
        for index in random.permutation(len(alive)):
            recording = measure(alive[index], slice_)
            trial = Trial(alive[index], number, Outcome.of(recording, rows))
            trials.append(trial)
            on_trial(trial)
            if recording.failure == INTERRUPTED:
                return Tuning(tuple(trials), tuple(frontier(list(latest.values()))), None, None, INTERRUPTED)
            latest[trial.setting] = trial
        ranked = _ranked([latest[setting] for setting in alive], template.slo_ms)
        is_last = len(alive) <= FINALISTS + 1
        alive = [] if is_last else _survivors(ranked, current)
        number += 1
    finals = _ranked([trial for trial in latest.values() if trial.number == number - 1], template.slo_ms)
    best = finals[0] if finals else None
    return Tuning(tuple(trials), tuple(frontier(list(latest.values()))), best, latest.get(current))


def frontier(trials: Sequence[Trial]) -> list[Trial]:
    """Return the trials that no other beats in both throughput and p99, by ascending throughput."""
    found: list[Trial] = []
    for trial in sorted(_usable(trials), key=lambda item: (-item.outcome.throughput_rps, item.outcome.latency_us.p99)):
        if not found or trial.outcome.latency_us.p99 < found[-1].outcome.latency_us.p99:
            found.append(trial)
    return found[::-1]


def model_toml(values: Mapping[str, Any], setting: Setting) -> str:
    """Return the text of a `model.toml` with a setting; all other keys of `values`, the model's own, are kept.

    Raises ConfigError when the result could not be used.
    """
    changed: dict[str, dict[str, int]] = {
        "batching": {"batch_rows_max": setting.batch_rows_max},
        "instances": {"count": setting.instances},
        "session": {"intra_op_threads": setting.intra_op_threads},
    }
    merged = dict(values) | {table: dict(values.get(table, {})) | keys for table, keys in changed.items()}
    build(ModelConfig, merged)
    return tomli_w.dumps(merged)


def _ranked(trials: Sequence[Trial], slo_ms: float | None) -> list[Trial]:
    """Sort from best to worst, without those that failed."""
    usable = _usable(trials)
    left = sorted(usable, key=lambda trial: (_misses(trial, slo_ms), -trial.outcome.throughput_rps))
    ranked: list[Trial] = []
    while left:
        # Of those that are as good as the best, the one with the shortest p99 comes first.
        best = left[0]
        ties = [trial for trial in left if _misses(trial, slo_ms) == _misses(best, slo_ms)
                and trial.outcome.throughput_rps >= (1 - TIE) * best.outcome.throughput_rps]  # fmt: skip
        ranked.append(min(ties, key=lambda trial: trial.outcome.latency_us.p99))
        left.remove(ranked[-1])
    return ranked


def _misses(trial: Trial, slo_ms: float | None) -> float:
    """Return by how much the p99 misses the objective; 0 when it keeps it."""
    return 0.0 if slo_ms is None else max(0.0, trial.outcome.latency_us.p99 / (slo_ms * 1e3) - 1)


def _usable(trials: Sequence[Trial]) -> list[Trial]:
    return [trial for trial in trials if trial.outcome.failure is None and trial.outcome.answered > 0]


def _survivors(ranked: Sequence[Trial], current: Setting) -> list[Setting]:
    kept = [trial.setting for trial in ranked[: max(FINALISTS, math.ceil(len(ranked) / KEPT))]]
    # A current setting that failed is not ranked, and is not tried again.
    return kept if current in kept or current not in {trial.setting for trial in ranked} else [*kept, current]


def _lengthened(template: Slice, factor: int) -> Slice:
    load = dataclasses.replace(template.load, duration_s=template.load.duration_s * factor)
    return dataclasses.replace(template, load=load)


def _powers(most: int) -> list[int]:
    """Return the powers of two up to a number, and the number."""
    powers = [1 << exponent for exponent in range(most.bit_length()) if 1 << exponent <= most]
    return sorted({*powers, most})


def _same(setting: Setting, current: Setting, cores: int) -> bool:
    """Whether a setting is the current one, whose 0 threads stand for the cores divided by the instances."""
    threads = current.intra_op_threads or max(1, cores // current.instances)
    return setting == dataclasses.replace(current, intra_op_threads=threads)


def _trial_json(trial: Trial) -> dict[str, Any]:
    return {"setting": dataclasses.asdict(trial.setting), "round": trial.number, "outcome": trial.outcome.to_json()}
