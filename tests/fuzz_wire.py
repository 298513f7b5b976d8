"""Fuzz the kernels of `serving.wire` for as long as you like: `python -m tests.fuzz_wire --minutes 60 --seed 1`.

A command and no test: it takes a time and a seed, it goes on after a failure, and it must outlive a kernel that crashes
or never returns. So the cases run in a process of their own, which is replaced when it dies. Array bounds are checked
in it unless `--as-shipped` is given. Every failure is saved, as small as it could be made, beside the command that
shows it again:

    python -m tests.fuzz_wire --replay ~/.cache/penstock-tests/fuzz/sessions-17.json
    python -m tests.fuzz_wire --only sessions --seed 17 --cases 1

The exit status is 1 when there were failures. A run of the same seed makes the same cases, whatever the kernels do.
"""

import argparse
import collections
import faulthandler
import itertools
import os
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

from tests.support import fuzzing
from tests.support.environments import CACHE

ROOT = Path(__file__).parents[1]
FOLDER = CACHE / "fuzz"
CASE_TIMEOUT_S = 120
REPORT_INTERVAL_S = 60
SAVED_PER_PLACE_MAX = 3
STARTING = "starting"
FOUND_FAILURES = 3
# Checks at every index make much code; fully optimised it takes minutes to compile.
CHECKED = {"NUMBA_BOUNDSCHECK": "1", "NUMBA_OPT": "1", "XDG_CACHE_HOME": str(CACHE / "bounds-checked")}


def main() -> int:
    options = parse()
    if options.progress is not None:
        return Worker(options).run()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    return Supervisor(options).run()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10, help="how long (default 10)")
    parser.add_argument("--cases", type=int, help="how many seeds, instead of a time")
    parser.add_argument("--seed", type=int, default=0, help="the first seed; the following ones count up (default 0)")
    parser.add_argument("--only", help="one target: see tests/support/fuzz_targets.py")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="run one saved case, and show what it does")
    parser.add_argument("--as-shipped", action="store_true", help="do not check array bounds, and optimise fully")
    parser.add_argument("--folder", type=Path, default=FOLDER, help=f"where failures are saved (default {FOLDER})")
    parser.add_argument("--progress", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


class Supervisor:
    """Starts a worker, and another one when it dies; what it was doing then is a failure like others."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.progress = options.folder / f"progress-{os.getpid()}"

    def run(self) -> int:
        options, failed = self.options, False
        options.folder.mkdir(parents=True, exist_ok=True)
        end = time.monotonic() + 60 * options.minutes
        seed, seeds_end = options.seed, options.seed + (options.cases or sys.maxsize)
        while seed < seeds_end and time.monotonic() < end:
            self.progress.write_text(f"{STARTING} {seed}")
            status = self.work(seed, seeds_end - seed, (end - time.monotonic()) / 60)
            target, last = self.progress.read_text().split()
            failed |= status != 0
            if status in {0, FOUND_FAILURES} or options.replay or target == STARTING:
                break
            report = f"the process ended with status {status}"
            path = fuzzing.Failure(target, int(last), None, "the process died", report).save(options.folder)
            say(f"FAILED {target}: {report}: {command(options)} --replay {path}")
            seed = int(last) + 1
        self.progress.unlink()
        return int(failed)

    def work(self, seed: int, cases: int, minutes: float) -> int:
        options = self.options
        arguments = ["--seed", str(seed), "--cases", str(cases), "--minutes", str(minutes)]
        arguments += ["--progress", str(self.progress), "--folder", str(options.folder)]
        for name in ("only", "replay"):
            value = getattr(options, name)
            arguments += [f"--{name}", str(value)] if value else []
        environment = os.environ | ({} if options.as_shipped else CHECKED)
        worker = subprocess.Popen([sys.executable, "-m", "tests.fuzz_wire", *arguments], cwd=ROOT, env=environment)
        try:
            return worker.wait()
        finally:
            worker.kill()  # when this process was told to end


def command(options: argparse.Namespace) -> str:
    return "python -m tests.fuzz_wire" + (" --as-shipped" if options.as_shipped else "")


class Worker:
    """Runs case after case, and saves those that fail. When it dies, its supervisor says so."""

    def __init__(self, options: argparse.Namespace) -> None:
        from tests.support.fuzz_targets import TARGETS  # compiles the kernels

        self.options = options
        self.targets = [target for target in TARGETS if options.only in {None, target.name}]
        self.cases: collections.Counter = collections.Counter()
        self.failures: collections.Counter = collections.Counter()

    def run(self) -> int:
        faulthandler.enable()
        if self.options.replay:
            return self.replay()
        begin = time.monotonic()
        reported, end = begin, begin + 60 * self.options.minutes
        with self.options.progress.open("r+") as progress:
            for seed in itertools.islice(itertools.count(self.options.seed), self.options.cases):
                for target in self.targets:
                    self.run_case(target, seed, progress)
                now = time.monotonic()
                if now - reported > REPORT_INTERVAL_S:
                    reported = now
                    self.report(seed, now - begin)
                if now > end:
                    break
        self.report(seed, time.monotonic() - begin)
        return FOUND_FAILURES if self.failures else 0

    def run_case(self, target: fuzzing.Target, seed: int, progress) -> None:
        os.pwrite(progress.fileno(), f"{target.name} {seed}".ljust(64).encode(), 0)
        faulthandler.dump_traceback_later(CASE_TIMEOUT_S, exit=True)
        failure = fuzzing.run(target, seed)
        faulthandler.cancel_dump_traceback_later()
        self.cases[target.name] += 1
        if failure is None:
            return
        key = f"{target.name}: {failure.place}"
        self.failures[key] += 1
        if self.failures[key] <= SAVED_PER_PLACE_MAX:
            path = failure.save(self.options.folder)
            say(f"FAILED {key}\n{failure.report}: {command(self.options)} --replay {path}")

    def report(self, seed: int, seconds: float) -> None:
        say(f"{seconds / 60:.0f} min, up to seed {seed}: cases {dict(self.cases)}, failures {dict(self.failures)}")

    def replay(self) -> int:
        name, seed, pieces = fuzzing.load(self.options.replay)
        (target,) = [target for target in self.targets if target.name == name]
        try:
            target.check(seed, target.pieces(seed) if pieces is None else pieces)
        except Exception:  # noqa: BLE001 - shown
            traceback.print_exc()
            return FOUND_FAILURES
        say("the case passes")
        return 0


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
