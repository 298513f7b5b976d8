"""Counting for drift what lies on a GPU."""

import numpy as np

from serving.config import DriftConfig
from serving.gpu.memory import GpuArray, uploaded
from serving.statistics.drift.counter import Counter
from serving.statistics.drift.watch import DriftWatch
from serving.statistics.profile import ReferenceProfile
from serving.types import DYNAMIC, Datatype, Signature, TensorSpec
from tests.support.clocks import FakeClock

INPUT, OUTPUT = (TensorSpec(name, Datatype.FP32, (DYNAMIC, 2)) for name in ("x", "y"))
SAMPLES = np.random.default_rng(1).normal(size=(2, 5_000, 2))
X, Y = np.random.default_rng(2).normal(size=(2, 100, 2)).astype(np.float32)


def test_a_batch_on_a_gpu_is_counted_as_one_of_the_host_though_its_inputs_are_overwritten(gpu, monkeypatch):
    watch = DriftWatch("m", 1, Signature((INPUT,), (OUTPUT,), True), DriftConfig(overhead_max=1.0), clock=FakeClock())
    counter = watch.counter()
    watch.begin(ReferenceProfile.of_tensors({"x": SAMPLES[0]}, {"y": SAMPLES[1]}).to_bytes())

    def counted(inputs, outputs):
        counter.keep(inputs, outputs, rows=100, infer_ns=1_000_000)
        if isinstance(inputs[0], GpuArray):
            inputs[0].data.copy_to_device(np.full_like(X, np.nan))
        counter.count_kept()
        return [part.tolist() for part in counter.swap().counts]

    with gpu.active():
        expected = counted([X], [Y])
        for bytes_max in (X.nbytes, X.nbytes - 1):
            monkeypatch.setattr(Counter, "KEPT_BYTES_MAX", bytes_max)
            assert counted([GpuArray(uploaded(X), gpu)], [GpuArray(uploaded(Y), gpu)]) == expected
    watch.end()
