"""Whether batches are as large as pays: `python -m bench.paying_batches`.

Closed loops at several levels of concurrency, interleaved, on one model for which batches do not pay (the shufflenet
graph of the onnx package, one instance of one thread for each core) and on one for which they do (a 64-512-512-10
network, one instance of one thread). The first must keep at least 0.97 of the rate at which its instances are just
busy, at every level; the second must take larger batches where more rows wait, and answer more rows per second with
them. The status is 1 when a median over the rounds breaks a rule.
"""

import argparse
import statistics
import sys
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from bench.light_models import open_batch
from bench.networks import write_network
from bench.outcome import Outcome
from bench.served_models import ServedModels, served
from bench.slices import ClosedLoop
from serving.cores import usable_cores

CONVOLUTIONAL, DENSE = "shufflenet", "network"
WIDTHS = (64, 512, 512, 10)
FACTORS = (1, 2, 4, 8, 16)
"""Concurrency of the convolutional model, in instances."""
IN_FLIGHT = (1, 16, 64, 256)
KEPT = 0.97


@dataclass(frozen=True, slots=True)
class Speed:
    """Rows per second, and rows per batch, on average."""

    rows_per_s: float
    batch_rows: float


Speeds = dict[int, list[Speed]]
"""By concurrency, one for each round."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (default 5)")
    parser.add_argument("--seconds", type=float, default=4, help="of each level in a round (default 4)")
    options = parser.parse_args()
    instances = usable_cores()
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder)
        write_convolutional(models, instances)
        write_network(models, DENSE, WIDTHS, config="[session]\nintra_op_threads = 1\n")
        convolutional: Speeds = defaultdict(list)
        dense: Speeds = defaultdict(list)
        with served(models, (CONVOLUTIONAL, DENSE)) as models_served:
            for _ in range(options.rounds):
                for factor in FACTORS:
                    speed = measure(models_served, CONVOLUTIONAL, factor * instances, options.seconds)
                    convolutional[factor * instances].append(speed)
                for count in IN_FLIGHT:
                    dense[count].append(measure(models_served, DENSE, count, options.seconds))
    sys.exit(verdict(convolutional, dense))


def write_convolutional(models: Path, instances: int) -> None:
    """Write the model for which batches do not pay."""
    version = models / CONVOLUTIONAL / "1"
    version.mkdir(parents=True)
    (version / "model.onnx").write_bytes(open_batch("shufflenet"))
    config = f"[instances]\ncount = {instances}\n[session]\nintra_op_threads = 1\n"
    (models / CONVOLUTIONAL / "model.toml").write_text(config)


def measure(models: ServedModels, name: str, concurrency: int, seconds: float) -> Speed:
    """Keep so many requests of one row in flight, and print what came of it."""
    recording = models.run(name, ClosedLoop(concurrency=concurrency, duration_s=seconds))
    speed = Speed(Outcome.of(recording, 1).throughput_rps, recording.server.mean_batch_rows or 0.0)
    figures = f"{speed.rows_per_s:9,.0f} rows/s {speed.batch_rows:6.1f} rows per batch"
    print(f"  {name:10} {concurrency:4} in flight {figures}", flush=True)
    return speed


def verdict(convolutional: Speeds, dense: Speeds) -> int:
    """Print medians; return 1 when one of them breaks a rule."""
    holds = True
    least = min(convolutional)
    for concurrency, speeds in convolutional.items():
        pairs = zip(speeds, convolutional[least], strict=True)
        kept = statistics.median(one.rows_per_s / base.rows_per_s for one, base in pairs)
        holds &= kept >= KEPT
        print(f"{CONVOLUTIONAL} at {concurrency}: {kept:.3f} of the rate at {least}, at least {KEPT}")
    rates = [statistics.median(one.rows_per_s for one in speeds) for speeds in dense.values()]
    sizes = [statistics.median(one.batch_rows for one in speeds) for speeds in dense.values()]
    for concurrency, rate, rows in zip(dense, rates, sizes, strict=True):
        print(f"{DENSE} at {concurrency}: {rate / rates[0]:.1f} times the rate at 1, {rows:.1f} rows per batch")
    holds &= rates == sorted(rates) and sizes == sorted(sizes) and sizes[-1] > sizes[0]
    print("holds" if holds else "BROKEN")
    return int(not holds)


if __name__ == "__main__":
    main()
