"""Our batching policy against its rivals in virtual time.

    python -m bench.simulate                                  (a few minutes)
    python -m bench.simulate --seeds 10 --requests 50000      (what the rules ask for)

`--promise deadline` (the default) gives every request the objective as its deadline, so early drop works for all;
`--promise target` makes it the model's `slo_ms`, so that whoever was let in is answered. Prints one line per workload
and whether the rules of comparison hold; ends with 1 when they do not.
"""

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.simulation.verdict import Row, judge, verdict
from bench.simulation.workloads import Workload, drawn, replayed

COLUMNS = ("ours", "window", "natural", "none", "aimd", "bentoml")


def main() -> int:
    """Run, print, and say with the exit status whether the rules hold."""
    options = _options()
    judged, aside = drawn()
    if options.trace:
        judged, aside = [replayed(workload, options.trace) for workload in judged], []
    print(f"{'goodput under the objective':34}" + "".join(f"{name:>9}" for name in COLUMNS) + "  best window")
    began, groups = time.monotonic(), {}
    for title, workloads in (("judged", judged[: options.workloads]), ("kept aside", aside[: options.aside])):
        if workloads:
            print(f"{title}:")
            groups[title] = [_judged(workload, options) for workload in workloads]
    kept = True
    for title, rows in groups.items():
        kept &= _print_verdict(title, rows)
    print(f"{options.seeds} seeds of {options.requests} requests, {time.monotonic() - began:.0f} s")
    if options.json:
        options.json.write_text(json.dumps(_document(options, groups), indent=1) + "\n")
    return 0 if kept else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.simulate", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, default=2, help="worlds per workload (default 2)")
    parser.add_argument("--requests", type=int, default=20_000, help="requests per world (default 20000)")
    parser.add_argument("--workloads", type=int, help="only the first so many of the judged ones")
    parser.add_argument("--aside", type=int, help="only the first so many of those kept aside")
    parser.add_argument("--promise", choices=("deadline", "target"), default="deadline", help="what the objective is")
    parser.add_argument("--trace", type=Path, help="replay these moments, one number of seconds per line")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything here")
    return parser.parse_args()


def _judged(workload: Workload, options: argparse.Namespace) -> Row:
    hard = options.promise == "deadline"
    row = judge(workload, seeds=options.seeds, requests=options.requests, hard=hard)
    delay_ms, cap = row.best_window
    cells = "".join(f"{row.scores[name].goodput:9.4f}" for name in COLUMNS)
    print(f"{workload.name:34}{cells}  {delay_ms:g} ms, {cap}", flush=True)
    return row


def _print_verdict(title: str, rows: Sequence[Row]) -> bool:
    """Print our goodput over the others', and whether the rules hold."""
    found = verdict(rows)
    print(
        f"{title}, ours over: best window median {found.window_median:.3f} (0.95), worst {found.window_worst:.3f} "
        f"(0.90); natural worst {found.natural_worst:.3f} (0.98); AIMD median {found.aimd_median:.3f} (1); "
        f"BentoML median {found.bentoml_median:.3f} (1): {'rules kept' if found.kept else 'RULES BROKEN'}"
    )
    return found.kept


def _document(options: argparse.Namespace, groups: dict[str, list[Row]]) -> dict[str, Any]:
    """Return everything, for machines."""
    return {
        "promise": options.promise,
        "seeds": options.seeds,
        "requests": options.requests,
        "verdicts": {title: dataclasses.asdict(verdict(rows)) for title, rows in groups.items()},
        "workloads": [
            {
                "group": title,
                "name": row.workload.name,
                "best_window": {"delay_ms": row.best_window[0], "batch_rows_max": row.best_window[1]},
                "scores": {name: dataclasses.asdict(found) for name, found in row.scores.items()},
            }
            for title, rows in groups.items()
            for row in rows
        ],
    }


if __name__ == "__main__":
    sys.exit(main())
