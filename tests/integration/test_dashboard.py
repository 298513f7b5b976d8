"""The dashboard and the alert rules, against a real server's /metrics: every metric and label that they name exists."""

import json
import re
import subprocess
import sys
import urllib.request
from dataclasses import replace

import grpc
import numpy as np
import promql_parser
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from serving.errors import Code
from serving.gpu.gauges import GpuReading
from serving.pb.open_inference_pb2_grpc import GRPCInferenceServiceStub
from serving.statistics.derived import Derivation
from serving.statistics.exporter import Exporter, Snapshot
from serving.statistics.latency import ServableStatistics
from serving.statistics.profile import ReferenceProfile
from serving.statistics.servable_view import Footprint, QueueView, ServableView
from tests.support import graphs
from tests.support.conformance import CALL_TIMEOUT_S, raw_request
from tests.support.servers import server_thread

OF_PROMETHEUS = {"instance", "job"}
"""Labels that Prometheus adds to what it scrapes; `up` is its own."""
GRAFANA = {"$__rate_interval": "5m", "$model": ".*", "$version": ".*"}


def penstock(*arguments):
    command = [sys.executable, "-m", "serving", "metrics", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def dashboard(tmp_path_factory):
    path = tmp_path_factory.mktemp("grafana") / "penstock.json"
    assert penstock("dashboard", "--out", str(path)).returncode == 0
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def rules():
    (group,) = yaml.safe_load(penstock("alerts").stdout)["groups"]
    return group["rules"]


def calibrated(profile):
    """The bytes of a profile, as if every confidence of its rows had been right."""
    features = tuple(
        replace(feature, held_out=feature.counts, held_out_right=feature.counts)
        if feature.derivation is Derivation.CONFIDENCE
        else feature
        for feature in profile.features
    )
    return replace(profile, features=features).to_bytes()


def of_a_gpu():
    """The page of a server whose one model is on a GPU, which few machines with this test have."""
    view = ServableView.copy_of(
        "m", "1", ServableStatistics(), batch_rows_max=1, queue=QueueView(), footprint=Footprint(), gpu=0
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("serving.gpu.gauges.read", lambda number: GpuReading(number, "GPU-a", 3e9, 8e9, 0.25, 70.5))
        return Exporter().render(Snapshot([view], {}, 0)).decode()


@pytest.fixture(scope="module")
def scraped(tmp_path_factory):
    """The labels of every sample of a server that has answered, refused and watched."""
    models = tmp_path_factory.mktemp("models")
    folder = graphs.write_model(models, "affine", graphs.affine(), config="slo_ms = 100\n[drift]\noverhead_max = 1.0\n")
    rows = np.random.default_rng(0).random((200, 4), np.float32)
    (folder / "profile.npz").write_bytes(calibrated(ReferenceProfile.of_tensors({"x": rows}, {"y": 2 * rows + 1})))
    with server_thread(models) as server, grpc.insecure_channel(server.address) as channel:
        infer = GRPCInferenceServiceStub(channel).ModelInfer
        infer(raw_request("affine", x=("FP32", rows)), timeout=CALL_TIMEOUT_S)
        with pytest.raises(grpc.RpcError):
            infer(raw_request("affine", x=("FP32", rows[:, :3])), timeout=CALL_TIMEOUT_S)
        with urllib.request.urlopen(f"{server.http}/metrics") as page:
            text = page.read().decode()
    labels = {"up": set()}
    for family in text_string_to_metric_families(text + of_a_gpu()):
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
    return labels


def selectors(node):
    """Yield every selector of a metric in a parsed expression."""
    if isinstance(node, promql_parser.VectorSelector):
        yield node
    for name in ("expr", "lhs", "rhs", "vector_selector"):
        if (child := getattr(node, name, None)) is not None:
            yield from selectors(child)
    for child in getattr(node, "args", None) or ():
        yield from selectors(child)


def groupings(node):
    """Yield the labels that an expression groups by, with what it groups."""
    if isinstance(node, promql_parser.AggregateExpr) and node.modifier is not None:
        yield node.modifier.labels, node.expr
    for name in ("expr", "lhs", "rhs"):
        if (child := getattr(node, name, None)) is not None:
            yield from groupings(child)
    for child in getattr(node, "args", None) or ():
        yield from groupings(child)


def parsed(expression):
    for variable, value in GRAFANA.items():
        expression = expression.replace(variable, value)
    return promql_parser.parse(expression)


def strangers(expression, scraped):
    """Return the metrics and labels of an expression that the server does not know."""
    tree = parsed(expression)
    found = [selector.name for selector in selectors(tree) if selector.name not in scraped]
    for selector in selectors(tree):
        known = scraped.get(selector.name, set()) | OF_PROMETHEUS
        found += [matcher.name for matcher in selector.matchers.matchers if matcher.name not in known]
    for labels, grouped in groupings(tree):
        for selector in selectors(grouped):
            found += [label for label in labels if label not in scraped.get(selector.name, set()) | OF_PROMETHEUS]
    return found


def targets(dashboard):
    return [(panel["title"], target) for panel in dashboard["panels"] for target in panel.get("targets", ())]


def test_every_metric_and_label_of_the_dashboard_is_scraped(dashboard, scraped):
    for title, target in targets(dashboard):
        assert strangers(target["expr"], scraped) == [], title


def test_every_metric_and_label_of_the_alert_rules_is_scraped(rules, scraped):
    for rule in rules:
        assert strangers(rule["expr"], scraped) == [], rule["alert"]


def left(expression, scraped):
    """Return the labels that the results of an expression may have."""
    tree = parsed(expression)
    if grouped := [label for labels, _ in groupings(tree) for label in labels]:
        return set(grouped)
    return {label for selector in selectors(tree) for label in scraped[selector.name]} | OF_PROMETHEUS


def test_legends_and_annotations_name_labels_that_are_left(dashboard, rules, scraped):
    for title, target in targets(dashboard):
        assert set(re.findall(r"{{(.*?)}}", target["legendFormat"])) <= left(target["expr"], scraped), title
    for rule in rules:
        named = set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"])))
        assert named <= left(rule["expr"], scraped), rule["alert"]


def test_a_metric_or_label_that_nobody_exports_would_be_found(scraped):
    wrong = 'sum by (modle) (rate(penstock_rows_total{versoin="1"}[5m])) / penstock_row_total'
    assert strangers(wrong, scraped) == ["penstock_row_total", "versoin", "modle"]


def test_alert_rules_compare_codes_that_exist(rules):
    codes = [m.value for rule in rules for s in selectors(parsed(rule["expr"])) for m in s.matchers.matchers
             if m.name == "code"]  # fmt: skip
    assert codes
    assert set(codes) <= {code.value for code in Code}


def test_every_alert_has_a_severity_and_a_summary(rules):
    assert len({rule["alert"] for rule in rules}) == len(rules)
    for rule in rules:
        assert rule["labels"]["severity"] in {"page", "ticket"}
        assert rule["annotations"]["summary"]


def test_most_of_what_is_exported_is_on_the_dashboard(dashboard, scraped):
    shown = {selector.name for _, target in targets(dashboard) for selector in selectors(parsed(target["expr"]))}
    own = {name for name in scraped if name.startswith("penstock_") and not name.endswith(("_created", "_sum"))}
    assert len(own & shown) > len(own) / 2


def test_panels_do_not_overlap(dashboard):
    taken = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"])
                 for y in range(place["y"], place["y"] + place["h"])}  # fmt: skip
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_a_file_that_cannot_be_written_is_one_line():
    result = penstock("alerts", "--out", "/nowhere/alerts.yml")
    assert (result.returncode, result.stderr) == (
        1, "penstock: --out /nowhere/alerts.yml cannot be written: No such file or directory\n",
    )  # fmt: skip
