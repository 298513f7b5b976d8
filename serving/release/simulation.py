"""How often the judge is wrong, and how long it takes: `python -m serving.release.simulation [RUNS [SEED]]`.

The world has what real servers have: a load that both arms share and that wanders, latencies with a heavy tail, Poisson
traffic that comes with the load, blocks in which one arm stumbles, rare errors. All is fixed before a run by the seed.
"""

import sys
from dataclasses import dataclass

import numpy as np

from serving.release.judge import Action, Arm, Block, Judge, Rules


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Both arms as they really are.

    Latency is log-normal around `median_us`, with one request in a hundred tenfold. The logarithm of the load, which
    multiplies latency and traffic of both arms, has the standard deviation `load_spread`. In a share of blocks,
    `stumbles`, all of one arm takes three times as long, by chance.
    """

    requests_per_block: float = 100.0
    error_rate: float = 0.01
    canary_error_rate: float = 0.01
    median_us: float = 1000.0
    spread: float = 0.4
    canary_slowdown: float = 1.0
    load_spread: float = 0.3
    stumbles: float = 0.02


@dataclass(frozen=True, slots=True)
class Result:
    """What runs ended in: shares of rollbacks and promotions, and blocks and requests per arm until then."""

    runs: int
    rolled_back: float
    promoted: float
    blocks: np.ndarray
    requests: np.ndarray

    def quantile(self, share: float) -> tuple[int, int]:
        """Return in how many blocks, and requests per arm, this share of the runs had ended."""
        blocks, requests = (np.quantile(each, share, method="inverted_cdf") for each in (self.blocks, self.requests))
        return int(blocks), int(requests)


def simulate(world: World, rules: Rules, *, runs: int, seed: int) -> Result:
    """Run whole rollouts of all steps, each to its end."""
    ends = [_rollout(world, rules, np.random.default_rng([seed, run])) for run in range(runs)]
    actions = [action for action, _, _ in ends]
    blocks, requests = (np.array([end[place] for end in ends]) for place in (1, 2))
    rolled_back, promoted = (actions.count(action) / runs for action in (Action.ROLL_BACK, Action.ADVANCE))
    return Result(runs, rolled_back, promoted, blocks, requests)


def _rollout(world: World, rules: Rules, rng: np.random.Generator) -> tuple[Action, int, int]:
    """Return how one rollout ended, after how many blocks and how many requests of the canary."""
    blocks = requests = 0
    for _ in range(rules.steps):
        judge = Judge(rules)
        action, load = Action.HOLD, 0.0
        while action is Action.HOLD:
            load = 0.9 * load + rng.normal(0, world.load_spread * 0.44)
            slow = world.median_us * float(np.exp(load))
            requests_each = world.requests_per_block * float(np.exp(load))
            canary = _arm(world, slow * world.canary_slowdown, world.canary_error_rate, rng, requests_each)
            control = _arm(world, slow, world.error_rate, rng, requests_each)
            action = judge.look(Block(canary, control)).action
            blocks, requests = blocks + 1, requests + canary.requests
        if action is Action.ROLL_BACK:
            break
    return action, blocks, requests


def _arm(
    world: World, median_us: float, error_rate: float, rng: np.random.Generator, requests: float
) -> Arm:  # fmt: skip
    count = int(rng.poisson(requests))
    if not count:
        return Arm(0, 0, {})
    median_us *= 3.0 if rng.random() < world.stumbles else 1.0
    latency = median_us * np.exp(rng.normal(0, world.spread, count)) * np.where(rng.random(count) < 0.01, 10.0, 1.0)
    latency.sort()
    p50, p90 = latency[count // 2], latency[count * 9 // 10]
    return Arm(count, int(rng.binomial(count, error_rate)), {"p50": float(p50), "p90": float(p90)})


SCENARIOS = {
    "the same version": World(),
    "the same version, no errors": World(error_rate=0.0, canary_error_rate=0.0),
    "the same version, uneven load": World(load_spread=1.0, stumbles=0.1),
    "errors from 1 % to 3 %": World(canary_error_rate=0.03),
    "20 % slower": World(canary_slowdown=1.2),
    "20 % slower, uneven load": World(canary_slowdown=1.2, load_spread=1.0, stumbles=0.1),
    "all requests fail": World(canary_error_rate=1.0),
}


def main(runs: int = 1000, seed: int = 0) -> None:
    """Print a table of all scenarios."""
    rules = Rules()
    print(f"{rules.steps} steps, {runs} runs each, seed {seed}")  # noqa: T201 - this is a report
    print(f"{'world':<32}{'rolled back':>12}{'promoted':>10}{'blocks p50/p90':>18}{'requests per arm p90':>22}")  # noqa: T201
    for name, world in SCENARIOS.items():
        result = simulate(world, rules, runs=runs, seed=seed)
        half, most = result.quantile(0.5), result.quantile(0.9)
        spent = f"{half[0]} / {most[0]}"
        print(f"{name:<32}{result.rolled_back:>12.1%}{result.promoted:>10.1%}{spent:>18}{most[1]:>22,}", flush=True)  # noqa: T201


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
