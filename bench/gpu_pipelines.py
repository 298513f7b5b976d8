"""What steps on a GPU save beside a model that runs on it: `python -m bench.gpu_pipelines`, where there is one.

Batches of photographs (UINT8, 640 x 427) are resized to 224 x 224, normalised and laid out for ResNet-50, and its five
most probable classes are answered, in three ways that take turns:

    CPU steps    steps on the CPU; onnxruntime copies what they give to the GPU, and back what the model gives
    unbound      steps on the GPU; what goes from them to the model, or back, is copied to the host between the two
    GPU steps    steps on the GPU, bound: the model reads what they have written there, and they read its outputs

Without a GPU it says so in one line and ends with status 2; what a simulator takes would say nothing.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_sample_images

from bench.resnet import resnet
from serving.config import InstancesConfig, PipelineConfig, SessionConfig
from serving.errors import LoadError
from serving.execution.graph import Graph
from serving.execution.session import Session
from serving.gpu.device import IS_SIMULATED, Gpu
from serving.pipeline.composition import Surroundings
from serving.pipeline.files import PackedFiles
from serving.pipeline.pipeline import Pipeline
from serving.types import Array

CUDA = ("CUDAExecutionProvider", "CPUExecutionProvider")
NO_GPU = 2
"""The status where there is none."""


@dataclass(frozen=True, slots=True)
class Way:
    """One way from photographs to answers. When it `is_bound`, the model takes what steps have left on the GPU."""

    name: str
    session: Session
    pipeline: Pipeline
    is_bound: bool

    def answers(self, photographs: Array) -> list[Array]:
        """Do for a batch what a servable does for it."""
        prepared = self.pipeline.preprocess([photographs], "bench")
        if not self.is_bound:
            prepared = [np.asarray(array) for array in prepared]
        return self.pipeline.postprocess(self.session.run(prepared), "bench", [photographs])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpu", type=int, default=0, help="its number (default 0)")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 32], help="of a batch (default 1 8 32)")
    parser.add_argument("--rounds", type=int, default=15, help="batches of each way in turn (default 15)")
    options = parser.parse_args()
    if options.gpu < 0 or options.rounds < 1 or min(options.rows) < 1:
        parser.error("expected --gpu from 0, and --rows and --rounds from 1 on")
    try:
        check_gpu(options.gpu)
        batch = photographs(max(options.rows))
        each = ways(resnet(), batch, options.gpu, CUDA)
    except LoadError as error:
        print(f"no figures: {error}", file=sys.stderr)
        sys.exit(NO_GPU)
    report(each, batch, batch_rows=options.rows, rounds=options.rounds)


def check_gpu(number: int) -> None:
    """Raise LoadError where there is no such GPU."""
    if IS_SIMULATED:
        raise LoadError("NUMBA_ENABLE_CUDASIM is set, and what a simulator takes says nothing")
    Gpu(number)


def ways(graph: bytes, batch: Array, gpu: int, providers: tuple[str, ...]) -> list[Way]:
    """Load the model three times, once for each way, for photographs as in `batch`, UINT8 [rows, height, width, 3].

    Raises LoadError.
    """
    config = SessionConfig(providers=providers)
    there = InstancesConfig(kind="gpu", gpus=(gpu,))
    result = []
    for name, on_gpu, is_bound in (("CPU steps", False, False), ("unbound", True, False), ("GPU steps", True, True)):
        session = Session(Graph(graph), config, there)
        steps_on = session.gpu if on_gpu else None
        steps = _steps(batch.shape[1:], session.signature.inputs[0].shape[-1])
        pipeline = Pipeline(steps, session.signature, Surroundings(PackedFiles()), gpu=steps_on)
        session.outputs_stay = is_bound and pipeline.reads_on_gpu
        result.append(Way(name, session, pipeline, is_bound))
    return result


def report(each: Sequence[Way], batch: Array, *, batch_rows: Sequence[int], rounds: int) -> None:
    """Print ms per batch of each way, and ratios, of batches of so many rows, at most those of `batch`."""
    print("ms per batch of photographs, median; CPU time of the process in brackets")
    print(f"{'rows':>5}" + "".join(f"{way.name:>20}" for way in each) + "   CPU steps/GPU steps   unbound/GPU steps")
    for rows in batch_rows:
        photographs_of_batch = batch[:rows]
        check([way.answers(photographs_of_batch) for way in each])  # it warms up, too
        taken = [[measured(way.answers, photographs_of_batch) for way in each] for _ in range(rounds)]
        wall, cpu = (np.median(np.array(taken)[:, :, kind], axis=0) for kind in (0, 1))
        cells = "".join(f"{ms:>10.2f} ({used:7.2f})" for ms, used in zip(wall, cpu, strict=True))
        print(f"{rows:5d}{cells}{wall[0] / wall[2]:>20.2f} x{wall[1] / wall[2]:>18.2f} x")


def measured(work: Callable[[Array], object], batch: Array) -> tuple[float, float]:
    """Return wall ms and CPU ms of a call."""
    began_s, cpu_began_s = time.perf_counter(), time.process_time()
    work(batch)
    return (time.perf_counter() - began_s) * 1e3, (time.process_time() - cpu_began_s) * 1e3


def check(answers: Sequence[list[Array]]) -> None:
    """Hold the ways to one another: probabilities may differ by what a level of 255 does."""
    for others in answers[1:]:
        np.testing.assert_allclose(
            np.asarray(others[0], np.float64), np.asarray(answers[0][0], np.float64), rtol=0.05, atol=1e-3
        )


def photographs(rows: int) -> NDArray[np.uint8]:
    """Return scikit-learn's two sample photographs in turn, as UINT8 [rows, 427, 640, 3]."""
    images: list[Any] = load_sample_images().images
    return np.stack([images[row % len(images)] for row in range(rows)])


def _steps(dims: Sequence[int], side: int) -> PipelineConfig:
    return PipelineConfig(
        inputs=({"name": "image", "datatype": "UINT8", "shape": [-1, *dims]},),
        preprocess=(
            {"step": "resize", "input": "image", "height": side, "width": side},
            {"step": "normalise", "input": "image", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
            {"step": "layout", "input": "image", "to": "NCHW"},
        ),
        postprocess=(
            {"step": "softmax", "input": "scores"},
            {"step": "top_k", "input": "scores", "outputs": ["probability", "label"], "k": 5},
        ),
    )


if __name__ == "__main__":
    main()
