"""What moving an alias costs those who ask meanwhile: `python -m bench.alias_swap`.

A server follows an alias under full load on the native transport. Slices in which nothing moves and slices in which the
alias is promoted and rolled back again and again are interleaved. Prints the requests that failed, and p99 in both.
"""

import argparse
import statistics
import tempfile
import threading
from pathlib import Path

from bench.generator.handle import Generator
from bench.slices import Recording
from bench.slices import Target as Address
from bench.swapped import ALIAS, MODEL, closed, failed, fill, ignore, messages, open_gate, p99_ms, served
from serving.registry.client import Registry
from serving.registry.names import Alias, Version


class Mover(threading.Thread):
    """Moves the alias to and fro until it is stopped; `moves` counts."""

    def __init__(self, place: Path, every_s: float) -> None:
        super().__init__(name="mover")
        self.moves = 0
        self._place = place
        self._every_s = every_s
        self._stopping = threading.Event()

    def run(self) -> None:
        """See `Thread`."""
        with Registry.open(str(self._place)) as registry:
            while not self._stopping.wait(self._every_s):
                if self.moves % 2:
                    registry.rollback(Alias(MODEL, ALIAS))
                else:
                    registry.promote(Version(MODEL, 2), ALIAS, gate=open_gate)
                self.moves += 1

    def stop(self) -> None:
        """Stop, with the alias where it was."""
        self._stopping.set()
        self.join()
        if self.moves % 2:
            with Registry.open(str(self._place)) as registry:
                registry.rollback(Alias(MODEL, ALIAS))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (default 5)")
    parser.add_argument("--seconds", type=float, default=4, help="of each case in a round (default 4)")
    parser.add_argument("--every-s", type=float, default=1, help="how often the alias moves (default 1)")
    parser.add_argument("--concurrency", type=int, default=64, help="requests in flight (default 64)")
    parser.add_argument("--transport", default="native", choices=("native", "grpcio"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        place = fill(folder)
        steady: list[Recording] = []
        swapping: list[Recording] = []
        moves = 0
        with served(place, folder, interval_s=0.1, transport=options.transport) as target:
            address = Address("127.0.0.1", target.port)
            with Generator([address], [messages(256, ids=False)], connections=8) as generator:
                generator.run(closed(options.concurrency, options.seconds), ignore)
                for _ in range(options.rounds):
                    steady.append(generator.run(closed(options.concurrency, options.seconds), ignore))
                    mover = Mover(place, options.every_s)
                    mover.start()
                    swapping.append(generator.run(closed(options.concurrency, options.seconds), ignore))
                    mover.stop()
                    moves += mover.moves
    _report(steady, swapping, moves)


def _report(steady: list[Recording], swapping: list[Recording], moves: int) -> None:
    for name, recordings in (("nothing moves", steady), ("alias moves", swapping)):
        rate = sum(each.total.answered for each in recordings) / sum(each.total.end_s for each in recordings)
        p99 = statistics.median(map(p99_ms, recordings))
        print(f"{name:<14} {rate:>10,.0f} requests/s   p99 {p99:8.3f} ms   {sum(map(failed, recordings))} failed")
    ratios = [p99_ms(after) / p99_ms(before) for before, after in zip(steady, swapping, strict=True)]
    print(f"{moves} moves; p99 while the alias moves / p99 when nothing does: "
          f"{statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]")  # fmt: skip


if __name__ == "__main__":
    main()
