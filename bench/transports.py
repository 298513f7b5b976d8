"""The native transport, the grpcio one and bare onnxruntime on one model, side by side: `python -m bench.transports`.

1-row requests of a random forest of 100 trees on 30 features, load from h2load; one intra-op thread everywhere, so that
the load generator has the other core. Rounds are interleaved; medians, and ratios with the smallest and the largest of
the rounds (for five rounds that is a 94 % interval for the median ratio, by order statistics).

Bare onnxruntime is measured twice: alone on the machine, and beside a process that burns another core, as the load
generator does beside a server. Cores that share caches, clock and hyperthreads make that a fifth to a third slower.

`--payloads` compares the two transports on other rows per request and tensors from 4 bytes to 4 MiB instead: the time
per request of one stock grpcio client that waits for each answer.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from bench.load import FEATURES, Load, Target, burning, forest_row, h2load, penstock, write_forest, write_increment
from serving.transport.client import Client
from serving.types import Datatype

LEVELS = ((1, 1), (1, 16), (4, 16), (8, 32))
BATCHES = tuple(1 << power for power in range(9))
REQUESTS_ALONE, REQUESTS = 2_000, 6_000
"""Requests per round: at one at a time, and otherwise, on grpcio; the native transport gets more, to last as long."""
MORE_ON_NATIVE = 40
PAYLOADS = (
    (1, 1),
    (8, 1),
    (64, 1),
    (1, 1 << 10),
    (8, 1 << 10),
    (64, 1 << 10),
    (1, 1 << 14),
    (1, 1 << 18),
    (1, 1 << 20),
)
"""Rows per request and float32 values per row."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (default 5)")
    parser.add_argument("--payloads", action="store_true", help="compare rows per request and lengths of tensors")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.payloads:
            compare_payloads(Path(folder), options.rounds)
        else:
            compare_loads(Path(folder), options.rounds)


def compare_loads(models: Path, rounds: int) -> None:
    """Print a line per level of concurrency and side, and the ratios."""
    path = write_forest(models)
    (models / "forest" / "model.toml").write_text("[session]\nintra_op_threads = 1\n")
    bare = Bare(path)
    best = f"bare onnxruntime, one thread, is fastest with batches of {bare.best}"
    print(f"{best}; busy: the same beside a busy core", flush=True)
    with penstock(models, "--transport", "native") as native, penstock(models, "--transport", "grpcio") as grpcio:
        for level in LEVELS:
            _compare_level(bare, native, grpcio, level, rounds)


def _compare_level(bare: "Bare", native: Target, grpcio: Target, level: tuple[int, int], rounds: int) -> None:
    count = REQUESTS_ALONE if level == (1, 1) else REQUESTS
    more = 1 if level == (1, 1) else MORE_ON_NATIVE
    ours, theirs, alone, beside = [], [], [], []
    for _ in range(rounds):
        ours.append(h2load(native, count * more, *level, forest_row()))
        theirs.append(h2load(grpcio, count, *level, forest_row()))
        alone.append(bare.measure())
        with burning():
            beside.append(bare.measure())
    name = f"{level[0]} x {level[1]:<2}"
    for side, loads in (("native", ours), ("grpcio", theirs)):
        _print_load(name, side, loads)
    for side, measured in (("bare", alone), ("busy", beside)):
        rows_per_s, cpu_us = (statistics.median(column) for column in zip(*measured, strict=True))
        print(f"{name}  {side:7} {rows_per_s:9,.0f} rows/s      {cpu_us:7.2f} us of CPU per row")
    pairs = list(zip(ours, theirs, strict=True))
    print(f"{name}  native / grpcio: {ratio([o.requests_per_s / t.requests_per_s for o, t in pairs])} in requests/s")
    print(f"{name}  grpcio / native: {ratio([t.server_cpu_us / o.server_cpu_us for o, t in pairs])} in CPU")
    for side, measured in (("bare", alone), ("busy", beside)):
        found = ratio([o.requests_per_s / rows_per_s for o, (rows_per_s, _) in zip(ours, measured, strict=True)])
        print(f"{name}  native / {side}:   {found} in rows/s", flush=True)


def _print_load(name: str, side: str, loads: Sequence[Load]) -> None:
    rate = statistics.median(load.requests_per_s for load in loads)
    cpu_us = statistics.median(load.server_cpu_us for load in loads)
    rows = statistics.median(load.mean_batch_rows for load in loads)
    server = f"{cpu_us:7.2f} us of server CPU per request"
    print(f"{name}  {side:7} {rate:9,.0f} requests/s  {server}  mean batch {rows:.1f}")


class Bare:
    """onnxruntime in this process, with one thread, on the batch that is best for it."""

    def __init__(self, path: Path) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self._session: Any = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._rows = np.random.default_rng(0).random((max(BATCHES), FEATURES), np.float32)
        self.best = max(BATCHES, key=lambda batch: max(self._run(batch)[0] for _ in range(5)))

    def measure(self) -> tuple[float, float]:
        """Return rows per second, and CPU time per row in us."""
        return max(self._run(self.best) for _ in range(5))

    def _run(self, batch: int, rows: int = 50_000) -> tuple[float, float]:
        feed = {self._session.get_inputs()[0].name: self._rows[:batch]}
        runs = rows // batch
        began, cpu_began_ns = time.perf_counter(), time.thread_time_ns()
        for _ in range(runs):
            self._session.run(None, feed)
        duration_s, cpu_ns = time.perf_counter() - began, time.thread_time_ns() - cpu_began_ns
        return runs * batch / duration_s, cpu_ns / 1e3 / (runs * batch)


def compare_payloads(models: Path, rounds: int) -> None:
    """Print the time per request of each payload on both transports."""
    for _, width in PAYLOADS:
        write_increment(models, f"width_{width}", width)
    with (
        penstock(models, "--transport", "native") as native,
        penstock(models, "--transport", "grpcio") as grpcio,
        Client(f"127.0.0.1:{native.port}") as ours,
        Client(f"127.0.0.1:{grpcio.port}") as theirs,
    ):
        for rows, width in PAYLOADS:
            _compare_payload(ours, theirs, rows, width, rounds)


def _compare_payload(ours: Client, theirs: Client, rows: int, width: int, rounds: int) -> None:
    x = np.zeros((rows, width), np.float32)
    count = max(10, min(300, 20_000_000 // (x.nbytes + 40_000)))

    def ask(client: Client) -> Callable[[], object]:
        return lambda: client.infer(f"width_{width}", {"x": (Datatype.FP32, x)})

    times = [(time_per_call_us(ask(ours), count), time_per_call_us(ask(theirs), count)) for _ in range(rounds)]
    native_us, grpcio_us = (statistics.median(column) for column in zip(*times, strict=True))
    print(f"{rows:3} rows, {x.nbytes:9,} bytes  native {native_us:8,.0f} us  grpcio {grpcio_us:8,.0f} us  "
          f"grpcio / native {ratio([b / a for a, b in times])}", flush=True)  # fmt: skip


def time_per_call_us(call: Callable[[], object], count: int) -> float:
    """Return how long one of `count` calls takes."""
    call()
    began = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - began) / count * 1e6


def ratio(values: Sequence[float]) -> str:
    """Write the median of some ratios with the smallest and the largest."""
    return f"{statistics.median(values):.2f} [{min(values):.2f}, {max(values):.2f}]"


if __name__ == "__main__":
    main()
