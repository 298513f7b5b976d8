"""Whether `penstock bench` finds what other load generators find: `python -m bench.agreement`.

h2load and perf_analyzer were written by other people for other servers. Here each takes turns with the bench on one
server, under loads that it can offer: h2load closed loops and constant arrivals, perf_analyzer loads at which its own
cost per request matters little, and no Poisson arrivals, of which it sends fewer than asked for. In a closed loop that
keeps the server busy (8 x 32) a client's own speed is part of what it measures, so there the two differ. One round of
both is one observation; what is printed is their ratio and its 95 % interval, bootstrapped over rounds as in `bench
compare`, and whether they differ by more than each differs from itself: two tools agree within their noise when the
median of either could be a round of the other. Where the bench itself says that it could not offer the load
(`client_limited`) there is nothing to agree on, and the load's title says so.

The server is the referee: what it says of the same time, the mean of what requests spent in it and the mean size of
its batches, stands below. Where it cannot tell the tools apart, what they differ by was added by one of them.
"""

import argparse
import csv
import re
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from bench.compare import interval_of_mean
from bench.interrupt import Interrupt
from bench.load import Target, forest_row, framed, h2load_command, penstock, write_forest
from bench.matmul_model import write_matmul
from bench.outcome import Outcome
from bench.scenario import Scenario
from bench.server_view import ServerView, Snapshot, figures
from bench.session import Server, Session
from serving.transport.client import Client

Figures = Mapping[str, float]
"""Requests per second, and latencies in us, by name."""
ROUNDS_MIN = 5
"""Of fewer there is no interval worth printing."""
DURATION_S, WARM_UP_S = 2.0, 0.5
WINDOWS, WINDOW_MS = 3, 1500
"""Of perf_analyzer, which reports the mean of at least three."""
H2LOAD_LOADS = ((1, 1, 0), (1, 16, 0), (8, 32, 0), (1, 32, 1000))
"""Connections, streams on each, and constant arrivals per s on each, 0 for a closed loop."""
DENSE, DENSE_ROWS, RATE = "dense", 256, 8
"""A request takes some forty milliseconds, so that perf_analyzer's own cost, up to one, matters little."""


@dataclass(frozen=True, slots=True)
class Pairing:
    """One load: how the bench is asked for it, and how the other tool measures it."""

    title: str
    scenario: Scenario
    other: Callable[[], Figures]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=8, help="rounds of each load, at least 5 (default 8)")
    parser.add_argument("--perf-analyzer", default="perf_analyzer", metavar="PROGRAM", help="default: that in PATH")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder)
        write_forest(models)
        write_matmul(models, DENSE)
        for name in ("forest", DENSE):
            (models / name / "model.toml").write_text("[session]\nintra_op_threads = 1\n")
        with penstock(models) as target:
            for pairing in _with_h2load(target):
                compare(target, pairing, max(ROUNDS_MIN, options.rounds), "h2load")
            if program := shutil.which(options.perf_analyzer):
                for pairing in _with_perf_analyzer(target, program):
                    compare(target, pairing, max(ROUNDS_MIN, options.rounds), "perf_analyzer")
            else:
                print(f"no {options.perf_analyzer} here, so nothing beside it; name it with --perf-analyzer PROGRAM")


def compare(target: Target, pairing: Pairing, rounds: int, tool: str) -> None:
    """Take turns, and print a line per figure."""
    ours: list[Figures] = []
    theirs: list[Figures] = []
    limited = 0
    address = f"127.0.0.1:{target.port}"
    with (
        Client(address) as client,
        Session([Server(address)], pairing.scenario, lambda _: None, interrupt=Interrupt()) as session,
    ):
        slice_, view = pairing.scenario.to_slice(), ServerView(client, pairing.scenario.model)
        for number in range(rounds):
            for is_ours in (True, False) if number % 2 == 0 else (False, True):
                before = view.snapshot()
                if is_ours:
                    outcome = session.measure(slice_)
                    limited += outcome.client_limited
                    ours.append({**_figures(outcome), **_of_server(before, view.snapshot())})
                else:
                    theirs.append({**pairing.other(), **_of_server(before, view.snapshot())})
    remark = f", the bench was client-limited in {limited}" if limited else ""
    print(f"{pairing.title}, {rounds} rounds{remark}")
    for name in theirs[0]:
        _print(name, [item[name] for item in ours], [item[name] for item in theirs], tool)


def _print(name: str, ours: Sequence[float], theirs: Sequence[float], tool: str) -> None:
    logs = np.log(np.array(ours) / np.array(theirs))
    low, high = np.exp(interval_of_mean(logs, seed=0))
    verdict = "within noise" if _is_noise(ours, theirs) else "they differ"
    verdict = "no difference shown" if low <= 1 <= high else verdict
    print(f"  {name:10}  bench {_spread(ours)}  {tool} {_spread(theirs)}  "
          f"ratio {np.exp(logs.mean()):.3f} [{low:.3f}, {high:.3f}]  {verdict}", flush=True)  # fmt: skip


