"""A heavy model served against bare onnxruntime at its best batch: `python -m bench.heavy_model`.

One instance of one thread on both sides, so that the load generator has the other core. Rounds are interleaved; the
ratio is that of the medians.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from bench.light_models import open_batch
from bench.load import Payload, h2load, penstock

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
        best = max(BATCHES, key=lambda batch: max(_bare_rows_per_s(session, batch, 32) for _ in range(3)))
        print(f"{options.graph}: bare onnxruntime, one thread, is fastest with batches of {best}", flush=True)
        write_heavy(Path(folder), graph, best)
        bare, served = [], []
        with penstock(Path(folder)) as target:
            for _ in range(options.rounds):
                bare.append(_bare_rows_per_s(session, best, options.rows))
                load = h2load(target, options.rows, 1, 4 * best, heavy_request(session.get_inputs()[0].name))
                served.append(load.requests_per_s)
                print(f"  bare {bare[-1]:7.1f} rows/s  served {served[-1]:7.1f} rows/s  "
                      f"mean batch {load.mean_batch_rows:.1f}", flush=True)  # fmt: skip
    ratio = statistics.median(served) / statistics.median(bare)
    print(f"served / bare = {ratio:.3f}")


def _bare_session(graph: bytes) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _bare_rows_per_s(session: Any, batch: int, rows: int) -> float:
    feed = {session.get_inputs()[0].name: np.random.default_rng(0).random((batch, *_SHAPE), np.float32)}
    session.run(None, feed)
    runs = max(1, rows // batch)
    started = time.perf_counter()
    for _ in range(runs):
        session.run(None, feed)
    return runs * batch / (time.perf_counter() - started)


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
