"""What counting a value for drift costs: `python -m bench.drift_kernel`.

Every round counts rows that have never been looked at before, since a branch predictor learns a batch that is counted
again and again by heart. Beside the kernel, in the same rounds: numpy's digitize and searchsorted, which only search.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from serving.statistics.derived import Derivation
from serving.statistics.drift.counting import Block, Kernels, count_batch, count_in_numpy
from serving.statistics.drift.layout import Layout
from serving.statistics.profile import EDGES, ReferenceProfile
from serving.types import Datatype, Signature, TensorSpec

FEATURES = 30
Fresh = NDArray[np.float32]


def layout_of(rng: np.random.Generator, *, has_whole_rows: bool = False) -> Layout:
    """Return the layout of a model of 30 normally distributed features, with those of whole rows or without."""
    profile = ReferenceProfile.of_tensors({"x": rng.normal(size=(10_000, FEATURES)).astype(np.float32)}, {})
    elements = tuple(feature for feature in profile.features if feature.derivation is Derivation.ELEMENT)
    profile = profile if has_whole_rows else replace(profile, features=elements)
    return Layout(profile, Signature((TensorSpec("x", Datatype.FP32, (-1, FEATURES)),), (), batchable=True))


def rivals(layout: Layout, whole: Layout) -> dict[str, Callable[[Fresh], object]]:
    """Return what is measured, by name: functions of a batch."""
    from serving.statistics.drift.kernels import KERNELS  # noqa: PLC0415 - compiled when it is asked for

    edges = [np.array(feature.edges, np.float32) for feature in layout.features]

    def count(kernels: Kernels, layout: Layout = layout) -> Callable[[Fresh], object]:
        block = Block(len(layout.features))
        return lambda x: count_batch(block, layout, [x], rows=len(x), start=0, step=1, kernels=kernels)

    return {
        "kernel": count(KERNELS),
        "with whole rows": count(KERNELS, whole),
        "its numpy twin": count({np.dtype(np.float32): count_in_numpy}),
        "np.searchsorted": lambda x: [np.searchsorted(edge, x[:, k]) for k, edge in enumerate(edges)],
        "np.digitize": lambda x: [np.digitize(x[:, k], edge) for k, edge in enumerate(edges)],
    }


def measure(rows: int, rounds: int) -> dict[str, float]:
    """Return the median ns per value of each rival over fresh batches of so many rows."""
    rng = np.random.default_rng(0)
    candidates = rivals(layout_of(rng), layout_of(rng, has_whole_rows=True))
    times_ns: dict[str, list[int]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, run in candidates.items():
            batch = rng.normal(size=(rows, FEATURES)).astype(np.float32)
            began_ns = time.perf_counter_ns()
            run(batch)
            times_ns[name].append(time.perf_counter_ns() - began_ns)
    return {name: float(np.median(times)) / (rows * FEATURES) for name, times in times_ns.items()}


def main() -> None:
    """Print a table of batch sizes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--values", type=int, default=3_000_000, help="how many values each batch size gets")
    values = parser.parse_args().values
    print(f"ns per value, {FEATURES} FP32 features of {EDGES} edges, fresh data")
    for rows in (1, 16, 256, 4096):
        rounds = max(5, min(2_000, values // (rows * FEATURES)))
        figures = "  ".join(f"{name} {ns:.1f}" for name, ns in measure(rows, rounds).items())
        print(f"{rows:5} rows: {figures}")


if __name__ == "__main__":
    main()
