"""A real image model: digits as JPEG in, label and probabilities out, equal to Pillow, numpy and scikit-learn."""

import io

import numpy as np
import pytest
from skl2onnx import to_onnx
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from converters.target import OLDEST
from serving.errors import RemoteError
from serving.transport.client import Client
from serving.types import Datatype
from tests.support.environments import environment
from tests.support.graphs import write_model
from tests.support.servers import TRANSPORTS, server_thread
from tests.support.stock_clients import CLIENTS, run_session

PIL_Image = pytest.importorskip("PIL.Image", reason="needs Pillow: pip install 'penstock[image]'")
CONFIG = """
[pipeline]
outputs = ["probabilities", "digit"]

[[pipeline.preprocess]]
step = "decode_image"
input = "image"
mode = "L"

[[pipeline.preprocess]]
step = "resize"
input = "image"
height = 8
width = 8

[[pipeline.preprocess]]
step = "normalise"
input = "image"

[[pipeline.preprocess]]
step = "flatten"
input = "image"
output = "X"

[[pipeline.postprocess]]
step = "softmax"
input = "probabilities"

[[pipeline.postprocess]]
step = "argmax"
input = "probabilities"
output = "digit"
labels = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
"""
SHOWN = 100


class Digits:
    """Digits as JPEG files of 32 x 32, and a model of what a Python client would make of them."""

    def __init__(self) -> None:
        pictures, self.labels = load_digits(return_X_y=True)
        self.files = [self._encoded(picture) for picture in pictures]
        self.rows = np.stack([self._read(file) for file in self.files])
        self.model = LogisticRegression(C=0.5, max_iter=300).fit(self.rows[SHOWN:], self.labels[SHOWN:])

    @staticmethod
    def _encoded(picture):
        image = PIL_Image.fromarray((picture.reshape(8, 8) * 255 / 16).astype(np.uint8))
        file = io.BytesIO()
        image.resize((32, 32), PIL_Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        return file.getvalue()

    @staticmethod
    def _read(file):
        image = PIL_Image.open(io.BytesIO(file)).resize((8, 8), PIL_Image.Resampling.BILINEAR)
        return (np.asarray(image, np.float32) / 255).reshape(64)

    def write(self, models):
        options = {id(self.model): {"zipmap": False, "raw_scores": True}}
        graph = to_onnx(self.model, self.rows[:1], options=options, target_opset=OLDEST.opsets)
        write_model(models, "digits", graph.SerializeToString(), config=CONFIG)


@pytest.fixture(scope="module")
def digits():
    return Digits()


@pytest.fixture(scope="module", params=TRANSPORTS)
def server(request, digits, tmp_path_factory):
    models = tmp_path_factory.mktemp("models")
    digits.write(models)
    with server_thread(models, **TRANSPORTS[request.param]) as running:
        yield running


def words(places):
    names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    return [names[place] for place in places]


def ask(server, files):
    octets = np.empty(len(files), object)
    octets[:] = files
    with Client(server.address) as client:
        return client.infer("digits", {"image": (Datatype.BYTES, octets)})[1]


def test_jpeg_bytes_give_the_reference_pipelines_answers(server, digits):
    outputs = ask(server, digits.files[:SHOWN])
    expected = digits.model.predict_proba(digits.rows[:SHOWN])
    np.testing.assert_allclose(outputs["probabilities"], expected, atol=0.02)  # a level of 255 more or less
    agree = np.array(outputs["digit"].tolist()) == np.array(words(expected.argmax(axis=1)))
    assert agree.mean() >= 0.99
    assert (np.array(outputs["digit"].tolist()) == np.array(words(digits.labels[:SHOWN]))).mean() > 0.85


def test_stock_tritonclient_sends_files_and_gets_words(server, digits, tmp_path):
    np.savez(tmp_path / "inputs.npz", image=np.array(digits.files[:20], "S"))
    python = environment("tritonclient[grpc]>=2.60,<3")
    found = run_session(python, CLIENTS / "named_tensors_session.py", server.address, tmp_path, "digits")
    (described,) = found["metadata"]["inputs"]
    assert (described["name"], described["datatype"], described["shape"]) == ("image", "BYTES", ["-1"])
    expected = digits.model.predict_proba(digits.rows[:20])
    np.testing.assert_allclose(found["outputs"]["probabilities"], expected, atol=0.02)


def test_a_file_that_is_no_image_is_the_senders_mistake_and_nobody_elses(server, digits):
    with pytest.raises(RemoteError, match=r"row 1: decode_image of 'image': 5 bytes came that are no image") as caught:
        ask(server, [digits.files[0], b"hello"])
    assert caught.value.code == "INVALID_ARGUMENT"
    assert ask(server, digits.files[:1])["digit"].tolist()


def test_files_in_one_large_message_are_read_beside_the_event_loop(server, digits):
    outputs = ask(server, digits.files[:200])
    assert sum(map(len, digits.files[:200])) > 64 << 10
    assert len(outputs["digit"]) == 200
