"""A heavy model served against bare onnxruntime at its best batch: `python -m bench.heavy_model`.

One instance of one thread on both sides, so that the load generator has the other core. Rounds are interleaved; each
ratio is the median over rounds, with the smallest and the largest. The CPU time per row is that of the thread that
runs the model: a served batch should cost it no more than a bare one, whatever else the machine does.
"""

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from bench.light_models import open_batch
from bench.load import Payload, Target, h2load, penstock
from bench.transports import ratio

BATCHES = (1, 2, 4, 8, 16)
_SHAPE = (3, 224, 224)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--graph", default="squeezenet", choices=("squeezenet", "resnet50", "shufflenet"))
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (default 5)")
    parser.add_argument("--rows", type=int, default=256, help="rows per round and side (default 256)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        graph = open_batch(options.graph)
        session = _bare_session(graph)
        best = max(BATCHES, key=lambda batch: max(_run_bare(session, batch, 32).rows_per_s for _ in range(3)))
        print(f"{options.graph}: bare onnxruntime, one thread, is fastest with batches of {best}", flush=True)
        write_heavy(Path(folder), graph, best)
        bare, served = [], []
        with penstock(Path(folder)) as target:
            for _ in range(options.rounds):
                bare.append(_run_bare(session, best, options.rows))
                served.append(_run_served(target, session.get_inputs()[0].name, best, options.rows))
                print(f"  bare {bare[-1]}   served {served[-1]}", flush=True)
    pairs = list(zip(served, bare, strict=True))
    print(f"served / bare = {ratio([ours.rows_per_s / theirs.rows_per_s for ours, theirs in pairs])} in rows/s, "
          f"{ratio([ours.cpu_ms / theirs.cpu_ms for ours, theirs in pairs])} in CPU time per row")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Speed:
    """Rows per second, and the CPU time per row, in ms, of the thread that runs the model."""

    rows_per_s: float
    cpu_ms: float

    def __str__(self) -> str:
        return f"{self.rows_per_s:7.1f} rows/s, {self.cpu_ms:6.3f} ms of CPU per row"


def _bare_session(graph: bytes) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _run_bare(session: Any, batch: int, rows: int) -> Speed:
    feed = {session.get_inputs()[0].name: np.random.default_rng(0).random((batch, *_SHAPE), np.float32)}
    session.run(None, feed)
    runs = max(1, rows // batch)
    started, cpu_started = time.perf_counter(), time.thread_time()
    for _ in range(runs):
        session.run(None, feed)
    cpu_s, wall_s = time.thread_time() - cpu_started, time.perf_counter() - started
    return Speed(runs * batch / wall_s, 1e3 * cpu_s / (runs * batch))


def _run_served(target: Target, input_name: str, batch: int, rows: int) -> Speed:
    before = _cpu_s_by_thread(target)
    load = h2load(target, rows, 1, 4 * batch, heavy_request(input_name))
    spent = [cpu_s - before.get(thread, 0.0) for thread, cpu_s in _cpu_s_by_thread(target).items()]
    return Speed(load.requests_per_s, 1e3 * max(spent) / rows)


def _cpu_s_by_thread(target: Target) -> dict[int, float]:
    """Return what each thread of a server but its I/O thread has worked, by the thread's id."""
    threads = target.process.threads()
    return {thread.id: thread.user_time + thread.system_time for thread in threads if thread.id != target.process.pid}


def write_heavy(models: Path, graph: bytes, batch: int) -> None:
    """Write a graph as model `heavy`, one instance of one thread, with batches of at most `batch` rows."""
    version = models / "heavy" / "1"
    version.mkdir(parents=True)
    (version / "model.onnx").write_bytes(graph)
    config = f"[batching]\nbatch_rows_max = {batch}\n[session]\nintra_op_threads = 1\n"
    (models / "heavy" / "model.toml").write_text(config)


def heavy_request(input_name: str = "data_0") -> Payload:
    """Return a request of one row."""
    return "heavy", input_name, np.random.default_rng(0).random((1, *_SHAPE), np.float32)


if __name__ == "__main__":
    main()
