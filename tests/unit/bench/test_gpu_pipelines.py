"""The bench of GPUs: a network of real size, and one line where there is no GPU."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from bench.resnet import resnet
from serving.config import InstancesConfig, SessionConfig
from serving.errors import LoadError
from serving.execution.graph import Graph
from serving.execution.session import Session
from serving.gpu.device import Gpu

ROOT = Path(__file__).parents[3]


def run(*arguments, **environment):
    command = [sys.executable, "-m", "bench.gpu_pipelines", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


def test_without_a_gpu_it_says_so_in_one_line_and_ends_with_status_2():
    try:
        Gpu(0)
    except LoadError:
        done = run()
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("no figures: [instances] kind = ")
        assert done.stderr.count("\n") == 1
        return
    pytest.skip("there is a GPU")


def test_a_simulated_gpu_gives_no_figures():
    done = run(NUMBA_ENABLE_CUDASIM="1")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "no figures: NUMBA_ENABLE_CUDASIM is set, and what a simulator takes says nothing\n"


def test_nonsense_is_refused():
    done = run("--rows", "0")
    assert done.returncode == 2
    assert "expected --gpu from 0, and --rows and --rounds from 1 on" in done.stderr


def test_it_is_a_network_of_real_size():
    model = onnx.load_from_string(resnet())
    onnx.checker.check_model(model)
    weights = sum(numpy_helper.to_array(each).size for each in model.graph.initializer)
    assert weights == 25_529_472  # of the 25,557,032 that are published 27,560 fewer: norms' scales, and a bias
    assert sum(node.op_type == "Conv" for node in model.graph.node) == 53


def test_its_numbers_keep_their_size():
    session = Session(Graph(resnet(side=64)), SessionConfig(), InstancesConfig())
    images = np.random.default_rng(0).normal(size=(2, 3, 64, 64)).astype(np.float32)
    (scores,) = session.run([images])
    assert scores.shape == (2, 1000)
    assert 0.01 < scores.std() < 10