def _is_noise(ours: Sequence[float], theirs: Sequence[float]) -> bool:
    """Say whether the median of either could be a round of the other."""
    return all(
        min(these) <= statistics.median(those) <= max(these) for these, those in ((ours, theirs), (theirs, ours))
    )


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):9,.1f} [{min(values):9,.1f}, {max(values):9,.1f}]"


def _figures(outcome: Outcome) -> Figures:
    assert outcome.failure is None, f"the bench's run failed: {outcome.failure}"
    latency = outcome.latency_us
    return {
        "requests/s": outcome.throughput_rps, "p50 us": latency.p50, "p90 us": latency.p90, "p99 us": latency.p99,
    }  # fmt: skip


def _of_server(before: Snapshot, after: Snapshot) -> Figures:
    """Return what the server says of a round, the warm-up included."""
    said = figures(before, after, requests=0)
    assert said.mean_batch_rows is not None, "bug: no batch has run in a round"
    return {"server us": sum(said.stages_us.values()), "batch rows": said.mean_batch_rows}


def _with_h2load(target: Target) -> list[Pairing]:
    pairings = []
    for connections, streams, rate in H2LOAD_LOADS:
        load: dict[str, float | str] = {"concurrency": connections * streams}
        title = f"forest, closed loop of {connections} x {streams}"
        if rate:
            load = {"rate": connections * rate, "arrivals": "constant"}
            title = f"forest, constant arrivals of {connections * rate}/s"
        common = {"model": "forest", "connections": connections, "duration_s": DURATION_S, "warm_up_s": WARM_UP_S}
        scenario = Scenario(**common, **load)  # type: ignore[arg-type]
        pairings.append(Pairing(title, scenario, partial(_h2load, target, connections, streams, rate)))
    return pairings


def _h2load(target: Target, connections: int, streams: int, rate: int) -> Figures:
    """Run h2load twice for as long as the bench: for its rate, and with a log, which costs it some, for percentiles."""
    with tempfile.TemporaryDirectory() as folder:
        body, log = Path(folder) / "body", Path(folder) / "log"
        body.write_bytes(framed(forest_row()))
        program, _, _, *load = h2load_command(target, 0, connections, streams, body)
        timing = ["-D", f"{DURATION_S:g}", "--warm-up-time", f"{WARM_UP_S * 1e3:g}ms"]
        timing += [f"--rps={rate}"] if rate else []
        said = subprocess.run([program, *timing, *load], capture_output=True, text=True, check=True).stdout
        subprocess.run([program, *timing, f"--log-file={log}", *load], capture_output=True, check=True)
        _, status, latency_us = np.loadtxt(log, np.int64, ndmin=2).T
    found = re.search(r"finished in .*?, ([\d.]+) req/s", said)
    assert found, f"bug: h2load's output is not understood: {said}"
    assert (status == 200).all(), "h2load had requests that failed"
    p50, p90, p99 = np.quantile(latency_us, [0.5, 0.9, 0.99])
    return {"requests/s": float(found[1]), "p50 us": float(p50), "p90 us": float(p90), "p99 us": float(p99)}


def _with_perf_analyzer(target: Target, program: str) -> list[Pairing]:
    common = {
        "model": DENSE,
        "rows": DENSE_ROWS,
        "connections": 1,
        "duration_s": WINDOWS * WINDOW_MS / 1e3,
        "warm_up_s": WARM_UP_S,
    }
    asked: list[tuple[str, dict[str, float | str], Sequence[str]]] = [
        (f"closed loop of {count}", {"concurrency": count}, ("--concurrency-range", str(count))) for count in (1, 2)
    ]
    constant: dict[str, float | str] = {"rate": RATE, "arrivals": "constant"}
    asked.append((f"constant arrivals of {RATE}/s", constant, ("--request-rate-range", str(RATE))))
    pairings = []
    for title, load, arguments in asked:
        scenario = Scenario(**common, **load)  # type: ignore[arg-type]
        other = partial(_perf_analyzer, program, target, arguments)
        pairings.append(Pairing(f"dense layers, {DENSE_ROWS} rows, {title}", scenario, other))
    return pairings


def _perf_analyzer(program: str, target: Target, load: Sequence[str]) -> Figures:
    """Run perf_analyzer for its three windows, however much they differ, and read the line that it writes."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.csv"
        command = [
            program, "-m", DENSE, "-b", str(DENSE_ROWS), "-u", f"127.0.0.1:{target.port}", "-i", "grpc", "--async",
            *load, "-p", str(WINDOW_MS), "-r", str(WINDOWS), "-s", "999", "-f", str(report),
        ]  # fmt: skip
        subprocess.run(command, capture_output=True, check=True)
        (line,) = csv.DictReader(report.read_text().splitlines())
    return {
        "requests/s": float(line["Inferences/Second"]) / DENSE_ROWS,
        **{f"{name} us": float(line[f"{name} latency"]) for name in ("p50", "p90", "p99")},
    }


if __name__ == "__main__":
    main()
