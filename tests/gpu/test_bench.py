"""The bench's three ways agree, and its table holds ratios of what was measured."""

import re
from types import SimpleNamespace

import numpy as np
import pytest

from bench import gpu_pipelines
from bench.resnet import resnet

pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")  # the simulator computes with numpy


def test_the_three_ways_give_the_same_answers_and_are_reported(gpu, place, capsys, monkeypatch):
    providers = place[1].get("providers", gpu_pipelines.CUDA)
    small = resnet(stages=((1, 4), (1, 4)), classes=10, side=8)
    batch = gpu_pipelines.photographs(2)[:, ::40, ::60]
    ways = gpu_pipelines.ways(small, batch, 0, tuple(providers))
    assert [way.is_bound for way in ways] == [False, False, True]
    assert [way.pipeline.reads_on_gpu for way in ways] == [False, True, True]
    times = iter([(6.0, 1.0), (3.0, 1.0), (2.0, 0.5)] * 3)
    checked = []
    monkeypatch.setattr(gpu_pipelines, "measured", lambda work, batch: next(times))
    check = gpu_pipelines.check
    monkeypatch.setattr(gpu_pipelines, "check", lambda answers: checked.append(answers) or check(answers))
    gpu_pipelines.report(ways, batch, batch_rows=[2], rounds=3)
    ((first, *others),) = checked
    assert [probability.shape for probability, _ in checked[0]] == [(2, 5)] * 3
    for other in others:
        np.testing.assert_allclose(other[0], first[0], atol=1e-4)
    assert re.search(r"2 +6\.00 .*3\.00 .*2\.00 .*3\.00 x +1\.50 x", capsys.readouterr().out)


def test_answers_that_differ_are_no_figures():
    one, other = [np.array([[0.9, 0.1]])], [np.array([[0.5, 0.5]])]
    with pytest.raises(AssertionError):
        gpu_pipelines.check([one, other])


def test_a_call_is_measured_in_ms(monkeypatch):
    wall_s, cpu_s = iter([5.0, 5.5]), iter([3.0, 3.25])
    clocks = SimpleNamespace(perf_counter=lambda: next(wall_s), process_time=lambda: next(cpu_s))
    monkeypatch.setattr(gpu_pipelines, "time", clocks)
    done = []
    assert gpu_pipelines.measured(done.append, "a batch") == (500, 250)
    assert done == ["a batch"]
