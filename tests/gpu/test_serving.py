"""A server whose model runs on a GPU answers what the same model on the CPU answers, over both transports."""

import numpy as np
import pytest
from onnx import helper, numpy_helper

from serving.errors import RemoteError
from serving.gpu.device import IS_SIMULATED
from serving.transport.client import Client
from serving.types import Datatype
from tests.support import graphs
from tests.support.servers import server_thread

pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")  # the simulator computes with numpy
SIDE = 6
PIPELINE = f"""
[pipeline]
outputs = ["probability", "label"]

[[pipeline.inputs]]
name = "image"
datatype = "UINT8"
shape = [-1, 9, 7, 3]

[[pipeline.preprocess]]
step = "resize"
input = "image"
height = {SIDE}
width = {SIDE}

[[pipeline.preprocess]]
step = "normalise"
input = "image"
mean = [0.5, 0.4, 0.3]
std = [0.2, 0.2, 0.3]

[[pipeline.preprocess]]
step = "layout"
input = "image"
to = "NCHW"

[[pipeline.postprocess]]
step = "softmax"
input = "scores"

[[pipeline.postprocess]]
step = "top_k"
input = "scores"
outputs = ["probability", "label"]
k = 2
labels = ["bird", "cat", "dog", "frog"]
"""
ON_GPU = """
[instances]
kind = "gpu"
count = 2

[session]
providers = {providers}
"""
PADDED = """
[batching]
batch_rows_allowed = [2, 8]
"""


def convolution():
    """Return a small network of convolutions: scores of four classes."""
    random = np.random.default_rng(0)
    weights = {"w": random.normal(size=(8, 3, 3, 3)), "v": random.normal(size=(8, 4)), "b": random.normal(size=4)}
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["c"], kernel_shape=[3, 3]), helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]), helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "v", "b"], ["scores"]),
    ]  # fmt: skip
    initializers = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()]
    shape = ("rows", 3, SIDE, SIDE)
    return graphs.build(nodes, [("image", "FP32", shape)], [("scores", "FP32", ("rows", 4))], initializers)


@pytest.fixture
def client(gpu, place, repository, transport):
    on_gpu = ON_GPU.format(providers=list(place[1].get("providers", ())))
    graphs.write_model(repository, "cpu", convolution(), config=PIPELINE)
    graphs.write_model(repository, "gpu", convolution(), config=on_gpu + PIPELINE)
    graphs.write_model(repository, "padded", convolution(), config=on_gpu + PADDED + PIPELINE)
    graphs.write_model(repository, "plain", graphs.affine(), config=on_gpu)
    with server_thread(repository, **transport) as server, Client(server.address) as client:
        yield client


def test_images_are_answered_as_on_the_cpu(client):
    images = np.random.default_rng(1).integers(0, 256, (5, 9, 7, 3), np.uint8)
    answers = {}
    for model in ("cpu", "gpu", "padded"):
        answers[model] = [client.infer(model, {"image": (Datatype.UINT8, images[:rows])})[1] for rows in (1, 5, 2)]
    for cpu, *others in zip(*answers.values(), strict=True):
        for other in others:
            assert other["label"].tolist() == cpu["label"].tolist()
            # Tensor cores round what convolutions multiply to TF32, of 11 bits.
            np.testing.assert_allclose(other["probability"], cpu["probability"], rtol=1e-3 if IS_SIMULATED else 2e-2)


def test_a_model_without_a_pipeline_is_answered(client):
    rows = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert client.infer("plain", {"x": (Datatype.FP32, rows)})[1]["y"].tolist() == (2 * rows + 1).tolist()


def test_bad_input_is_refused_as_on_the_cpu(client):
    for model in ("cpu", "gpu"):
        with pytest.raises(RemoteError, match=r"image"):
            client.infer(model, {"image": (Datatype.UINT8, np.zeros((1, 9, 8, 3), np.uint8))})
