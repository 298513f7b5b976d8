"""Drift through the real server: real data, real shifts, real commands.

The whole data set is the population. Reference, control and shifted rows are all drawn from it with replacement.
"""

import json
import queue
import subprocess
import sys
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import onnxruntime as ort
import pytest
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from converters.conversion import convert
from serving.pb import open_inference_pb2, penstock_pb2
from serving.statistics.derived import Derivation
from serving.statistics.drift.report import as_json
from serving.statistics.profile import ReferenceProfile
from serving.transport.client import Client, infer_message
from serving.transport.drift import decode
from serving.transport.monitor import MONITOR_SERVICE
from serving.types import Datatype
from tests.support import graphs
from tests.support.servers import TRANSPORTS, server_thread

PANE_S = 3600
"""No pane ends during a test; a report sees what was counted so far."""
ROWS = 3_000
BATCH = 100


class Population:
    """A data set, a model of it, and draws from it with replacement."""

    def __init__(self, data, seed=0):
        self.rows, self.names = data.data.astype(np.float32), [str(name) for name in data.feature_names]
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2_000)).fit(self.rows, data.target)
        self.graph = convert(model, self.rows.astype(np.float32)).graph
        self.rng = np.random.default_rng(seed)

    def draw(self, count=ROWS):
        return self.rows[self.rng.integers(0, len(self.rows), count)].copy()

    def profile(self, count=10_000):
        rows = self.draw(count)
        session = ort.InferenceSession(self.graph)  # a model's own outputs, rounded as when it serves
        outputs = dict(zip(("label", "probabilities"), session.run(None, {"features": rows}), strict=True))
        return ReferenceProfile.of_tensors({"features": rows}, outputs, names={"features": self.names}).to_bytes()

    def right(self, rows, truth):
        label, _ = ort.InferenceSession(self.graph).run(None, {"features": rows})
        return label == truth

    def column(self, name):
        return self.names.index(name)


def publish(folder, name, graph, profile=None, **drift):
    graphs.write_model(folder, name, graph)
    if profile is not None:
        (folder / name / "1" / "profile.npz").write_bytes(profile)
    table = {"pane_s": PANE_S, "overhead_max": 1.0} | drift
    lines = "\n".join(f"{key} = {value}" for key, value in table.items())
    (folder / name / "model.toml").write_text(f"[drift]\n{lines}\n")


