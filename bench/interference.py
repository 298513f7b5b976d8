"""What a heavy model costs a light one on the same server: `python -m bench.interference`.

The light model (the forest, one row) is asked in an open loop, far below its capacity, by a stock client; latency
counts from the intended moment of sending. Two cases are interleaved: beside full load on a convolutional model of the
same server, one instance of one thread; and, while that rests, beside an unrelated process that burns one core.
"""

import argparse
import contextlib
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np

from bench.heavy_model import heavy_request, write_heavy
from bench.light_models import open_batch
from bench.load import METHOD, Target, burning, forest_row, framed, h2load_command, penstock, running, write_forest

RATE_PER_S = 100
WARM_UP = 50


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (default 5)")
    parser.add_argument("--seconds", type=float, default=10, help="of each case in a round (default 10)")
    parser.add_argument("--transport", default="native", choices=("native", "grpcio"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder)
        write_forest(models)
        (models / "forest" / "model.toml").write_text("[session]\nintra_op_threads = 1\n")
        write_heavy(models, open_batch("squeezenet"), 1)
        ratios = []
        with penstock(models, "--transport", options.transport) as target:
            for _ in range(options.rounds):
                with _heavy_load(target, models):
                    beside_heavy = p99_ms(target, options.seconds)
                with burning():
                    beside_burner = p99_ms(target, options.seconds)
                ratios.append(beside_heavy / beside_burner)
                print(f"p99 of the light model: {beside_heavy:7.2f} ms beside the heavy model, "
                      f"{beside_burner:7.2f} ms beside a burner, ratio {ratios[-1]:.2f}", flush=True)  # fmt: skip
    print(f"median ratio {statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]")


def p99_ms(target: Target, seconds: float) -> float:
    """Ask the light model on a schedule; return the 99th percentile of the time from the intended send on."""
    message = framed(forest_row())[5:]
    count = int(seconds * RATE_PER_S)
    latencies_ms = np.full(count, np.inf)
    answered = threading.Semaphore(0)
    with grpc.insecure_channel(f"127.0.0.1:{target.port}", options=[("grpc.enable_http_proxy", 0)]) as channel:
        infer = channel.unary_unary(METHOD)
        for _ in range(WARM_UP):
            infer(message)
        began = time.perf_counter()

        def note(number: int, intended: float) -> None:
            latencies_ms[number] = (time.perf_counter() - intended) * 1e3
            answered.release()

        for number in range(count):
            intended = began + number / RATE_PER_S
            time.sleep(max(0.0, intended - time.perf_counter()))
            future = infer.future(message)
            future.add_done_callback(lambda _, number=number, intended=intended: note(number, intended))
        for _ in range(count):
            answered.acquire()
    return float(np.percentile(latencies_ms, 99))


@contextlib.contextmanager
def _heavy_load(target: Target, folder: Path) -> Iterator[None]:
    """Keep the heavy model busy: always a few requests in flight."""
    body = folder / "heavy.bin"
    body.write_bytes(framed(heavy_request()))
    with running([*h2load_command(target, 10**7, 1, 4, body)]):
        yield


if __name__ == "__main__":
    main()
