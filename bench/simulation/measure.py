"""Measure how long real models take for batches of 1, 2, 4 ... 256 rows: the curves that the simulator replays.

    python -m bench.simulation.measure

writes `curves.json` beside this module: for each model the lower quartile, in ns, of runs on bare onnxruntime with one
thread. What counts is the thread's own CPU time, so that the machine may have other work. Sizes are visited in turn, so
that a slow moment touches all of them; a model stops at the size whose run takes longer than `RUN_S_MAX`.
"""

import json
import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from bench.light_models import open_batch

CURVES = Path(__file__).with_name("curves.json")
SIZES = tuple(1 << power for power in range(9))
RUN_S_MAX = 1.0
ROUNDS_MAX, MODEL_S = 200, 15.0


def main() -> None:
    """Measure all models and write the file."""
    curves = {}
    for name, make in MODELS.items():
        curves[name] = measured(make())
        print(name, [round(ns / 1e3) for ns in curves[name]["ns"]], "us", flush=True)
    document = {"command": "python -m bench.simulation.measure", "ort": ort.__version__, "curves": curves}
    CURVES.write_text(json.dumps(document, indent=1) + "\n")


def measured(graph: bytes) -> dict[str, Any]:
    """Return the sizes that a graph was run at and the lower quartile of ns of each."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    feeds, times_ns = _feeds(session), {}
    for rows, feed in feeds.items():
        session.run(None, feed)
        times_ns[rows] = [_run_ns(session, feed)]
        if times_ns[rows][0] > RUN_S_MAX * 1e9:
            break
    until, rounds = time.monotonic() + MODEL_S, 0
    while time.monotonic() < until and rounds < ROUNDS_MAX:
        rounds += 1
        for rows, taken in times_ns.items():
            taken.append(_run_ns(session, feeds[rows]))
    quartiles = {rows: round(statistics.quantiles(taken)[0]) for rows, taken in times_ns.items()}
    return {"rows": list(quartiles), "ns": list(quartiles.values())}


def _feeds(session: Any) -> dict[int, dict[str, NDArray[np.float32]]]:
    random, given = np.random.default_rng(0), session.get_inputs()[0]
    dims = given.shape[1:]
    return {rows: {given.name: random.random((rows, *dims), np.float32)} for rows in SIZES}


def _run_ns(session: Any, feed: dict[str, NDArray[np.float32]]) -> int:
    began_ns = time.thread_time_ns()
    session.run(None, feed)
    return time.thread_time_ns() - began_ns


def network(*widths: int) -> bytes:
    """Return a fully connected network with seeded weights and a relu between its layers."""
    random, nodes, weights, name = np.random.default_rng(0), [], [], "x"
    for index, (wide, narrow) in enumerate(pairwise(widths)):
        matrix = (random.standard_normal((wide, narrow)) / wide**0.5).astype(np.float32)
        weights.append(numpy_helper.from_array(matrix, f"w{index}"))
        nodes += [helper.make_node("MatMul", [name, f"w{index}"], [f"h{index}"])]
        nodes += [helper.make_node("Relu", [f"h{index}"], [f"r{index}"])]
        name = f"r{index}"
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", widths[0]])
    answer = helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", widths[-1]])
    graph = helper.make_graph(nodes, "network", [given], [answer], weights)
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21)])
    data: bytes = model.SerializeToString()
    return data


def forest() -> bytes:
    """Return a random forest of 200 trees."""
    from skl2onnx import to_onnx  # noqa: PLC0415 - an extra, for this model alone
    from sklearn.ensemble import RandomForestClassifier  # noqa: PLC0415

    random = np.random.default_rng(0)
    features = random.random((4000, 30), np.float32)
    labels = (features[:, :5].sum(1) > 2.5).astype(int)
    model = RandomForestClassifier(200, random_state=0).fit(features, labels)
    graph: onnx.ModelProto = to_onnx(model, features[:1], options={"zipmap": False})
    data: bytes = graph.SerializeToString()
    return data


MODELS: dict[str, Callable[[], bytes]] = {
    "linear": lambda: network(30, 2),
    "network": lambda: network(64, 512, 512, 10),
    "wide": lambda: network(1024, 4096, 4096, 1000),
    "forest": forest,
    "shufflenet": lambda: open_batch("shufflenet"),
    "squeezenet": lambda: open_batch("squeezenet"),
}


if __name__ == "__main__":
    main()
