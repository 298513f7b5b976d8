"""A real scikit-learn pipeline: its model served as ONNX, its preprocessing as `[pipeline]`, asked by stock clients."""

import numpy as np
import pytest
from skl2onnx import to_onnx
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_wine
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from converters.target import OLDEST
from serving.errors import RemoteError
from serving.transport.client import Client
from serving.types import Datatype
from tests.integration.test_commands import penstock
from tests.support.environments import environment
from tests.support.graphs import write_model
from tests.support.servers import TRANSPORTS, server_thread
from tests.support.stock_clients import CLIENTS, run_session

HUES = ["dark", "light", "medium"]


class Wines:
    """Wines as a client has them: measurements of which some are missing, and the hue as a word."""

    def __init__(self) -> None:
        rows, self.kinds = load_wine(return_X_y=True)
        self.words = np.array(["light", "medium", "dark"])[np.digitize(rows[:, 9], [3.5, 6.0])]
        self.numbers = np.delete(rows, 9, axis=1)
        self.numbers[np.random.default_rng(3).random(self.numbers.shape) < 0.05] = np.nan
        self.preprocessing = ColumnTransformer(
            [
                ("numbers", make_pipeline(SimpleImputer(), StandardScaler()), slice(0, 12)),
                ("words", OneHotEncoder(sparse_output=False), [12]),
            ]
        )
        self.table = np.array([[*row, word] for row, word in zip(self.numbers, self.words, strict=True)], object)
        self.model = LogisticRegression(C=0.05).fit(self.preprocessing.fit_transform(self.table), self.kinds)

    def probabilities(self):
        return self.model.predict_proba(self.preprocessing.transform(self.table))

    def write(self, models):
        """Put the model, without its preprocessing, and the declaration of that into a model repository."""
        sample = np.zeros((1, 15), np.float32)
        options = {"zipmap": False, "raw_scores": True}
        graph = to_onnx(self.model, sample, options={id(self.model): options}, target_opset=OLDEST.opsets)
        imputer, scaler = self.preprocessing.named_transformers_["numbers"]
        write_model(models, "wine", graph.SerializeToString(), config=f"""
[pipeline]
outputs = ["probabilities", "kind"]

[[pipeline.inputs]]
name = "measurements"
datatype = "FP64"
shape = [-1, 12]

[[pipeline.inputs]]
name = "hue"
datatype = "BYTES"
shape = [-1, 1]

[[pipeline.preprocess]]
step = "impute"
input = "measurements"
value = {[float(number) for number in imputer.statistics_]}

[[pipeline.preprocess]]
step = "scale"
input = "measurements"
mean = {[float(number) for number in scaler.mean_]}
scale = {[float(number) for number in scaler.scale_]}

[[pipeline.preprocess]]
step = "cast"
input = "measurements"
datatype = "FP32"

[[pipeline.preprocess]]
step = "one_hot"
input = "hue"
categories = {HUES}

[[pipeline.preprocess]]
step = "concat"
inputs = ["measurements", "hue"]
output = "X"

[[pipeline.postprocess]]
step = "softmax"
input = "probabilities"

[[pipeline.postprocess]]
step = "argmax"
input = "probabilities"
output = "kind"
labels = ["first", "second", "third"]
""")  # fmt: skip


@pytest.fixture(scope="module")
def wines():
    return Wines()


@pytest.fixture(scope="module", params=TRANSPORTS)
def server(request, wines, tmp_path_factory):
    models = tmp_path_factory.mktemp("models")
    wines.write(models)
    with server_thread(models, **TRANSPORTS[request.param]) as running:
        yield running


def ask(server, measurements, hues):
    words = np.array(hues, object).reshape(-1, 1)
    with Client(server.address) as client:
        inputs = {"measurements": (Datatype.FP64, measurements), "hue": (Datatype.BYTES, words)}
        return client.infer("wine", inputs)[1]


def test_raw_input_gives_scikit_learns_own_answers(server, wines):
    outputs = ask(server, wines.numbers, wines.words)
    expected = wines.probabilities()
    np.testing.assert_allclose(outputs["probabilities"], expected, atol=2e-6)
    names = np.array(["first", "second", "third"])[expected.argmax(axis=1)]
    assert [str(name) for name in outputs["kind"].reshape(-1)] == names.tolist()


def test_stock_tritonclient_sees_the_raw_signature_and_gets_the_same(server, wines, tmp_path):
    np.savez(tmp_path / "inputs.npz", measurements=wines.numbers, hue=wines.words.reshape(-1, 1))
    python = environment("tritonclient[grpc]==2.73.0")
    found = run_session(python, CLIENTS / "named_tensors_session.py", server.address, tmp_path, "wine")
    described = found["metadata"]
    assert [(item["name"], item["datatype"], item["shape"]) for item in described["inputs"]] == [
        ("measurements", "FP64", ["-1", "12"]), ("hue", "BYTES", ["-1", "1"]),
    ]  # fmt: skip
    assert [(item["name"], item["datatype"]) for item in described["outputs"]] == [
        ("probabilities", "FP32"), ("kind", "BYTES"),
    ]  # fmt: skip
    np.testing.assert_allclose(found["outputs"]["probabilities"], wines.probabilities(), atol=2e-6)


def test_a_word_that_the_model_does_not_know_is_the_senders_mistake(server, wines):
    with pytest.raises(RemoteError, match=r"row 1: one_hot of 'hue': 'blue' came in column 0, expected") as caught:
        ask(server, wines.numbers[:2], ["dark", "blue"])
    assert caught.value.code == "INVALID_ARGUMENT"


def test_the_command_shows_steps_shapes_and_times(server, wines):
    ask(server, wines.numbers, wines.words)
    result = penstock("models", "pipeline", "--model", "wine", "--address", server.address)
    assert result.returncode == 0, result.stderr
    line = next(line for line in result.stdout.splitlines() if "impute, scale, cast" in line)
    assert "numba" in line
    assert "measurements FP64 [-1, 12]" in line
    assert "measurements FP32 [-1, 12]" in line
    assert float(line.split()[-1].replace(",", "")) > 0
