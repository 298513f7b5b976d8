"""Whether `penstock bench tune` finds what the best of a grid made by hand is: `python -m bench.hand_grid`.

The model is heavy: a row alone takes milliseconds, and far less in a batch. First the tuner searches; then every
setting of the grid, whose batch rows are others than those that the tuner tries, is measured in turn, in rounds; then
the tuner's setting and the grid's best take turns, so that the ratio is of the same moments.
"""

import argparse
import itertools
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np

from bench import tune
from bench.compare import interval_of_mean
from bench.interrupt import Interrupt
from bench.matmul_model import write_matmul
from bench.outcome import Outcome
from bench.scenario import Scenario
from bench.session import Server, Session
from bench.tune import Setting
from bench.tune_server import TuneServer
from serving.cores import usable_cores

MODEL = "dense"
GRID_ROWS = (1, 4, 16, 64)
GRID_ROUNDS = 2


def main() -> None:
    """Measure and print. The exit status is 1 when the tuner's setting is shown to be worse."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--concurrency", type=int, default=64, help="requests in flight (default 64)")
    parser.add_argument("--duration-s", type=float, default=1.0, help="of a slice (default 1)")
    parser.add_argument("--pairs", type=int, default=12, help="of the final comparison, at least 3 (default 12)")
    options = parser.parse_args()
    scenario = Scenario(
        model=MODEL, concurrency=options.concurrency, duration_s=options.duration_s, warm_up_s=options.duration_s / 2
    )
    with tempfile.TemporaryDirectory() as folder:
        write_matmul(Path(folder), MODEL, width=2048, layers=2)
        with TuneServer(Path(folder), MODEL) as server:
            address = Server(server.address)
            with Session([address], scenario, lambda _: None, interrupt=Interrupt()) as session:
                bench = Bench(server, session, scenario)
                tuned = bench.tuned()
                best = bench.best_of_grid()
                ratio, low, high = bench.compared(tuned, best, max(3, options.pairs))
    print(f"tuned ({tuned}) / best of the grid ({best}) = {ratio:.3f} [{low:.3f}, {high:.3f}] in requests/s")
    sys.exit(int(high < 1))


class Bench:
    """Measures settings on one server."""

    def __init__(self, server: TuneServer, session: Session, scenario: Scenario) -> None:
        self._measure = server.measuring(session.record)
        self._config = server.config
        self._slice = scenario.to_slice()

    def tuned(self) -> Setting:
        """Return what the tuner recommends."""
        cores = usable_cores()
        found = tune.tune(self._measure, tune.settings_for(cores, self._config), template=self._slice)
        if found.best is None:
            sys.exit("the tuner found no setting")
        print(f"the tuner ran {len(found.trials)} slices and recommends {found.best.setting}", flush=True)
        return found.best.setting

    def best_of_grid(self) -> Setting:
        """Measure the grid, print it, and return the setting with the most throughput."""
        cores = usable_cores()
        shares = sorted({(1, 1), (1, cores), (cores, 1)})
        grid = [Setting(*share, rows) for share, rows in itertools.product(shares, GRID_ROWS)]
        rates: dict[Setting, list[float]] = {setting: [] for setting in grid}
        for number in range(GRID_ROUNDS):
            for setting in grid if number % 2 == 0 else reversed(grid):
                rates[setting].append(self._rate(setting))
        for setting in grid:
            print(f"  {setting!s:24} {statistics.mean(rates[setting]):8,.0f} requests/s", flush=True)
        return max(grid, key=lambda setting: statistics.mean(rates[setting]))

    def compared(self, tuned: Setting, best: Setting, pairs: int) -> tuple[float, float, float]:
        """Return the ratio of throughputs over pairs in the order A B B A, and its 95 % interval."""
        if tuned == best:
            return 1.0, 1.0, 1.0
        logs = []
        for number in range(pairs):
            order = (tuned, best) if number % 2 == 0 else (best, tuned)
            rate = {setting: self._rate(setting) for setting in order}
            logs.append(np.log(rate[tuned] / rate[best]))
        low, high = interval_of_mean(np.array(logs), seed=0)
        return float(np.exp(np.mean(logs))), float(np.exp(low)), float(np.exp(high))

    def _rate(self, setting: Setting) -> float:
        outcome = Outcome.of(self._measure(setting, self._slice), 1)
        if outcome.failure:
            sys.exit(f"{setting}: {outcome.failure}")
        return outcome.throughput_rps


if __name__ == "__main__":
    main()
