"""Servers for release checks that run the real model in this process, and packages that pass every check."""

import contextlib
from pathlib import Path

import numpy as np
import onnxruntime

from serving import package
from serving.package import Golden
from serving.release.check import Tools
from serving.release.inference import Estimate
from serving.release.measured import Ratios
from serving.statistics.profile import ReferenceProfile
from tests.support import graphs, packages

ROWS = np.random.default_rng(0).normal(size=(600, 4)).astype(np.float32)
TRAINING, HELD_OUT = ROWS[:300], ROWS[300:]
CLASSES = ("one", "two", "three", "four")
LINEAGE = {
    "code": {"commit": "a" * 40, "changed": False},
    "digests": {"sample": "sha256:" + "0" * 64},
    "versions": {"numpy": "2"},
    "seeds": {"model": 0},
}


def write_sound(path: Path, scale: float = 2.0, **changes) -> Path:
    """Write the package of y = scale * x + 1 whose largest column is the class, with all that a check asks for."""
    answers = np.float32(scale) * ROWS + 1
    values = {
        "model": graphs.affine(scale=scale),
        "golden": Golden({"x": ROWS[:16]}, {"y": answers[:16]}).to_bytes(),
        "profile": ReferenceProfile.of_tensors({"x": TRAINING}, {"y": answers[:300]}).to_bytes(),
        "parity": {"passed": True, "checks": []},
        "lineage": LINEAGE,
        "waivers": (),
    }
    package.write(packages.contents(**{**values, **changes}), path)
    return path


def write_held_out(path: Path, rows=HELD_OUT) -> Path:
    np.savez(path, x=rows, label=np.array(CLASSES)[rows.argmax(axis=1)])
    return path


class InProcess:
    """Answers with onnxruntime, without a socket."""

    def __init__(self, model: bytes, memory_bytes: int) -> None:
        self._session = onnxruntime.InferenceSession(model)
        self._memory_bytes = memory_bytes

    def infer(self, inputs):
        names = [output.name for output in self._session.get_outputs()]
        return dict(zip(names, self._session.run(None, dict(inputs)), strict=True))

    def memory_bytes(self):
        return self._memory_bytes


def tools(*, latency: float = 1.0, memory_bytes=lambda _: 100_000_000) -> Tools:
    """How to try packages in this process; `latency` is in times of production's."""

    @contextlib.contextmanager
    def serve(made):
        yield InProcess(made.model, memory_bytes(made))

    def compare(*_):
        return Ratios(*[Estimate(latency, latency - 0.01, latency + 0.01)] * 2)

    return Tools(serve, compare)