def send(address, model, rows, tensor="features", datatype=Datatype.FP32):
    with Client(address) as client:
        for part in np.array_split(rows, max(1, len(rows) // BATCH)):
            client.infer(model, {tensor: (datatype, part)})


def message_of(address, model):
    with Client(address) as client:
        request = penstock_pb2.DriftReportRequest(name=model)
        answer = client.call("DriftReport", request, penstock_pb2.DriftReportResponse, service=MONITOR_SERVICE)
    (servable,) = answer.servables
    return servable


def report_of(address, model):
    return as_json(decode(message_of(address, model)))


def inputs_of(report):
    return [feature["name"] for feature in report["features"] if feature["role"] == "input"]


@pytest.fixture(scope="module")
def cancer():
    return Population(load_breast_cancer())


@pytest.fixture(scope="module")
def profile(cancer):
    return cancer.profile()


@pytest.fixture
def served(repository, cancer, profile):
    publish(repository, "cancer", cancer.graph, profile)
    with server_thread(repository) as server:
        yield server


def change_of_unit(rows, population):
    rows[:, population.column("mean area")] *= 0.01
    return ["mean area"]


def swapped_columns(rows, population):
    pair = [population.column(name) for name in ("mean smoothness", "mean symmetry")]
    rows[:, pair] = rows[:, pair[::-1]]
    return ["mean smoothness", "mean symmetry"]


def burst_of_nan(rows, population):
    rows[:400, population.column("worst texture")] = np.nan
    return ["worst texture"]


def clipped_sensor(rows, population):
    column = population.column("mean concavity")
    rows[:, column] = np.minimum(rows[:, column], np.quantile(population.rows[:, column], 0.75))
    return ["mean concavity"]


@pytest.mark.parametrize("shift", [change_of_unit, swapped_columns, burst_of_nan, clipped_sensor])
def test_a_shift_alarms_and_its_features_rank_first(served, cancer, shift):
    rows = cancer.draw()
    altered = shift(rows, cancer)
    send(served.address, "cancer", rows)
    report = report_of(served.address, "cancer")
    assert report["alarm"] is True
    assert report["rows"] == ROWS
    assert sorted(inputs_of(report)[: len(altered)]) == sorted(altered)


def test_ten_times_as_many_rows_without_a_shift_stay_quiet(served, cancer):
    send(served.address, "cancer", cancer.draw(10 * ROWS))
    report = report_of(served.address, "cancer")
    assert report["rows"] == 10 * ROWS
    assert report["alarm"] is False
    assert report["evidence"] < report["alarm_at"]


def test_a_burst_of_nan_is_told_as_missing(served, cancer):
    rows = cancer.draw(1_000)
    rows[:100, cancer.column("worst texture")] = np.nan
    send(served.address, "cancer", rows)
    (feature,) = [f for f in report_of(served.address, "cancer")["features"] if f["name"] == "worst texture"]
    assert feature["missing"] == pytest.approx(0.1)
    assert feature["psi"] > feature["noise_floor"]


def test_an_unseen_category_ranks_first(repository):
    wine = load_wine()
    edges = np.quantile(wine.data[:, 0], [0.25, 0.5, 0.75])
    names = np.array(["light", "medium", "strong", "fortified"], object)
    texts = np.stack([names[np.digitize(wine.data[:, 0], edges)], names[wine.target]], axis=1)
    rng = np.random.default_rng(3)

    def draw(count):
        return texts[rng.integers(0, len(texts), count)].copy()

    base = draw(5_000)
    profile = ReferenceProfile.of_tensors({"x": base}, {"y": base}, names={"x": ["strength", "kind"], "y": ["a", "b"]})
    publish(repository, "wine", graphs.identity("BYTES", ("rows", 2)), profile.to_bytes())
    with server_thread(repository) as server:
        send(server.address, "wine", draw(2_000), "x", Datatype.BYTES)
        assert report_of(server.address, "wine")["alarm"] is False
        rows = draw(1_000)
        rows[:60, 0] = "alcohol-free"
        send(server.address, "wine", rows, "x", Datatype.BYTES)
        report = report_of(server.address, "wine")
    assert report["alarm"] is True
    assert inputs_of(report)[0] == "strength"
    assert report["features"][0]["out_of_range"] == pytest.approx(60 / 3_000)


def test_digits_in_the_order_of_their_file_alarm_against_shuffled_ones(repository):
    digits = Population(load_digits())
    publish(repository, "digits", digits.graph, digits.profile(5_000), pane_rows_min=50)
    with server_thread(repository) as server:
        send(server.address, "digits", digits.draw(2_000))
        assert report_of(server.address, "digits")["alarm"] is False
        by_kind = digits.rows[np.argsort(load_digits().target, kind="stable")]
        send(server.address, "digits", by_kind[:600])
        assert report_of(server.address, "digits")["alarm"] is True


@pytest.mark.parametrize("transport", TRANSPORTS.values(), ids=TRANSPORTS)
def test_both_transports_count_the_same(repository, cancer, profile, transport):
    publish(repository, "cancer", cancer.graph, profile)
    rows = cancer.rows[:200]
    with server_thread(repository, **transport) as server:
        send(server.address, "cancer", rows)
        counted = decode(message_of(server.address, "cancer"))
    assert counted.rows == 200
    for row, feature in enumerate(counted.features):
        if feature.tensor == "features" and feature.derivation is Derivation.ELEMENT:
            expected = np.bincount(feature.slots_of(rows[:, feature.column]), minlength=64)
            np.testing.assert_array_equal(counted.open.counts[row], expected)


def test_counts_are_the_same_on_instance_threads(repository, cancer, profile):
    publish(repository, "cancer", cancer.graph, profile)
    with server_thread(repository, inline_us_max=0) as server:
        send(server.address, "cancer", cancer.draw(500))
        assert report_of(server.address, "cancer")["rows"] == 500


def test_without_a_profile_the_first_rows_are_the_reference(repository, cancer):
    publish(repository, "cancer", cancer.graph, reference_rows=1_000)
    with server_thread(repository) as server:
        assert report_of(server.address, "cancer")["phase"] == "collecting"
        send(server.address, "cancer", cancer.draw(1_000))
        report = report_of(server.address, "cancer")
        assert (report["phase"], report["reference"]) == ("watching", "self")
        rows = cancer.draw(1_000)
        change_of_unit(rows, cancer)
        send(server.address, "cancer", rows)
        assert inputs_of(report_of(server.address, "cancer"))[0] == f"features[{cancer.column('mean area')}]"


def test_a_restarted_server_goes_on_where_it_ended(repository, cancer, profile, tmp_path):
    publish(repository, "cancer", cancer.graph, profile)
    rows = cancer.draw(1_000)
    change_of_unit(rows, cancer)
    with server_thread(repository, state_dir=str(tmp_path / "state")) as server:
        send(server.address, "cancer", rows)
        before = report_of(server.address, "cancer")
    with server_thread(repository, state_dir=str(tmp_path / "state")) as server:
        after = report_of(server.address, "cancer")
    assert before["rows"] == 1_000
    for fact in ("rows", "alarm", "evidence", "features"):
        assert after[fact] == before[fact]


class Receiver(BaseHTTPRequestHandler):
    """Takes what is posted."""

    def do_POST(self):
        self.server.bodies.put((self.headers, self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def receiver():
    with ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
        server.bodies = queue.Queue()
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_an_alarm_is_posted_to_the_webhook(repository, cancer, profile, receiver, tmp_path):
    publish(repository, "cancer", cancer.graph, profile, pane_s=0.2)
    (tmp_path / "key").write_text("a secret of 16 or more bytes")
    rows = cancer.draw(500)
    change_of_unit(rows, cancer)
    webhook = {
        "drift_webhook": f"http://127.0.0.1:{receiver.server_port}/", "drift_webhook_key": str(tmp_path / "key"),
    }  # fmt: skip
    with server_thread(repository, **webhook) as server:
        send(server.address, "cancer", rows)
        headers, body = receiver.bodies.get(timeout=60)
    told = json.loads(body)
    assert (told["event"], told["subject"], told["model"]) == ("drift_alarm", "rows", "cancer")
    assert "mean area" in [feature["name"] for feature in told["features"]]
    assert headers["X-Penstock-Signature"].startswith("t=")


# ---- expected accuracy --------------------------------------------------------------------------------------------


@pytest.fixture
def halves(cancer):
    """Rows that the model is sure of and rows that it is not, each with the right answers."""
    target, rng = load_breast_cancer().target, np.random.default_rng(11)
    session = ort.InferenceSession(cancer.graph)
    label, scores = session.run(None, {"features": cancer.rows})
    # Labels that are right as often as the model claims to be: then a confidence means what it says.
    truth = np.where(rng.random(len(target)) < scores.max(axis=1), label, 1 - label)
    return cancer.rows, truth, scores.max(axis=1) < 0.95


def test_accuracy_is_expected_before_labels_come_and_is_lower_where_the_model_is_not_sure(
    repository, cancer, profile, halves, tmp_path
):
    rows, truth, is_unsure = halves
    publish(repository, "cancer", cancer.graph, profile)
    np.savez(tmp_path / "rows.npz", features=np.tile(rows, (5, 1)), label=np.tile(truth, 5))
    folder = repository / "cancer" / "1"
    result = penstock("drift", "calibrate", str(folder), "--held-out", str(tmp_path / "rows.npz"))
    assert result.returncode == 0, result.stderr
    assert f"of {5 * len(rows)} held-out rows" in result.stdout
    with server_thread(repository) as server:
        assert report_of(server.address, "cancer")["expected_accuracy"] is None
        send(server.address, "cancer", rows)
        usual = report_of(server.address, "cancer")["expected_accuracy"]
    right = np.array([cancer.right(rows, truth).mean(), cancer.right(rows[is_unsure], truth[is_unsure]).mean()])
    assert usual["value"] == pytest.approx(right[0], abs=0.01)
    assert usual["interval"][0] < right[0] < usual["interval"][1]
    with server_thread(repository) as server:
        send(server.address, "cancer", np.tile(rows[is_unsure], (5, 1)))
        unsure = report_of(server.address, "cancer")["expected_accuracy"]
        text = penstock("drift", "report", "--address", server.address, "--model", "cancer").stdout
    assert unsure["value"] == pytest.approx(right[1], abs=0.05)
    assert unsure["value"] < usual["value"] - 0.05
    assert "expected to be right on" in text
    assert "OF WHOLE ROWS" in text


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"features": np.zeros((3, 30), np.float32)}, "holds no 'label'"),
        ({"features": np.zeros((3, 7), np.float32), "label": np.zeros(3)}, "has shape"),
        ({"features": np.zeros((0, 30), np.float32), "label": np.zeros(0)}, "are none"),
    ],
)
def test_held_out_rows_that_do_not_fit_are_one_line(repository, cancer, profile, tmp_path, arrays, message):
    publish(repository, "cancer", cancer.graph, profile)
    np.savez(tmp_path / "rows.npz", **arrays)
    result = penstock("drift", "calibrate", str(repository / "cancer" / "1"), "--held-out", str(tmp_path / "rows.npz"))
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    assert message in result.stderr


