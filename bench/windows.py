"""The learnt policy beside fixed windows, under Poisson arrivals: `python -m bench.windows`.

Three networks (light, middle, heavy; one instance of one thread each) are served four times by one server: adaptive,
and with a window of 0, 1 and 5 ms. The capacity of a network is what a closed loop gets from the one without delay, in
each round anew. Then requests come at 0.3, 0.7 and 0.9 of it, to one policy at a time, in an order that changes from
round to round, the same arrivals for each. The mean and the p99 of ours over those of the best window, in hindsight and
in the geometric mean over the rounds, must be no more than 1.1: the status is 1 when the 95 % interval of a ratio, made
as `compare` does it, lies above. The best of three windows that are as good has had luck, so ratios are a little high.
"""

import argparse
import sys
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.compare import interval_of_mean
from bench.networks import write_network
from bench.outcome import Outcome
from bench.served_models import ServedModels, served
from bench.slices import ClosedLoop, OpenLoop

NETWORKS = {"light": (64, 512, 512, 10), "middle": (64, 1536, 1536, 64), "heavy": (64, 4096, 4096, 64)}
WINDOWS_US = (0, 1_000, 5_000)
LOADS = (0.3, 0.7, 0.9)
IN_FLIGHT = 64
CLOSED_S = 2.0
WORSE = 1.1
ADAPTIVE = "adaptive"


@dataclass(frozen=True, slots=True)
class Latency:
    """Mean and p99 in ms."""

    mean_ms: float
    p99_ms: float


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=8, help="rounds of about 75 s, at least 2 (default 8)")
    parser.add_argument("--seconds", type=float, default=1.2, help="of each load and policy in a round (default 1.2)")
    parser.add_argument("--network", action="append", choices=tuple(NETWORKS), help="only this one; may be repeated")
    options = parser.parse_args()
    if options.rounds < 2:
        parser.error(f"--rounds {options.rounds}: an interval needs at least 2")
    networks = options.network or list(NETWORKS)
    with tempfile.TemporaryDirectory() as folder:
        for network in networks:
            write_policies(Path(folder), network)
        names = [f"{network}_{policy}" for network in networks for policy in policies()]
        found: dict[tuple[str, float], dict[str, list[Latency]]] = {}
        with served(Path(folder), names) as models:
            for number in range(options.rounds):
                for network in networks:
                    _round(models, network, number, options.seconds, found)
    sys.exit(verdict(found))


def policies() -> list[str]:
    """Return the names of the policies, ours first."""
    return [ADAPTIVE, *(f"window{delay_us}" for delay_us in WINDOWS_US)]


def write_policies(models: Path, network: str) -> None:
    """Write a network once for each policy."""
    session = "[session]\nintra_op_threads = 1\n"
    write_network(models, f"{network}_{ADAPTIVE}", NETWORKS[network], config=session)
    for delay_us in WINDOWS_US:
        window = f'[batching]\nmode = "window"\nqueue_delay_us_max = {delay_us}\n'
        write_network(models, f"{network}_window{delay_us}", NETWORKS[network], config=window + session)


def _round(
    models: ServedModels, network: str, number: int, seconds: float,
    found: dict[tuple[str, float], dict[str, list[Latency]]],
) -> None:  # fmt: skip
    closed = models.run(f"{network}_window0", ClosedLoop(concurrency=IN_FLIGHT, duration_s=CLOSED_S))
    capacity = Outcome.of(closed, 1).throughput_rps
    print(f"{network}: capacity {capacity:,.0f} requests/s", flush=True)
    order = policies()
    order = order[number % len(order) :] + order[: number % len(order)]
    for load in LOADS:
        arrivals = OpenLoop(rate_per_s=load * capacity, duration_s=seconds, seed=number)
        for policy in order:
            total = models.run(f"{network}_{policy}", arrivals).total.latency
            latency = Latency(total.mean_ns / 1e6, total.quantile_ns(0.99) / 1e6)
            found.setdefault((network, load), defaultdict(list))[policy].append(latency)
        texts = [f"{policy} {lat[-1].mean_ms:.2f}/{lat[-1].p99_ms:.2f}" for policy, lat in found[network, load].items()]
        print(f"  at {load:.1f}, mean/p99 in ms: {'   '.join(sorted(texts))}", flush=True)


def verdict(found: dict[tuple[str, float], dict[str, list[Latency]]]) -> int:
    """Print ours over the best window's, with intervals; return 1 when one lies above WORSE."""
    holds = True
    for (network, load), by_policy in found.items():
        texts = []
        for number, figure in enumerate(Latency.__dataclass_fields__):
            logs = {policy: np.log([getattr(one, figure) for one in each]) for policy, each in by_policy.items()}
            estimate, low, high = over_the_best(logs.pop(ADAPTIVE), list(logs.values()), seed=number)
            holds &= low <= WORSE
            texts.append(f"{figure.removesuffix('_ms')} {estimate:.2f} [{low:.2f}, {high:.2f}]")
        print(f"{network} at {load:.1f}: {', '.join(texts)} of the best window's, at most {WORSE}")
    print("holds" if holds else "BROKEN")
    return int(not holds)


def over_the_best(
    ours: NDArray[np.float64], windows: list[NDArray[np.float64]], seed: int
) -> tuple[float, float, float]:
    """Return our latency over that of the window with the least one, and the ends of the 95 % interval.

    All are logarithms, one per round.
    """
    best = min(windows, key=lambda each: float(each.mean()))
    low, high = interval_of_mean(ours - best, seed)
    return float(np.exp((ours - best).mean())), float(np.exp(low)), float(np.exp(high))


if __name__ == "__main__":
    main()
