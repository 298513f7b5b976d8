"""grpc.aio on uvloop against grpcio's threaded server, same services behind both: `python -m bench.grpcio_variants`.

1-row requests of a random forest of 100 trees on 30 features, load from h2load. Interleaved rounds; the median of each.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

from bench.load import Load, Target, forest_row, h2load, penstock, threaded, write_forest

LEVELS = ((1, 1), (1, 16), (4, 16))


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (default 5)")
    parser.add_argument("--requests", type=int, default=4000, help="requests per round and level (default 4000)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_forest(Path(folder))
        with penstock(Path(folder), "--transport", "grpcio") as aio, threaded(Path(folder), 16) as threads:
            variants = {"aio on uvloop": aio, "threaded, 16": threads}
            for level in LEVELS:
                _print_level(variants, level, options.rounds, options.requests)


def _print_level(variants: dict[str, Target], level: tuple[int, int], rounds: int, requests: int) -> None:
    measured: dict[str, list[Load]] = {name: [] for name in variants}
    count = requests // 4 if level == (1, 1) else requests
    for _ in range(rounds):
        for name, target in variants.items():
            measured[name].append(h2load(target, count, *level, forest_row()))
    for name, loads in measured.items():
        rate = statistics.median(load.requests_per_s for load in loads)
        cpu = statistics.median(load.server_cpu_us for load in loads)
        batch = statistics.median(load.mean_batch_rows for load in loads)
        print(
            f"{level[0]} connections x {level[1]:2} streams  {name:14} {rate:8,.0f} requests/s  "
            f"{cpu:6.0f} us of server CPU per request  mean batch {batch:.2f} rows",
            flush=True,
        )


if __name__ == "__main__":
    main()
