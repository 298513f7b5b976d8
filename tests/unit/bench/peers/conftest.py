import numpy as np
import pytest

from bench.peers.model import read_model
from serving.transport.client import infer_message
from serving.types import Datatype
from tests.support import graphs


@pytest.fixture
def affine(tmp_path):
    """The model that fake peers serve: y = 2 x + 1, FP32 [rows, 4]."""
    path = tmp_path / "affine.onnx"
    path.write_bytes(graphs.affine())
    return read_model(path)


@pytest.fixture
def messages():
    """Two different requests for it, of one row and of two."""
    random = np.random.default_rng(7)
    rows = [random.random((count, 4), np.float32) for count in (1, 2)]
    return [infer_message("affine", {"x": (Datatype.FP32, array)}).SerializeToString() for array in rows]


@pytest.fixture
def environment(tmp_path):
    """Make a virtual environment whose Python is a shell script."""

    def make(script, name="environment"):
        program = tmp_path / name / "bin" / "python"
        program.parent.mkdir(parents=True)
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        return tmp_path / name

    return make
