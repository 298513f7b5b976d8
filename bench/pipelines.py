"""What pipelines save: `python -m bench.pipelines`, or `... images` or `... elements` alone.

`images`: scikit-learn's two sample photographs (640 x 427, JPEG) become FP32 [3, 224, 224] in front of a model that
does next to nothing. Once the server does that, from JPEG bytes; once a Python client does it with Pillow and numpy,
and sends tensors. CPU time of client and server together, per image, in slices that take turns; decoding, which both
do with the same library at full resolution, is measured by itself.

`elements`: chains of element-wise steps on a batch, as a servable runs them, against the same steps in plain numpy, in
one process, in slices that take turns. Arrays that numpy makes are its own business; both sides write to memory.
"""

import argparse
import functools
import io
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper
from PIL import Image
from sklearn.datasets import load_sample_images

from bench.load import penstock
from bench.server_process import cpu_s, find
from serving.config import PipelineConfig
from serving.pipeline.composition import Surroundings
from serving.pipeline.files import PackedFiles
from serving.pipeline.pipeline import Pipeline
from serving.transport.client import Client
from serving.types import DYNAMIC, Datatype, Signature, TensorSpec

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIDE = 224
COLUMNS = 30
CONFIG = f"""
[[pipeline.preprocess]]
step = "decode_image"
input = "x"

[[pipeline.preprocess]]
step = "resize"
input = "x"
height = {SIDE}
width = {SIDE}

[[pipeline.preprocess]]
step = "normalise"
input = "x"
mean = {list(MEAN)}
std = {list(STD)}

[[pipeline.preprocess]]
step = "layout"
input = "x"
to = "NCHW"
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("images", "elements"), help="one of them alone")
    parser.add_argument("--rounds", type=int, default=7, help="slices of each side (default 7)")
    parser.add_argument("--images", type=int, default=60, help="in a slice (default 60)")
    options = parser.parse_args()
    if options.what != "elements":
        measure_images(options.rounds, options.images)
    if options.what != "images":
        measure_elements(options.rounds)


def measure_images(rounds: int, count: int) -> None:
    """Print CPU time per image on both sides."""
    files = [_jpeg(array) for array in load_sample_images().images]
    graph = _means()
    with tempfile.TemporaryDirectory() as folder:
        for name, config in (("raw", CONFIG), ("tensors", "")):
            path = Path(folder) / name / "1" / "model.onnx"
            path.parent.mkdir(parents=True)
            path.write_bytes(graph)
            (path.parents[1] / "model.toml").write_text(config + "\n[session]\nintra_op_threads = 1\n")
        with penstock(Path(folder)) as target:
            server = find("127.0.0.1", target.port)
            with Client(f"127.0.0.1:{target.port}") as client:
                sides: dict[str, Callable[[int], object]] = {
                    "server": lambda k: client.infer("raw", {"x": (Datatype.BYTES, _one(files[k % 2]))}),
                    "client": lambda k: client.infer("tensors", {"x": (Datatype.FP32, _by_hand(files[k % 2])[None])}),
                    "decode": lambda k: _decoded(files[k % 2]),
                }
                _check(sides)
                taken: dict[str, list[float]] = {side: [] for side in sides}
                for _ in range(rounds):
                    for side, ask in sides.items():
                        taken[side].append(_cpu_ms(ask, count, server))
    _print_images(taken)


def _print_images(taken: dict[str, list[float]]) -> None:
    server, client, decode = (statistics.median(taken[side]) for side in ("server", "client", "decode"))
    print("CPU of client and server together, ms per image of 640 x 427, median over slices:")
    print(f"  pipeline in the server   {server:6.2f}   of which decoding {decode:.2f} ({decode / server:.0%})")
    print(f"  Pillow and numpy client  {client:6.2f}   of which decoding {decode:.2f} ({decode / client:.0%})")
    print(
        f"  in total {client / server:.2f} times less CPU, all but decoding {(client - decode) / (server - decode):.1f}"
    )


def _cpu_ms(ask: Callable[[int], object], count: int, server: Any) -> float:
    """Return the CPU time of both processes per call."""
    before_s = time.process_time() + (cpu_s(server) or 0.0)
    for index in range(count):
        ask(index)
    return (time.process_time() + (cpu_s(server) or 0.0) - before_s) / count * 1e3


def _check(sides: dict[str, Callable[[int], Any]]) -> None:
    """Warm up, and hold both sides to the same answer: a level of 255 is about 0.02."""
    for index in range(4):
        ours, theirs = (sides[side](index)[1]["y"] for side in ("server", "client"))
        np.testing.assert_allclose(ours, theirs, atol=0.02)


def _jpeg(array: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "JPEG", quality=90)
    return file.getvalue()


def _decoded(file: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(file)))


def _by_hand(file: bytes) -> NDArray[np.float32]:
    """Do what the pipeline does, as clients do it."""
    image = Image.open(io.BytesIO(file)).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    array = np.asarray(image, np.float32) / 255
    array = (array - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    return np.ascontiguousarray(array.transpose(2, 0, 1))


def _one(file: bytes) -> NDArray[Any]:
    array = np.empty(1, np.object_)
    array[0] = file
    return array


def _means() -> bytes:
    """Return a graph that does next to nothing: the mean of each channel."""
    floats = onnx.TensorProto.FLOAT
    nodes = [helper.make_node("GlobalAveragePool", ["x"], ["y"])]
    x = helper.make_tensor_value_info("x", floats, ["rows", 3, SIDE, SIDE])
    y = helper.make_tensor_value_info("y", floats, ["rows", 3, 1, 1])
    opset = [helper.make_opsetid("", 21)]
    made = helper.make_model(helper.make_graph(nodes, "means", [x], [y]), opset_imports=opset, ir_version=10)
    data: bytes = made.SerializeToString()
    return data


@dataclass(frozen=True, slots=True)
class Chain:
    """Steps on one tensor, before a model or `is_behind` it, and the same in numpy."""

    name: str
    given: Datatype
    wanted: Datatype
    steps: tuple[dict[str, Any], ...]
    plain: Callable[[Any], Any]
    is_behind: bool = False


def _chains() -> tuple[Chain, ...]:
    random = np.random.default_rng(0)
    values, mean, scale = (random.random(COLUMNS) + 0.5 for _ in range(3))
    values_32, mean_32, scale_32 = (array.astype(np.float32) for array in (values, mean, scale))
    impute = {"step": "impute", "value": values.tolist()}
    scaled = {"step": "scale", "mean": mean.tolist(), "scale": scale.tolist()}
    clip = {"step": "clip", "min": -3.0, "max": 3.0}
    positive = {"step": "clip", "min": 0.0, "max": 9.0}
    cast = {"step": "cast", "datatype": "FP32"}

    def filled(rows: NDArray[Any], value: NDArray[Any]) -> NDArray[Any]:
        return np.where(np.isnan(rows), value, rows)

    return (
        Chain("impute, scale, clip, cast", Datatype.FP64, Datatype.FP32, (impute, scaled, clip, cast),
              lambda rows: np.clip((filled(rows, values) - mean) / scale, -3.0, 3.0).astype(np.float32)),
        Chain("impute, scale, clip", Datatype.FP32, Datatype.FP32, (impute, scaled, clip),
              lambda rows: np.clip((filled(rows, values_32) - mean_32) / scale_32, np.float32(-3), np.float32(3))),
        Chain("impute, clip, log1p, scale", Datatype.FP32, Datatype.FP32,
              (impute, positive, {"step": "log1p"}, scaled),
              lambda rows: (np.log1p(np.clip(filled(rows, values_32), np.float32(0), np.float32(9))) - mean_32)
              / scale_32),
        Chain("scale, cast", Datatype.FP64, Datatype.FP32, (scaled, cast),
              lambda rows: ((rows - mean) / scale).astype(np.float32)),
        Chain("sigmoid, threshold, behind the model", Datatype.FP32, Datatype.BOOL,
              ({"step": "sigmoid"}, {"step": "threshold", "minimum": 0.5}),
              lambda rows: 1 / (1 + np.exp(-rows)) >= np.float32(0.5), is_behind=True),
    )  # fmt: skip


def measure_elements(rounds: int) -> None:
    """Print what chains of element-wise steps take, and what numpy takes for the same."""
    random = np.random.default_rng(0)
    print(f"us of CPU per batch of [rows, {COLUMNS}], median over slices:")
    for chain in _chains():
        print(f"{chain.name} ({chain.given.wire_name})")
        run = _runs(chain)
        for rows in (1, 8, 64, 256, 1024, 4096):
            batch = random.standard_normal((rows, COLUMNS)).astype(chain.given.dtype)
            if chain.steps[0]["step"] == "impute":
                batch[random.random(batch.shape) < 0.05] = np.nan
            compiled, plain = functools.partial(run, batch), functools.partial(chain.plain, batch)
            np.testing.assert_allclose(np.asarray(compiled()[0], np.float32), plain(), rtol=1e-5, atol=1e-6)
            taken = [(_us(compiled), _us(plain)) for _ in range(rounds)]
            ours, theirs = (statistics.median(side) for side in zip(*taken, strict=True))
            print(f"  {rows:5d} rows   pipeline {ours:7.1f}   numpy {theirs:7.1f}   {theirs / ours:.1f} times less")


def _runs(chain: Chain) -> Callable[[NDArray[Any]], list[Any]]:
    """Return what runs a chain on a batch, as a servable does."""
    steps = tuple({"input": "x", **step} for step in chain.steps)
    given, wanted, other = (
        TensorSpec(name, datatype, (DYNAMIC, COLUMNS))
        for name, datatype in (("x", chain.given), ("x", chain.wanted), ("y", Datatype.FP32))
    )
    surroundings = Surroundings(PackedFiles())
    if chain.is_behind:
        behind = Pipeline(
            PipelineConfig(postprocess=steps), Signature((other,), (given,), batchable=True), surroundings
        )
        return lambda batch: behind.postprocess([batch], "bench", ())
    declared = {"name": "x", "datatype": chain.given.wire_name, "shape": [-1, COLUMNS]}
    config = PipelineConfig(inputs=(declared,), preprocess=steps)
    before = Pipeline(config, Signature((wanted,), (other,), batchable=True), surroundings)
    return lambda batch: before.preprocess([batch], "bench")


def _us(work: Callable[[], object]) -> float:
    """Return the CPU time of a call."""
    began_s, count = time.process_time(), 0
    while (passed_s := time.process_time() - began_s) < 0.03:
        for _ in range(10):
            work()
        count += 10
    return passed_s / count * 1e6


if __name__ == "__main__":
    main()
