"""Outcomes of runs that nobody ran: what reports show, made of seeded recordings."""

from collections import Counter
from datetime import UTC, datetime

import numpy as np

from bench.histogram import Histogram
from bench.outcome import Outcome
from bench.report.machine import Machine
from bench.report.views import (
    ComparisonView,
    Context,
    FrontierView,
    KneeView,
    PeersView,
    Probe,
    Ratio,
    Run,
    RunView,
    Setting,
    SweepView,
)
from bench.slices import ClosedLoop, Interval, OpenLoop, Recording, ServerFigures, Slice

MACHINE = Machine(
    cpu="Example CPU @ 2.50GHz",
    cores=8,
    cores_usable=2.0,
    memory_gib=15.6,
    system="Debian GNU/Linux 12 (bookworm)",
    kernel="Linux 6.1.0 x86_64",
    python="CPython 3.11.9",
    packages={"penstock": "0.1.0", "numpy": "2.4.6"},
    governor=None,
    load_1min=0.12,
)
SERVER = ServerFigures(
    stages_us={"queue": 210.0, "compute_input": 12.0, "compute_infer": 340.0, "compute_output": 9.0},
    mean_batch_rows=4.21,
    batch_rows={1: 310, 2: 800, 3: 1600, 4: 2400, 5: 1900, 6: 1100, 7: 600, 8: 450},
    cpu_us_per_request=38.4,
)


def context(**changes):
    """How a result came about."""
    values = {
        "command": "penstock bench run --model iris --rate 1000 --duration-s 10",
        "subject": "model iris on 127.0.0.1:8001",
        "scenario": {"model": "iris", "rows": 1, "arrivals": "poisson", "slo_ms": 5.0},
        "seed": 7,
        "machine": MACHINE,
        "commit": "0123456789abcdef0123456789abcdef01234567-dirty",
        "at": datetime(2025, 3, 4, 5, 6, 7, tzinfo=UTC),
    }
    return Context(**(values | changes))


def interval(begin_s, *, length_s=0.25, rate=1000.0, middle_us=800.0, busy=0.3, lag_us=8.0, errors=None, seed=0):
    """A stretch with log-normal latency; a share of it is as slow as a stall makes it."""
    random = np.random.default_rng(seed)
    answered = int(rate * length_s)
    times_us = middle_us * np.exp(random.normal(0, 0.25, answered))
    times_us[random.random(answered) < 0.008] *= 6
    latency = Histogram.of((times_us * 1e3).astype(np.int64))
    return Interval(
        begin_s=begin_s,
        end_s=begin_s + length_s,
        sent=answered + sum((errors or {}).values()),
        answered=answered,
        in_slo=int((times_us < 5000).sum()),
        errors=Counter(errors or {}),
        latency=latency,
        lag=Histogram.of((random.exponential(lag_us * 1e3, answered)).astype(np.int64)),
        busy_s=busy * length_s,
    )


def outcome(
    *, rate=1000.0, concurrency=None, duration_s=10.0, server=SERVER, slo_ms=5.0, failure=None, unanswered=0, seed=0,
    **figures,
):  # fmt: skip
    """What a run found; `figures` are those of its intervals."""
    load = OpenLoop(rate_per_s=rate, duration_s=duration_s)
    load = ClosedLoop(concurrency=concurrency, duration_s=duration_s) if concurrency else load
    begins = np.arange(0, duration_s, 0.25)
    intervals = [interval(begin, rate=rate, seed=seed + index, **figures) for index, begin in enumerate(begins)]
    recording = Recording(Slice(load=load, slo_ms=slo_ms), intervals, unanswered, failure=failure, server=server)
    return Outcome.of(recording, 1)


def silent(failure=None):
    """A run in which nothing was answered."""
    asked = Slice(load=OpenLoop(rate_per_s=100, duration_s=1), slo_ms=5.0)
    recording = Recording(asked, [Interval(0.0, 1.0, sent=100)], unanswered=100, failure=failure)
    return Outcome.of(recording, 1)


def run_view(**changes):
    return RunView(Run("run", outcome(**changes)))


def sweep_view():
    return SweepView(
        tuple(
            Run(f"{rate:,}/s", outcome(rate=float(rate), middle_us=600 + rate**2 / 4e3, busy=rate / 5200, seed=rate))
            for rate in range(500, 5001, 500)
        )
    )


def knee_view():
    tried = [
        (1000, "passed"),
        (2000, "passed"),
        (4000, "failed"),
        (3000, "undecided"),
        (2800, "passed"),
        (3200, "failed"),
    ]
    probes = tuple(
        Probe(float(rate), float(np.exp(rate / 1400) * 1000), verdict) for rate, verdict in tried
    )  # fmt: skip
    runs = tuple(
        Run(f"{probe.rate_rps:,.0f}/s", outcome(rate=probe.rate_rps, middle_us=probe.p99_us / 2)) for probe in probes
    )
    return KneeView(
        objective_ms=8.5, rate_rps=2960.0, low_rps=2850.0, high_rps=3080.0, probes=probes, runs=runs,
        ended="the interval is narrow enough",
    )  # fmt: skip


def comparison_view(name_a="A", name_b="B"):
    random = np.random.default_rng(3)
    middles = {"throughput": 1.002, "latency p50": 1.08, "latency p99": 0.93, "CPU per request": 1.01}
    return ComparisonView(
        name_a=name_a,
        name_b=name_b,
        metrics={name: Ratio(middle, middle - 0.03, middle + 0.03) for name, middle in middles.items()},
        pairs={name: tuple(random.normal(middle, 0.07, 24)) for name, middle in middles.items()},
        runs=(Run(name_a, outcome()), Run(name_b, outcome(middle_us=870.0, seed=100))),
    )


def frontier_view():
    random = np.random.default_rng(5)
    points = [
        (
            f"{count} instances, {threads} threads, {rows} rows",
            800.0 * count**0.6 * rows**0.3,
            900.0 * count**0.7 * rows**0.5,
        )
        for count in (1, 2, 4)
        for threads in (1, 2)
        for rows in (1, 8, 32)
    ]
    points = [(label, rate * random.uniform(0.7, 1), p99 * random.uniform(1, 1.5)) for label, rate, p99 in points]
    best = {label for label, rate, p99 in points if not any(other[1] > rate and other[2] < p99 for other in points)}
    chosen = max(best)
    return FrontierView(
        tuple(Setting(label, rate, p99, label in best, label == chosen) for label, rate, p99 in points),
        model_toml="[instances]\ncount = 2\n\n[batching]\nbatch_rows_max = 32\n",
    )


def peers_view():
    return PeersView(
        (
            Run("penstock", outcome(rate=9000.0)),
            Run("MLServer", outcome(rate=900.0, middle_us=9000.0, server=ServerFigures())),
            Run("KServe", outcome(rate=1400.0, middle_us=5200.0, server=ServerFigures(cpu_us_per_request=640.0))),
        ),
        absent={"Triton": "no tritonserver on this machine"},
        settings={"penstock": "as shipped", "MLServer": "parallel_workers 0", "KServe": "no lines in the log"},
    )


VIEWS = {
    "run": run_view,
    "sweep": sweep_view,
    "knee": knee_view,
    "compare": comparison_view,
    "tune": frontier_view,
    "peers": peers_view,
}
