"""Stock tritonclient against the server: what it asks is understood, and its answers are onnxruntime's."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from onnx import helper

from tests.support import graphs
from tests.support.environments import environment
from tests.support.servers import server_thread

SCRIPT = Path(__file__).parent / "clients" / "tritonclient_session.py"
ROWS = 24
WIDTH = 64
SESSION_TIMEOUT_S = 240
CONFIG = f"[batching]\nmode = 'window'\nbatch_rows_max = {ROWS}\nqueue_delay_us_max = 20_000\n"
"""Single rows wait for one another, so that they do share batches; a request of all rows is a full batch by itself."""
GRAPHS = {
    "network": graphs.heavy(width=WIDTH, layers=3),
    "add_and_subtract": graphs.add_and_subtract(),
    "negate": graphs.build(
        [helper.make_node("Not", ["x"], ["y"])], [("x", "BOOL", ("rows", 5))], [("y", "BOOL", ("rows", 5))]
    ),
    "strings": graphs.identity("BYTES", ("rows", 3)),
}


@dataclass
class Session:
    """What one run of the client brought back, and what onnxruntime in this process gives for the same inputs."""

    facts: dict
    outputs: dict
    inputs: dict

    def onnxruntime(self, model, rows=slice(None)):
        """Compute the outputs of some rows in process, by name."""
        graph = ort.InferenceSession(GRAPHS[model], providers=["CPUExecutionProvider"])
        feed = {node.name: self.inputs[f"{model}.{node.name}"][rows] for node in graph.get_inputs()}
        names = [node.name for node in graph.get_outputs()]
        return dict(zip(names, graph.run(names, feed), strict=True))

    def answer(self, key, output):
        """Return one output of one answer."""
        if f"{key}.{output}" in self.facts:
            return np.array(self.facts[f"{key}.{output}"], np.object_)
        return self.outputs[f"{key}.{output}"]


def _inputs():
    rng = np.random.default_rng(11)
    words = ["", "a", "Grüße", "漢字", "🚰" * 9, " ", "\n", "a\0b"]
    integers = np.iinfo(np.int64)
    return {
        "network.x": rng.standard_normal((ROWS, WIDTH)).astype(np.float32),
        "add_and_subtract.INPUT0": rng.integers(integers.min // 2, integers.max // 2, (ROWS, 16)),
        "add_and_subtract.INPUT1": rng.integers(-100, 100, (ROWS, 16)),
        "negate.x": rng.integers(0, 2, (ROWS, 5)).astype(np.bool_),
        "strings.x": rng.choice(np.array(words, np.object_), (ROWS, 3)),
    }


@pytest.fixture(scope="module")
def session(tmp_path_factory, transport):
    folder = tmp_path_factory.mktemp("tritonclient")
    inputs = _inputs()
    np.savez(folder / "inputs.npz", **{name: array for name, array in inputs.items() if array.dtype != np.object_})
    (folder / "strings.json").write_text(json.dumps(inputs["strings.x"].tolist()))
    models = folder / "models"
    for name, graph in GRAPHS.items():
        graphs.write_model(models, name, graph, config=CONFIG)
    python = environment("tritonclient[grpc]>=2.60,<3")
    with server_thread(models, **transport) as server:
        command = [str(python), str(SCRIPT), server.address, str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=SESSION_TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stderr
    return Session(json.loads((folder / "facts.json").read_text()), dict(np.load(folder / "outputs.npz")), inputs)


def test_health_is_understood(session):
    asked = ("live", "ready", "model ready", "version ready", "aio ready")
    assert {name: session.facts[name] for name in asked} == dict.fromkeys(asked, True)


def test_server_metadata_is_understood(session):
    server = session.facts["server"]
    assert server["name"] == "penstock"
    assert {"model_repository", "model_configuration", "statistics"} <= set(server["extensions"])


def test_model_metadata_is_understood(session):
    metadata = session.facts["metadata"]
    assert metadata["versions"] == ["1"]
    tensor = {"datatype": "INT64", "shape": ["-1", "16"]}
    assert metadata["inputs"] == [{"name": "INPUT0", **tensor}, {"name": "INPUT1", **tensor}]
    assert metadata["outputs"] == [{"name": "OUTPUT0", **tensor}, {"name": "OUTPUT1", **tensor}]


def test_the_model_configuration_is_understood(session):
    config = session.facts["config"]["config"]
    assert config["name"] == "add_and_subtract"
    assert config["max_batch_size"] == ROWS
    assert [(tensor["name"], tensor["data_type"], tensor["dims"]) for tensor in config["input"]] == [
        ("INPUT0", "TYPE_INT64", ["16"]),
        ("INPUT1", "TYPE_INT64", ["16"]),
    ]


def test_index_load_and_unload_are_understood(session):
    assert session.facts["states"] == [["READY"], ["UNAVAILABLE"], ["READY"]]


def test_statistics_count_every_request_of_the_session(session):
    (before,) = session.facts["no statistics yet"]["model_stats"]
    (after,) = session.facts["statistics"]["model_stats"]
    assert "inference_count" not in before  # zero is left out of JSON
    in_whole = ("sync", "stream", "aio stream")
    assert int(after["inference_stats"]["success"]["count"]) == len(in_whole) + ROWS
    assert int(after["inference_stats"]["queue"]["count"]) == len(in_whole) + ROWS
    assert int(after["inference_count"]) == len(in_whole) * ROWS + ROWS
    assert len(in_whole) < int(after["execution_count"]) < len(in_whole) + ROWS


@pytest.mark.parametrize("model", GRAPHS)
@pytest.mark.parametrize("way", ["sync", "stream", "aio stream"])
def test_whole_requests_give_what_onnxruntime_gives_bit_for_bit(session, way, model):
    """These requests never share a batch: each is alone in flight, or the only one of its model."""
    for name, expected in session.onnxruntime(model).items():
        actual = session.answer(f"{way}.{model}", name)
        assert actual.shape == expected.shape
        assert actual.dtype == expected.dtype
        if expected.dtype == np.object_:
            assert actual.tolist() == expected.tolist()
        else:
            assert actual.tobytes() == expected.tobytes()


@pytest.mark.parametrize("model", GRAPHS)
def test_requests_sent_at_once_give_what_onnxruntime_gives(session, model):
    """They share batches, so the order in which floats are added up may differ."""
    for name, expected in session.onnxruntime(model).items():
        actual = np.concatenate([session.answer(f"async.{row}.{model}", name) for row in range(ROWS)])
        if expected.dtype == np.float32:
            np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)
        else:
            assert actual.tolist() == expected.tolist()


def test_asyncio_requests_sent_at_once_give_what_onnxruntime_gives(session):
    actual = np.concatenate([session.answer(f"aio.{row}.network", "y") for row in range(ROWS)])
    np.testing.assert_allclose(actual, session.onnxruntime("network")["y"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("model", GRAPHS)
def test_an_answer_names_its_model_version_and_request(session, model):
    assert session.facts[f"sync {model}"] == [model, "1", f"sync {model}"]


def test_outputs_come_in_the_asked_order(session):
    assert session.facts["sync add_and_subtract outputs"] == ["OUTPUT1", "OUTPUT0"]


def test_errors_on_a_stream_leave_it_open(session):
    assert len(session.facts["stream errors"]) == len(GRAPHS)
    assert all("'no_such_model'" in message for message in session.facts["stream errors"])


@pytest.mark.parametrize(
    ("mistake", "code", "word"),
    [
        ("unknown input", "INVALID_ARGUMENT", "'z'"),
        ("unknown model", "NOT_FOUND", "'no_such_model'"),
        ("unknown version", "NOT_FOUND", "'7'"),
        ("a sequence", "UNIMPLEMENTED", "sequence_"),
        ("a classification", "UNIMPLEMENTED", "classification"),
        ("shared memory", "UNIMPLEMENTED", "shared memory"),
        ("a configuration to load", "INVALID_ARGUMENT", "config"),
        ("an unknown model to unload", "NOT_FOUND", "'no_such_model'"),
    ],
)
def test_a_mistake_is_named(session, mistake, code, word):
    status, message = session.facts[mistake]
    assert status == f"StatusCode.{code}"
    assert word in message