# ---- commands ------------------------------------------------------------------------------------------------------


def penstock(*arguments):
    return subprocess.run([sys.executable, "-m", "serving", *arguments], capture_output=True, text=True, check=False)


def test_the_report_command_writes_json_a_page_and_counts_that_merge(served, cancer, tmp_path):
    rows = cancer.draw()
    change_of_unit(rows, cancer)
    send(served.address, "cancer", rows)
    places = {kind: tmp_path / f"report.{kind}" for kind in ("json", "html", "raw")}
    flags = [text for kind, path in places.items() for text in (f"--{kind}", str(path))]
    result = penstock("drift", "report", "--address", served.address, "--model", "cancer", *flags)
    assert result.returncode == 0, result.stderr
    assert "cancer/1: DRIFT" in result.stdout
    said = json.loads(places["json"].read_text())
    assert said["alarm"] is True
    evidence = [feature["evidence"] for feature in said["features"]]
    assert evidence == sorted(evidence, reverse=True)
    page = places["html"].read_text()
    assert "mean area" in page
    assert "<script" not in page
    assert "http" not in page
    merged = penstock("drift", "merge", str(places["raw"]), str(places["raw"]), "--json", "-")
    assert json.loads(merged.stdout)["rows"] == 2 * ROWS


def test_watch_prints_lines_and_says_by_its_status_whether_there_is_drift(served, cancer):
    ask = ("drift", "watch", "--address", served.address, "--model", "cancer", "--interval-s", "0.1", "--count", "2")
    quiet = penstock(*ask)
    assert (quiet.returncode, len(quiet.stdout.splitlines())) == (0, 2)
    rows = cancer.draw()
    change_of_unit(rows, cancer)
    send(served.address, "cancer", rows)
    alarmed = penstock(*ask)
    assert alarmed.returncode == 3
    assert "DRIFT" in alarmed.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("report", "--model", "nobody"), "NOT_FOUND: unknown model 'nobody'"),
        (("report", "--model", "cancer", "--html", "/nowhere/x.html"), "--html /nowhere/x.html cannot be written"),
        (("report", "--model", "cancer", "--version", "7"), "NOT_FOUND"),
    ],
)
def test_a_mistake_is_one_clear_line(served, arguments, message):
    result = penstock("drift", *arguments, "--address", served.address)
    assert result.returncode != 0
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_merging_what_is_no_report_is_one_clear_line(tmp_path):
    (tmp_path / "x").write_bytes(b"\xff\xff no message")
    result = penstock("drift", "merge", str(tmp_path / "x"))
    assert result.returncode != 0
    assert "was not written by" in result.stderr


