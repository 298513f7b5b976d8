"""What a rollout costs those who ask meanwhile: `python -m bench.rollout_cost`.

The same requests under full load, in interleaved slices: no rollout, a shadow, a canary of 10 % and one of 50 %. Each
case is a rollout that is begun before its slice and aborted behind it. Prints requests/s and p99 of each.
"""

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from bench.generator.handle import Generator
from bench.slices import Recording
from bench.slices import Target as Address
from bench.swapped import ALIAS, MODEL, closed, failed, fill, ignore, messages, open_gate, p99_ms, served
from serving.registry.client import Registry
from serving.registry.names import Alias, Version
from serving.release.policy import RolloutConfig
from serving.release.rollouts import Rollouts

HELD = RolloutConfig(errors_margin=1e-6, hold_s_max=1e6, shadow_requests_per_s=0)
"""No step is ever passed."""
CASES = {
    "no rollout": None,
    "shadow": replace(HELD, steps=(0.1,), shadow_requests_per_s=50),
    "canary 10 %": replace(HELD, steps=(0.1,)),
    "canary 50 %": replace(HELD, steps=(0.5,)),
}
SETTLE_S = 2.0
"""What a server that looks every 0.1 s needs to load the arms, and to let them go."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds (default 3)")
    parser.add_argument("--seconds", type=float, default=3, help="of each case in a round (default 3)")
    parser.add_argument("--concurrency", type=int, default=64, help="requests in flight (default 64)")
    parser.add_argument("--transport", default="native", choices=("native", "grpcio"))
    options = parser.parse_args()
    found: dict[str, list[Recording]] = {name: [] for name in CASES}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        place = fill(folder)
        with served(place, folder, interval_s=0.1, transport=options.transport) as target:
            address = Address("127.0.0.1", target.port)
            with Generator([address], [messages(256, ids=True)], connections=8) as generator:
                generator.run(closed(options.concurrency, options.seconds), ignore)
                for _ in range(options.rounds):
                    for case, config in CASES.items():
                        begin(place, config)
                        found[case].append(generator.run(closed(options.concurrency, options.seconds), ignore))
                        end(place, config)
    for case, recordings in found.items():
        rates = [each.total.answered / each.total.end_s for each in recordings]
        p99 = statistics.median(map(p99_ms, recordings))
        print(f"{case:<14} {statistics.median(rates):>10,.0f} requests/s [{min(rates):,.0f}, {max(rates):,.0f}]   "
              f"p99 {p99:8.3f} ms   {sum(map(failed, recordings))} failed")  # fmt: skip


def begin(place: Path, config: RolloutConfig | None) -> None:
    """Begin a rollout, and give the server time to load its arms."""
    if config is not None:
        with Registry.open(str(place)) as registry:
            Rollouts(registry).start(Version(MODEL, 2), ALIAS, config=config, gate=open_gate)
        time.sleep(SETTLE_S)


def end(place: Path, config: RolloutConfig | None) -> None:
    """Abort it, and give the server time to let the arms go."""
    if config is not None:
        with Registry.open(str(place)) as registry:
            Rollouts(registry).abort(Alias(MODEL, ALIAS))
        time.sleep(SETTLE_S)


if __name__ == "__main__":
    main()
