import dataclasses

import pytest

from serving import package
from serving.package import Waiver
from serving.package.signing import signer
from serving.registry.record import GENESIS, Record
from serving.release import documents
from serving.release.finding import Verdict
from serving.release.policy import EvidenceConfig
from serving.types import Datatype, Signature, TensorSpec
from tests.support import packages

CLEAN = {"code": {"commit": "a" * 40, "changed": False}, "digests": {"sample": "x"}, "versions": {"numpy": "2"},
         "seeds": {"model": 0}}  # fmt: skip


@pytest.fixture
def made(tmp_path):
    def make(name="p", sign=None, **changes):
        package.write(packages.contents(**changes), tmp_path / name, sign=sign)
        return package.read(tmp_path / name)

    return make


def test_a_whole_package_passes_and_a_damaged_one_fails_with_the_place(made):
    whole = made()
    assert documents.integrity(whole).verdict is Verdict.PASS
    model = whole.find(package.Part.MODEL)
    packages.blob_path(whole.path, model.digest).write_bytes(b"x" * model.bytes_count)
    finding = documents.integrity(whole)
    assert finding.verdict is Verdict.FAIL
    assert model.digest in finding.explanation


def test_a_signature_counts_when_the_policy_trusts_its_key(made, tmp_path):
    private, public = packages.write_key_pair(tmp_path)
    signed, bare = made("signed", sign=signer(private)), made("bare")
    keys = str(public.parent)
    assert documents.signed(signed, keys).verdict is Verdict.PASS
    assert documents.signed(bare, keys).verdict is Verdict.FAIL
    assert documents.signed(bare, "").verdict is Verdict.NOT_APPLICABLE
    assert documents.signed(bare, str(tmp_path / "none")).verdict in {Verdict.INCONCLUSIVE, Verdict.FAIL}


@pytest.mark.parametrize(
    ("parity", "waivers", "verdict"),
    [
        ({"passed": True, "checks": [{}]}, (), Verdict.PASS),
        ({"passed": False}, (), Verdict.FAIL),
        ({"passed": True}, (Waiver("parity.sample", "known"),), Verdict.FAIL),
        ({"max_abs": 0}, (), Verdict.INCONCLUSIVE),
        (None, (), Verdict.INCONCLUSIVE),
    ],
)
def test_parity_is_what_the_report_of_the_conversion_says(made, parity, waivers, verdict):
    assert documents.parity(made(parity=parity, waivers=waivers)).verdict is verdict


def changed(**changes):
    return dataclasses.replace(packages.AFFINE, **changes)


X, Y = packages.AFFINE.inputs[0], packages.AFFINE.outputs[0]


@pytest.mark.parametrize(
    ("after", "problem"),
    [
        (changed(), None),
        (changed(outputs=(Y, TensorSpec("more", Datatype.INT64, (-1,)))), None),
        (changed(inputs=(dataclasses.replace(X, shape=(-1, -1)),)), None),
        (changed(inputs=(dataclasses.replace(X, shape=(-1, 5)),)), "input 'x' was FP32"),
        (changed(inputs=(dataclasses.replace(X, datatype=Datatype.FP64),)), "is FP64"),
        (changed(inputs=(X, TensorSpec("z", Datatype.FP32, (-1,)))), "'z' is new"),
        (changed(inputs=(dataclasses.replace(X, name="z"),)), "'x' is gone, and clients send it"),
        (changed(outputs=(dataclasses.replace(Y, name="z"),)), "output 'y' is gone"),
        (changed(outputs=(dataclasses.replace(Y, shape=(-1, -1)),)), "output 'y' was"),
        (changed(batchable=False), "cannot run together"),
    ],
)
def test_a_signature_is_compatible_when_clients_of_the_old_one_are_answered(after: Signature, problem):
    found = documents.incompatibilities(packages.AFFINE, after)
    assert found == [] if problem is None else problem in "; ".join(found)


def test_with_nothing_in_production_a_comparison_does_not_apply(made):
    assert documents.compatible_signature(made(), None).verdict is Verdict.NOT_APPLICABLE


@pytest.mark.parametrize(
    ("lineage", "missing"),
    [
        (CLEAN, None),
        ({**CLEAN, "code": None}, "the commit"),
        ({**CLEAN, "code": {"commit": "a" * 40, "changed": True}}, "a clean checkout"),
        ({**CLEAN, "digests": {}}, "digests of the data"),
        ({**CLEAN, "versions": {}}, "a lock file"),
        ({**CLEAN, "seeds": {}}, "the seeds"),
    ],
)
def test_what_cannot_be_made_again_fails_with_what_is_missing(made, lineage, missing):
    finding = documents.reproducible(made(lineage=lineage), [])
    assert finding.verdict is (Verdict.PASS if missing is None else Verdict.FAIL)
    assert missing is None or missing in finding.explanation


def test_records_of_training_fill_what_the_package_does_not_say(made):
    facts = {"commit": "abc", "lock": "sha256:x", "seeds": {"model": 1}, "digests": {"train": "x"}}
    record = Record(1, "", "ada", "train", "affine", facts, GENESIS)
    assert documents.reproducible(made(lineage=None), [record]).verdict is Verdict.PASS


@pytest.mark.parametrize(
    ("text", "accepted", "verdict"),
    [("MIT\n", (), Verdict.PASS), ("MIT\n", ("MIT",), Verdict.PASS), ("MIT\n", ("Apache-2.0",), Verdict.FAIL),
     (None, (), Verdict.FAIL)],
)  # fmt: skip
def test_a_licence_is_there_and_accepted(made, text, accepted, verdict):
    assert documents.licence(made(licence=text), EvidenceConfig(licences=accepted)).verdict is verdict
