"""Twice the capacity with an objective, and what comes after it: `python -m bench.overload`.

A network is served by one instance of one thread; the load generator has the last core for itself. A round measures the
capacity, the best rate of answers in time that closed loops get, and then sends requests at twice that (Poisson, open
loop), and at three tenths of it from one moment on. Printed: goodput over capacity, the latency of what was answered,
how soon and how the others were refused (a stock client asks beside the load), the longest queue, by how much the
server's memory grew, and how soon after the load has fallen everybody is let in and in time again. The status is 1
when the median over the rounds breaks a promise.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench import cores
from bench.generator.handle import Generator
from bench.load import Target as Server
from bench.load import penstock
from bench.networks import write_network
from bench.outcome import Outcome
from bench.prober import Prober, Refusals
from bench.session import OnInterval
from bench.slices import ClosedLoop, Interval, OpenLoop, Recording, Slice, Target
from serving.pb import penstock_pb2 as pb
from serving.transport.client import Client, infer_message
from serving.transport.monitor import MONITOR_SERVICE
from serving.types import Datatype

WIDTHS = (64, 4096, 4096, 4096, 64)
IN_FLIGHT = (32, 64, 128)
CLOSED_S, AFTER_S, WARM_UP_S = 2.0, 3.0, 1.0
OVERLOAD, AFTERWARDS = 2.0, 0.3
GOODPUT, REFUSAL_MS, RECOVERY_S = 0.85, 5.0, 1.0
"""What is promised: goodput over capacity at least, the median time of a refusal and of the recovery at most."""


@dataclass(frozen=True, slots=True)
class Round:
    """What one round has shown: rates per second, latencies in ms of what was answered under overload."""

    capacity: float
    goodput: float
    p50_ms: float
    p99_ms: float
    longest_queue: int
    grown_mib: float
    recovery_s: float
    refusals: Refusals

    def __str__(self) -> str:
        return (
            f"capacity {self.capacity:6,.0f}/s   goodput {self.goodput / self.capacity:.2f} of it   "
            f"p50 {self.p50_ms:.1f} ms, p99 {self.p99_ms:.1f} ms   queue at most {self.longest_queue} rows, "
            f"{self.grown_mib:+.1f} MiB   recovered after {self.recovery_s:.2f} s\n  refused: {self.refusals}"
        )


class Bench:
    """A server under test and what loads it."""

    def __init__(self, server: Server, generator: Generator, client: Client, slo_ms: float) -> None:
        self._server = server
        self._generator = generator
        self._client = client
        self._slo_ms = slo_ms

    def round(self, trace: Path, message: bytes, *, seconds: float, seed: int) -> Round:
        """Measure once; arrivals are written to `trace`."""
        closed = [self._run(ClosedLoop(concurrency=count, duration_s=CLOSED_S)) for count in IN_FLIGHT]
        capacity = max(Outcome.of(recording, 1).goodput_rps for recording in closed)
        np.save(trace, step_times(((OVERLOAD * capacity, WARM_UP_S + seconds), (AFTERWARDS * capacity, AFTER_S)), seed))
        resident, longest_queue = self._server.process.memory_info().rss, 0
        with Prober(self._server.port, message) as prober:

            def look(interval: Interval) -> None:
                nonlocal longest_queue
                longest_queue = max(longest_queue, self.report().queued_rows)
                if interval.end_s >= seconds:
                    prober.stop()

            load = OpenLoop(rate_per_s=0.0, duration_s=seconds + AFTER_S, arrivals="trace", trace=trace)
            recording = self._run(load, look)
        over = Recording(recording.slice, [each for each in recording.intervals if each.end_s <= seconds]).total
        return Round(
            capacity=capacity,
            goodput=over.in_slo / max(over.end_s - over.begin_s, 1e-9),
            p50_ms=over.latency.quantile_ns(0.5) / 1e6,
            p99_ms=over.latency.quantile_ns(0.99) / 1e6,
            longest_queue=longest_queue,
            grown_mib=(self._server.process.memory_info().rss - resident) / 2**20,
            recovery_s=recovered_after_s(recording.intervals, seconds),
            refusals=prober.refusals,
        )

    def report(self) -> pb.ServableBatching:
        """Ask the server what it has learnt of its one model."""
        answer = self._client.call(
            "BatchingReport", pb.BatchingReportRequest(), pb.BatchingReportResponse, service=MONITOR_SERVICE
        )
        return answer.servables[0]

    def _run(self, load: OpenLoop | ClosedLoop, look: OnInterval = lambda _: None) -> Recording:
        recording = self._generator.run(Slice(load=load, warm_up_s=WARM_UP_S, slo_ms=self._slo_ms), look)
        if recording.failure is not None:
            sys.exit(f"a slice ended before its time: {recording.failure}")
        return recording


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slo-ms", type=float, default=200, help="the objective (default 200)")
    parser.add_argument("--seconds", type=float, default=8, help="of overload in a round (default 8)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of about 25 s (default 5)")
    options = parser.parse_args()
    config = f"slo_ms = {options.slo_ms}\n[session]\nintra_op_threads = 1\n"
    row = {"x": (Datatype.FP32, np.random.default_rng(0).random((1, WIDTHS[0]), np.float32))}
    message = infer_message("network", row).SerializeToString()
    with tempfile.TemporaryDirectory() as folder:
        write_network(Path(folder), "network", WIDTHS, config=config)
        with (
            penstock(Path(folder), "--calibration-dir", f"{folder}/.calibration") as server,
            cores.running_on(cores.for_generator()),
            Client(f"127.0.0.1:{server.port}") as client,
            Generator([Target("127.0.0.1", server.port)], [[message]]) as generator,
        ):
            bench, rounds = Bench(server, generator, client, options.slo_ms), list[Round]()
            for seed in range(options.rounds):
                trace = Path(folder) / "arrivals.npy"
                rounds.append(bench.round(trace, message, seconds=options.seconds, seed=seed))
                print(rounds[-1], flush=True)
            print(learnt(bench.report()))
    sys.exit(verdict(rounds, options.slo_ms))


def step_times(steps: Sequence[tuple[float, float]], seed: int) -> NDArray[np.float64]:
    """Return moments in s of Poisson arrivals, at each rate per second for so many seconds, and begin and end."""
    random = np.random.default_rng(seed)
    moments, begin_s = [np.zeros(1)], 0.0
    for rate_per_s, duration_s in steps:
        count = random.poisson(rate_per_s * duration_s)
        moments.append(begin_s + np.sort(random.random(count)) * duration_s)
        begin_s += duration_s
    return np.concatenate([*moments, np.array([begin_s])])


def recovered_after_s(intervals: Sequence[Interval], fall_s: float) -> float:
    """Return how long after the load fell the last interval ends in which somebody was refused or late."""
    bad = [each.end_s for each in intervals if each.errors or each.in_slo < each.answered]
    return max(0.0, max(bad, default=0.0) - fall_s)


def learnt(report: pb.ServableBatching) -> str:
    """Say what the server has learnt, and whether batches take what it thinks."""
    sizes = ", ".join(f"{each.rows}: {each.mean_us / 1e3:.1f}" for each in report.service_times)
    refused = ", ".join(f"{each.count} {each.reason}" for each in report.rejections)
    took = report.actual_s / report.expected_s if report.expected_s else float("nan")
    return f"learnt, rows: ms: {sizes}; batches took {took:.2f} of what was expected; turned away: {refused or 0}"


def verdict(rounds: Sequence[Round], slo_ms: float) -> int:
    """Print the medians; return 1 when one breaks a promise."""
    goodput = statistics.median(one.goodput / one.capacity for one in rounds)
    p99_ms = statistics.median(one.p99_ms for one in rounds)
    refusal_ms = statistics.median(one.refusals.median_ms for one in rounds)
    recovery_s = statistics.median(one.recovery_s for one in rounds)
    codes = {code for one in rounds for code in one.refusals.codes}
    silent = sum(len(one.refusals.took_ms) - one.refusals.with_pushback for one in rounds)
    rules = [
        (goodput >= GOODPUT, f"goodput {goodput:.2f} of capacity, at least {GOODPUT}"),
        (p99_ms <= slo_ms, f"p99 {p99_ms:.1f} ms, at most {slo_ms:g}"),
        (refusal_ms <= REFUSAL_MS, f"refused in {refusal_ms:.1f} ms, at most {REFUSAL_MS:g}"),
        (codes <= {"RESOURCE_EXHAUSTED"} and not silent, f"codes {sorted(codes)}, {silent} refusals without pushback"),
        (recovery_s <= RECOVERY_S, f"recovered after {recovery_s:.2f} s, at most {RECOVERY_S:g}"),
    ]
    for holds, text in rules:
        print(f"{'holds ' if holds else 'BROKEN'}  {text}")
    return int(not all(holds for holds, _ in rules))


if __name__ == "__main__":
    main()
