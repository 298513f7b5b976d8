"""A package moves on when a check lets it through, against what is in production now, under the policy of now."""

import dataclasses
import json

import numpy as np
import pytest

from serving.errors import ConfigError, RegistryError
from serving.registry.client import Registry
from serving.registry.names import Alias
from serving.release.check import check
from serving.release.finding import Verdict
from serving.release.gate import CheckedGate, waivers
from serving.release.held_out import digests_to_bytes, row_digests
from serving.release.page import page
from serving.release.policy import CHECKS, Policy, QualityConfig, ReleaseConfig
from serving.release.report import WAIVER, Report
from tests.support import packages, trials
from tests.support.registries import OPEN, version

PRODUCTION = Alias("affine", "production")
POLICY = Policy(quality=QualityConfig(margin=0.02))
NOT_CHECKED = {"signature of the author", "overfitting", "slices"}


@pytest.fixture
def registry(tmp_path):
    with Registry.open(str(tmp_path / "registry"), who="ada", create=True) as opened:
        opened.push(trials.write_sound(tmp_path / "1", 2.0))
        opened.push(trials.write_sound(tmp_path / "2", 3.0))
        yield opened


@pytest.fixture
def ask(registry, tmp_path):
    held_out = trials.write_held_out(tmp_path / "held.npz")

    def run(sequence, *, policy=POLICY, tools=None, file=held_out):
        tools = tools or trials.tools()
        return check(registry, version(sequence), PRODUCTION, policy, tools=tools, held_out_file=file)

    return run


def verdicts(report):
    return {finding.check: finding.verdict for finding in report.findings}


def promote(registry, sequence, policy=POLICY, alias="production"):
    return registry.promote(version(sequence), alias, gate=CheckedGate(policy))


def test_the_first_package_needs_no_comparison(ask, registry):
    report, record = ask(1)
    found = verdicts(report)
    assert list(found) == list(CHECKS)
    assert all(verdict.lets_through for verdict in found.values())
    assert found["quality"] is Verdict.NOT_APPLICABLE
    assert Report.from_record(record) == report
    assert promote(registry, 1).facts["check"] == record.position


def test_a_package_that_is_as_good_as_production_passes_every_check_that_applies(ask, registry):
    ask(1)
    promote(registry, 1)
    report, _ = ask(2)
    assert {name for name, verdict in verdicts(report).items() if verdict is not Verdict.PASS} == NOT_CHECKED
    assert report.production == registry.resolve(PRODUCTION).digest
    promote(registry, 2)
    assert registry.resolve(PRODUCTION).sequence == 2


def test_without_a_check_nothing_moves(registry):
    with pytest.raises(RegistryError, match="has not been checked; run `penstock registry check affine/1`"):
        promote(registry, 1)
    assert registry.aliases() == {}


def test_a_check_against_another_production_does_not_count(ask, registry):
    ask(1)
    ask(2)
    promote(registry, 1)
    with pytest.raises(RegistryError, match=r"compared with nothing, and affine@production names sha256:.* now"):
        promote(registry, 2)


def test_a_check_of_another_package_or_under_another_policy_does_not_count(ask, registry):
    ask(1)
    with pytest.raises(RegistryError, match="affine/2 has not been checked"):
        promote(registry, 2)
    stricter = dataclasses.replace(POLICY, quality=QualityConfig(margin=0.001))
    with pytest.raises(RegistryError, match="under another policy"):
        promote(registry, 1, stricter)


def test_a_failing_check_keeps_a_package_back_until_a_person_waives_it(ask, registry):
    ask(1)
    promote(registry, 1)
    report, _ = ask(2, tools=trials.tools(latency=1.5))
    assert verdicts(report)["latency p99"] is Verdict.FAIL
    with pytest.raises(RegistryError, match=r"may not be promoted: latency mean: fail .*; latency p99: fail"):
        promote(registry, 2)
    for name in ("latency mean", "latency p99"):
        registry.append(WAIVER, "affine", {"check": name, "reason": "a new feature"}, version=version(2))
    assert promote(registry, 2).facts["waived"] == ["latency mean", "latency p99"]
    assert waivers(registry.history(), report.package)["latency p99"] == "ada: a new feature"


def test_inconclusive_never_promotes(ask, registry):
    ask(1)
    promote(registry, 1)
    report, _ = ask(2, file=None)
    assert verdicts(report)["quality"] is Verdict.INCONCLUSIVE
    with pytest.raises(RegistryError, match="quality: inconclusive"):
        promote(registry, 2)


def test_the_last_check_counts(ask, registry):
    ask(1, tools=trials.tools())
    ask(1, file=None)
    with pytest.raises(RegistryError, match="reference profile: inconclusive"):
        promote(registry, 1)


def test_a_rollback_needs_no_check(ask, registry):
    ask(1)
    promote(registry, 1)
    ask(2)
    promote(registry, 2)
    registry.rollback(PRODUCTION)
    assert registry.resolve(PRODUCTION).sequence == 1


def test_only_what_the_policy_requires_keeps_a_package_back(ask, registry):
    policy = Policy(release=ReleaseConfig(required=("integrity", "licence")))
    report, _ = ask(1, policy=policy, file=None)
    assert verdicts(report)["reference profile"] is Verdict.INCONCLUSIVE
    promote(registry, 1, policy)