def test_metrics_tell_the_evidence_and_the_strongest_features(served, cancer):
    rows = cancer.draw()
    change_of_unit(rows, cancer)
    send(served.address, "cancer", rows)
    with urllib.request.urlopen(f"{served.http}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    assert 'penstock_drift_alarm{model="cancer",version="1"} 1.0' in lines
    assert f'penstock_drift_rows_total{{model="cancer",version="1"}} {float(ROWS)}' in lines
    features = [line for line in lines if line.startswith("penstock_drift_feature_evidence{")]
    assert 'feature="mean area"' in features[0]
    assert len(features) == 10 + sum('feature="features: ' in line or "probabilities: " in line for line in features)
    assert any("features: mahalanobis" in line for line in features)


# ---- delayed labels ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", TRANSPORTS.values(), ids=TRANSPORTS)
def test_labels_find_their_requests_on_every_path(repository, cancer, transport, tmp_path):
    publish(repository, "cancer", cancer.graph, feedback_requests_max=1_000)
    target = load_breast_cancer().target
    with server_thread(repository, **transport) as server:
        with Client(server.address) as client:
            for k in range(40):
                message = infer_message("cancer", {"features": (Datatype.FP32, cancer.rows[k : k + 1])})
                message.id = f"request {k}"
                if k % 2:  # parameters take the ordinary path
                    message.parameters["any"].string_param = "thing"
                client.call("ModelInfer", message, open_inference_pb2.ModelInferResponse)
        labels = {f"request {k}": int(target[k]) for k in range(40)} | {"nobody's": 1}
        (tmp_path / "labels.json").write_text(json.dumps(labels))
        ask = ("drift", "feedback", "--model", "cancer", "--labels", str(tmp_path / "labels.json"), "--json", "-")
        first, again = (json.loads(penstock(*ask, "--address", server.address).stdout) for _ in range(2))
        said = penstock("drift", "report", "--model", "cancer", "--address", server.address).stdout
    assert (first["matched"], first["unmatched"], first["doubled"]) == (40, 1, 0)
    assert first["mean_error"] < 0.1
    assert (again["matched"], again["doubled"]) == (0, 40)
    assert "labels: 40 matched" in said


def test_labels_for_a_model_that_remembers_nothing_are_one_clear_line(served, tmp_path):
    (tmp_path / "labels.json").write_text('{"a": 1}')
    result = penstock(
        "drift", "feedback", "--model", "cancer", "--labels", str(tmp_path / "labels.json"), "--address", served.address
    )
    assert result.returncode == 1
    assert "INVALID_ARGUMENT: no requests are remembered" in result.stderr
