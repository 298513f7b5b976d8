"""Quickstart's image model: scikit-learn's handwritten digits as JPEG files in, the digit and its probability out."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

from serving.commands.quickstart_raw import VERSION, graph_of

SIDE = 8
CONFIG = f"""[pipeline]
outputs = ["probability", "label"]

[[pipeline.preprocess]]
step = "decode_image"
input = "image"
mode = "L"

[[pipeline.preprocess]]
step = "resize"
input = "image"
height = {SIDE}
width = {SIDE}

[[pipeline.preprocess]]
step = "normalise"
input = "image"

[[pipeline.preprocess]]
step = "flatten"
input = "image"
output = "pixels"

[[pipeline.postprocess]]
step = "softmax"
input = "scores"

[[pipeline.postprocess]]
step = "top_k"
input = "scores"
k = 1
labels = {[str(digit) for digit in range(10)]}
outputs = ["probability", "label"]
"""


class DigitsModel:
    """A linear model of images of digits."""

    name = "digits"
    input = "image"
    tolerance = 0.05

    def __init__(self, model: Any, files: list[bytes], summary: str) -> None:
        self._model = model
        self._held_out = files
        self.summary = summary

    def files(self) -> Mapping[str, bytes]:
        """See `RawModel`."""
        weights = self._model.coef_.T.astype(np.float32)
        pixels = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["rows", SIDE * SIDE])
        nodes = [helper.make_node("Gemm", ["pixels", "weights", "bias"], ["scores"])]
        constants = {"weights": weights, "bias": self._model.intercept_.astype(np.float32)}
        graph = graph_of(nodes, [pixels], constants, weights.shape[1])
        return {f"{self.name}/model.toml": CONFIG.encode(), f"{self.name}/{VERSION}/model.onnx": graph}

    def held_out_inputs(self) -> list[Any]:
        """See `RawModel`."""
        return list(self._held_out)

    def reference(self, inputs: Sequence[Any]) -> tuple[list[str], list[float]]:
        """See `RawModel`; with Pillow, numpy and scikit-learn."""
        probabilities = self._model.predict_proba(_pixels(inputs))
        return [str(digit) for digit in probabilities.argmax(axis=1)], probabilities.max(axis=1).tolist()


def train() -> DigitsModel:
    """Encode the digits as JPEG files of 32 x 32, and fit a model to what Pillow makes of most of them."""
    pictures, labels = load_digits(return_X_y=True)
    files = [_jpeg(picture) for picture in pictures]
    train_files, test_files, train_labels, test_labels = train_test_split(files, labels, test_size=0.3, random_state=0)
    model = LogisticRegression(C=1.0, max_iter=500).fit(_pixels(train_files), train_labels)
    accuracy = model.score(_pixels(test_files), test_labels)
    summary = (
        f"linear model on scikit-learn's handwritten digits as JPEG ({len(train_files)} files): "
        f"accuracy {accuracy:.3f} on {len(test_files)} held-out files"
    )
    return DigitsModel(model, test_files, summary)


def _jpeg(picture: NDArray[np.float64]) -> bytes:
    image = Image.fromarray((picture.reshape(SIDE, SIDE) * (255 / 16)).astype(np.uint8))
    file = io.BytesIO()
    image.resize((32, 32), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()


def _pixels(files: Sequence[bytes]) -> NDArray[np.float32]:
    """Do what the pipeline does, with Pillow and numpy."""
    images = [Image.open(io.BytesIO(file)).resize((SIDE, SIDE), Image.Resampling.BILINEAR) for file in files]
    return np.stack([np.asarray(image, np.float32).reshape(-1) / 255 for image in images])