def test_only_approvers_release_and_unchecked_aliases_take_anything(registry):
    policy = Policy(release=ReleaseConfig(approvers=("grace",)))
    with pytest.raises(RegistryError, match="ada may not release this model; the policy names: grace"):
        promote(registry, 1, policy)
    staging = Policy(release=ReleaseConfig(unchecked_aliases=("staging",)))
    assert promote(registry, 1, staging, "staging").facts["unchecked"]


def test_held_out_rows_that_were_trained_on_make_quality_inconclusive(ask, registry, tmp_path):
    ask(1)
    promote(registry, 1)
    leaked = digests_to_bytes(row_digests({"x": trials.HELD_OUT[:5]}))
    registry.record("data", "affine", {"rows": 5}, row_digests=leaked)
    registry.push(trials.write_sound(tmp_path / "3", 4.0))
    report, _ = ask(3)
    (quality,) = (finding for finding in report.findings if finding.check == "quality")
    assert quality.verdict is Verdict.INCONCLUSIVE
    assert "5 of 300 held-out rows are among the training rows of affine/3" in quality.explanation
    assert registry.verify().findings == ()


def test_a_worse_package_is_found_out_on_the_held_out_rows(ask, registry, tmp_path):
    ask(1)
    promote(registry, 1)
    registry.push(trials.write_sound(tmp_path / "bad", -2.0))
    report, _ = ask(3)
    assert verdicts(report)["quality"] is Verdict.FAIL


def test_more_memory_is_found_out(ask, registry):
    ask(1)
    promote(registry, 1)
    first = registry.resolve(version(1)).digest
    greedy = trials.tools(memory_bytes=lambda made: 100_000_000 if made.digest == first else 150_000_000)
    assert verdicts(ask(2, tools=greedy)[0])["memory"] is Verdict.FAIL


def test_a_package_that_answers_in_another_way_than_its_golden_requests_fails(ask, registry, tmp_path):
    from serving.package import Golden

    golden = Golden({"x": trials.ROWS[:4]}, {"y": trials.ROWS[:4]}).to_bytes()
    registry.push(trials.write_sound(tmp_path / "bad", 2.0, golden=golden))
    report, _ = ask(3)
    assert verdicts(report)["loads and answers"] is Verdict.FAIL


def test_a_package_that_no_server_loads_fails_and_the_rest_is_inconclusive(ask, registry, tmp_path):
    def refuse(_):
        raise ConfigError("onnxruntime cannot load model.onnx")

    broken = dataclasses.replace(trials.tools(), serve=refuse)
    found = verdicts(ask(1, tools=broken)[0])
    assert found["loads and answers"] is Verdict.FAIL
    assert found["batch invariance"] is Verdict.INCONCLUSIVE


def test_a_production_that_no_server_loads_is_not_blamed_on_the_package(ask, registry):
    ask(1)
    promote(registry, 1)
    first, real = registry.resolve(version(1)).digest, trials.tools()

    def serve(made):
        if made.digest == first:
            raise ConfigError("production does not load")
        return real.serve(made)

    found = verdicts(ask(2, tools=dataclasses.replace(real, serve=serve))[0])
    assert found["loads and answers"] is Verdict.PASS
    assert found["batch invariance"] is Verdict.PASS
    assert {found[name] for name in ("quality", "latency mean", "memory")} == {Verdict.INCONCLUSIVE}


def test_trusted_keys_are_seen_from_the_registrys_folder(ask, registry, tmp_path):
    packages.write_key_pair(registry.folder)
    policy = dataclasses.replace(POLICY, release=ReleaseConfig(trusted_keys="keys"))
    assert verdicts(ask(1, policy=policy)[0])["signature of the author"] is Verdict.FAIL


def test_a_damaged_package_fails_and_nothing_else_is_said_of_it(ask, registry):
    model = registry.package(version(1)).blobs[1]
    (registry.folder / "store" / "blobs" / "sha256" / model.digest[7:]).write_bytes(b"x")
    found = verdicts(ask(1)[0])
    assert found.pop("integrity") is Verdict.FAIL
    assert set(found.values()) == {Verdict.INCONCLUSIVE}


def test_held_out_rows_of_another_shape_are_refused_before_anything_is_recorded(ask, registry, tmp_path):
    np.savez(tmp_path / "wrong.npz", x=np.zeros((3, 9)), label=[1, 2, 3])
    head = registry.head()
    with pytest.raises(ConfigError, match="expected"):
        ask(1, file=tmp_path / "wrong.npz")
    assert registry.head() == head


def test_a_report_is_a_table_json_and_a_page(ask, registry):
    report, _ = ask(1)
    described = report.describe(POLICY, {})
    assert described["passes"]
    json.dumps(described, allow_nan=False)
    rows = report.rows(POLICY, {"quality": "ada: <b>why</b>"})
    assert [row[0] for row in rows] == list(CHECKS)
    text = page(report, POLICY, {"quality": "ada: <b>why</b>"})
    assert "affine/1 may be promoted" in text
    assert "<b>why" not in text
    assert "&lt;b&gt;why" in text


def test_a_record_that_holds_no_report_is_refused(registry):
    record = registry.append("check", "affine", {"against": {"alias": "production"}}, version=version(1))
    with pytest.raises(RegistryError, match="holds no report"):
        Report.from_record(record)
    assert registry.promote(version(1), "other", gate=OPEN)
