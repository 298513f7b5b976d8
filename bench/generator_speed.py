"""What the load generator costs, and what it can offer from one core: `python -m bench.generator_speed`.

1-row requests of 4 float32 at Poisson moments, against this server on its native transport with about the cheapest
model there is. Generator and server take a core each; what a line shows of one is only as good as the other keeps up,
so the generator's own cost is the CPU time per request of its thread.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

from bench.generator import Generator
from bench.load import penstock, write_increment
from bench.slices import ClosedLoop, OpenLoop, Recording, Slice, Target
from serving.transport.client import infer_message
from serving.types import Datatype

RATES = (1_000, 10_000, 50_000, 100_000, 150_000)
CONCURRENCIES = (64, 512)


def main() -> None:
    """Measure and print one line per load."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--connections", type=int, default=8, help="default 8")
    parser.add_argument("--duration-s", type=float, default=3.0, help="of each load (default 3)")
    parser.add_argument("--client", default="native", choices=("native", "grpcio"))
    parser.add_argument("--rates", type=float, nargs="*", default=RATES, help="requests per second")
    options = parser.parse_args()
    row = infer_message("increment", {"x": (Datatype.FP32, np.ones((1, 4), np.float32))}).SerializeToString()
    loads: list[OpenLoop | ClosedLoop] = [
        OpenLoop(rate_per_s=rate, duration_s=options.duration_s) for rate in options.rates
    ]
    loads += [ClosedLoop(concurrency=places, duration_s=options.duration_s) for places in CONCURRENCIES]
    with tempfile.TemporaryDirectory() as folder:
        write_increment(Path(folder), "increment", 4)
        with (
            penstock(Path(folder)) as server,
            Generator(
                [Target("127.0.0.1", server.port)], [[row]], connections=options.connections, client=options.client
            ) as generator,
        ):
            for load in loads:
                _print(generator.run(Slice(load=load, warm_up_s=0.5), lambda _: None))


def _print(recording: Recording) -> None:
    load, total = recording.slice.load, recording.total
    name = f"{load.rate_per_s:,.0f}/s" if isinstance(load, OpenLoop) else f"closed, {load.concurrency} places"
    busy = total.busy_s / max(total.end_s - total.begin_s, 1e-9)
    figures = (
        f"{histogram.quantile_ns(q) / 1e3:7,.0f}" for histogram in (total.lag, total.latency) for q in (0.5, 0.99)
    )
    lag_p50, lag_p99, p50, p99 = figures
    print(
        f"{name:20} sent {total.sent / load.duration_s:9,.0f}/s  answered {total.answered / load.duration_s:9,.0f}/s  "
        f"{total.busy_s / max(total.sent, 1) * 1e6:6.2f} us of CPU per request  busy {busy:4.0%}  "
        f"lag us p50 {lag_p50} p99 {lag_p99}  latency us p50 {p50} p99 {p99}"
        + (f"  {recording.failure}" if recording.failure else ""),
        flush=True,
    )


if __name__ == "__main__":
    main()
