import pytest

from serving.errors import RegistryError
from serving.registry.evidence import KINDS, check_evidence

DIGEST = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("kind", "facts"),
    [
        ("data", {"digests": {"train": DIGEST}, "rows": 569, "schema": {"radius": "float"}}),
        ("train", {"parameters": {"trees": 100}, "metrics": {"accuracy": 0.9}, "seeds": {"model": 0}, "commit": "abc"}),
        ("evaluate", {"folds": {"accuracy": [0.9, 0.8]}, "metrics": {"accuracy": 0.85}, "rows": 100}),
        ("automl", {"tool": "optuna", "trials": 20, "best": {"trees": 50}}),
        ("note", {"text": "looked at by hand"}),
    ],
)
def test_each_stage_has_facts_of_its_own(kind, facts):
    check_evidence(kind, facts)


@pytest.mark.parametrize(
    ("kind", "facts", "message"),
    [
        ("trian", {}, "did you mean 'train'"),
        ("train", {}, "without facts; it can have: parameters"),
        ("train", {"parameter": {}}, "did you mean 'parameters'"),
        ("train", {"package": DIGEST}, "has no 'package'"),
        ("train", {"commit": 7}, "expected text"),
        ("data", {"rows": True}, "expected a whole number"),
        ("data", {"rows": -5}, "expected a whole number"),
        ("automl", {"trials": 0.5}, "expected a whole number"),
        ("data", {"digests": {"train": "md5:7"}}, "no digest"),
        ("evaluate", {"folds": {"accuracy": [0.9]}}, "two or more numbers"),
        ("evaluate", {"folds": {"accuracy": "0.9"}}, "two or more numbers"),
        ("train", {"metrics": {"accuracy": "high"}}, "expected a number"),
    ],
)
def test_what_does_not_belong_is_refused_with_what_does(kind, facts, message):
    with pytest.raises(RegistryError, match=message):
        check_evidence(kind, facts)


def test_no_evidence_can_pose_as_the_registrys_own_records():
    assert KINDS.keys().isdisjoint({"push", "promote", "rollback", "check", "waiver"})
    assert all(names.keys().isdisjoint({"alias", "sequence", "package", "manifests"}) for names in KINDS.values())
