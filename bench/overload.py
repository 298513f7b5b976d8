"""Twice the capacity with an objective, and what comes after it: `python -m bench.overload`.

A network is served by one instance of one thread. Its capacity is what a closed loop gets. Then requests come at twice
that (Poisson, open loop), and then at three tenths. Printed: goodput over capacity, the latency of answered requests,
how the others ended, the longest queue, and how soon after the overload all answers are in time again.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

from bench.generator.handle import Generator
from bench.load import penstock
from bench.networks import write_network
from bench.slices import ClosedLoop, Interval, OpenLoop, Recording, Slice, Target
from serving.pb import penstock_pb2 as pb
from serving.transport.client import Client, infer_message
from serving.transport.monitor import MONITOR_SERVICE
from serving.types import Datatype

WIDTHS = (64, 4096, 4096, 4096, 64)
IN_FLIGHT = 128


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slo-ms", type=float, default=100, help="the objective (default 100)")
    parser.add_argument("--seconds", type=float, default=8, help="of overload (default 8)")
    options = parser.parse_args()
    config = f"slo_ms = {options.slo_ms}\n[session]\nintra_op_threads = 1\n"
    row = {"x": (Datatype.FP32, np.random.default_rng(0).random((1, WIDTHS[0]), np.float32))}
    message = infer_message("network", row).SerializeToString()
    with tempfile.TemporaryDirectory() as folder:
        write_network(Path(folder), "network", WIDTHS, config=config)
        with penstock(Path(folder)) as server, Generator([Target("127.0.0.1", server.port)], [[message]]) as generator:
            longest_queue = 0

            def look(_: Interval) -> None:
                nonlocal longest_queue
                longest_queue = max(longest_queue, report(server.port).queued_rows)

            def run(load: OpenLoop | ClosedLoop) -> Recording:
                return generator.run(Slice(load=load, warm_up_s=1.0, slo_ms=options.slo_ms), look)

            closed = run(ClosedLoop(concurrency=IN_FLIGHT, duration_s=4.0))
            capacity = closed.total.answered / 4.0
            print(f"capacity: {capacity:,.0f} requests/s with {IN_FLIGHT} in flight", flush=True)
            over = run(OpenLoop(rate_per_s=2 * capacity, duration_s=options.seconds))
            after = run(OpenLoop(rate_per_s=0.3 * capacity, duration_s=3.0))
            show(over, capacity, options.seconds, options.slo_ms)
            in_time = after.total.in_slo / max(1, after.total.sent)
            p99_ms = after.total.latency.quantile_ns(0.99) / 1e6
            print(f"longest queue: {longest_queue} rows; afterwards {in_time:.1%} in time, p99 {p99_ms:.1f} ms")


def show(over: Recording, capacity: float, seconds: float, slo_ms: float) -> None:
    """Print what came of the overload."""
    total = over.total
    p50_ms, p99_ms = (total.latency.quantile_ns(share) / 1e6 for share in (0.5, 0.99))
    print(f"at twice the capacity: goodput {total.in_slo / seconds / capacity:.2f} of capacity")
    print(f"answered: {total.answered}, p50 {p50_ms:.1f} ms, p99 {p99_ms:.1f} ms, objective {slo_ms:g} ms")
    print(f"others: {dict(total.errors) or 'none'}, {over.unanswered} unanswered, {over.unsent} never sent", flush=True)


def report(port: int) -> pb.ServableBatching:
    """Ask the server for its batching report of the one model."""
    with Client(f"127.0.0.1:{port}") as client:
        answer = client.call(
            "BatchingReport", pb.BatchingReportRequest(), pb.BatchingReportResponse, service=MONITOR_SERVICE
        )
    return answer.servables[0]


if __name__ == "__main__":
    main()
