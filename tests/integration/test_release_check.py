"""`penstock registry check` with real servers and real load, as a person types it."""

import json

import pytest

from serving.registry.client import Registry
from tests.integration.test_commands import penstock
from tests.support import trials
from tests.support.registries import OPEN, version

POLICY = """
[quality]
margin = 0.02
[cost]
latency_slice_s = 0.2
latency_margin = 50.0
memory_starts = 2
memory_margin = 1.0
"""


@pytest.mark.slow
def test_a_package_is_tried_on_real_servers_against_production_and_promoted(tmp_path):
    place, held_out = tmp_path / "registry", trials.write_held_out(tmp_path / "held.npz")
    with Registry.open(str(place), create=True) as registry:
        for number in (1, 2):
            registry.push(trials.write_sound(tmp_path / f"{number}", float(number + 1)))
        registry.promote(version(1), "production", gate=OPEN)
    (place / "policy.toml").write_text(POLICY)
    where = {"PENSTOCK_REGISTRY": str(place)}
    refused = penstock("registry", "promote", "affine/2", "--to", "production", **where)
    assert (refused.returncode, "has not been checked" in refused.stderr) == (1, True)
    page = tmp_path / "report.html"
    checked = penstock("registry", "check", "affine/2", "--held-out", str(held_out), "--html", str(page), "--json", "-",
                       **where, PENSTOCK_MODELS="/elsewhere")  # fmt: skip
    found = {finding["check"]: finding for finding in json.loads(checked.stdout)["findings"]}
    for name in ("loads and answers", "batch invariance", "quality", "latency mean", "latency p99", "memory"):
        assert found[name]["verdict"] == "pass", found[name]
    assert checked.returncode == 0
    assert 0 < found["latency mean"]["low"] < found["latency mean"]["number"] < found["latency mean"]["high"]
    assert "affine/2 may be promoted" in page.read_text()
    assert penstock("registry", "promote", "affine/2", "--to", "production", **where).returncode == 0


def test_a_package_that_does_not_load_fails_with_the_servers_own_reason(tmp_path):
    place = tmp_path / "registry"
    with Registry.open(str(place), create=True) as registry:
        registry.push(trials.write_sound(tmp_path / "1", model=b"not a model"))
    checked = penstock("registry", "check", "affine/1", "--json", "-", PENSTOCK_REGISTRY=str(place))
    assert checked.returncode == 1
    found = {finding["check"]: finding for finding in json.loads(checked.stdout)["findings"]}
    assert found["loads and answers"]["verdict"] == "fail"
    assert "onnxruntime cannot load" in found["loads and answers"]["explanation"]
    waived = penstock(
        "registry", "waive", "affine/1", "loads and answers", "--reason", "", PENSTOCK_REGISTRY=str(place)
    )
    assert (waived.returncode, "needs a reason" in waived.stderr) == (1, True)
