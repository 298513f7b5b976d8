import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from serving.commands.registry import group
from serving.errors import ConfigError, RegistryError
from serving.registry.client import Registry
from tests.support import registries
from tests.support.registries import write_package


@pytest.fixture
def place(tmp_path):
    """A registry whose policy lets any alias name any package: the gate has tests of its own."""
    folder = tmp_path / "registry"
    folder.mkdir()
    (folder / "policy.toml").write_text('[release]\nunchecked_aliases = ["production"]')
    return folder


@pytest.fixture
def penstock(place):
    """Run a verb on the registry; returns what it prints, and with `json=True` what it says to machines."""

    def run(*arguments, json_too=False, status=0, stdin=None):
        extra = ["--json", "-"] if json_too else []
        variables = {"PENSTOCK_REGISTRY": str(place), "PENSTOCK_WHO": "ada"}
        result = CliRunner().invoke(group, [*map(str, arguments), *extra], env=variables, input=stdin)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == status, result.output
        return json.loads(result.stdout) if json_too else result.stdout

    return run


def head(place):
    with Registry.open(str(place)) as registry:
        return registry.head()


def test_every_write_prints_the_head_and_verify_takes_it(penstock, place, tmp_path):
    writes = [
        ("push", write_package(tmp_path / "1", 1)),
        ("push", write_package(tmp_path / "2", 2), "--model", "affine"),
        ("promote", "affine/1", "--to", "production"),
        ("promote", "affine/2", "--to", "production", "--reason", "better"),
        ("rollback", "affine@production"),
        ("record", "note", "affine/1", "--facts", "-"),
    ]
    for write in writes:
        lines = penstock(*write, stdin='{"text": "hello"}').splitlines()
        assert lines[-1] == f"head {head(place)}"
    assert penstock("verify", "--head", head(place)).startswith("6 records and ")


def test_every_verb_speaks_json(penstock, place, tmp_path):
    pushed = penstock("push", write_package(tmp_path / "1", 1), json_too=True)
    facts = {"model": "affine", "sequence": 1, "package": pushed["package"]}
    assert pushed == {**facts, "is_new": True, "record": 1, "head": head(place)}
    assert penstock("push", tmp_path / "1", json_too=True) == {**facts, "is_new": False}
    penstock("push", write_package(tmp_path / "2", 2))
    moved = {"model": "affine", "alias": "production"}
    assert penstock("promote", "affine/1", "--to", "production", json_too=True).items() >= moved.items()
    penstock("promote", "affine/2", "--to", "production")
    assert penstock("rollback", "affine@production", json_too=True).items() >= moved.items()
    assert [line["aliases"] for line in penstock("list", json_too=True)] == [["production"], []]
    assert [line["kind"] for line in penstock("history", "affine", json_too=True)] == [
        "push", "push", "promote", "promote", "rollback"]  # fmt: skip
    assert penstock("diff", "affine/1", "affine/2", json_too=True)[1]["path"] == "evaluation.accuracy"
    assert penstock("lineage", "affine@production", json_too=True)["package"]["name"] == "affine"
    assert penstock("verify", json_too=True)["intact"]
    target = tmp_path / "out.tar"
    assert penstock("pull", "affine/1", "--to", target, json_too=True)["path"] == str(target)
    assert penstock("record", "train", "affine", "--file", f"code={__file__}", json_too=True)["kind"] == "train"


def test_people_see_tables(penstock, tmp_path):
    penstock("push", write_package(tmp_path / "1", 1))
    penstock("promote", "affine/1", "--to", "production", "--reason", "the first")
    assert penstock("list").splitlines()[1].split()[::2] == ["affine/1", "production"]
    last = penstock("history").splitlines()[-1].split()
    assert (last[0], last[2:7]) == ("2", ["ada", "promote", "affine", "alias=production", "sequence=1"])
    assert penstock("diff", "affine/1", "affine/1") == "they are the same\n"
    assert "the first" in penstock("lineage", "affine/1")


def test_a_damaged_registry_is_told_with_the_place_and_a_status(penstock, place, tmp_path):
    penstock("push", write_package(tmp_path / "1", 1))
    blob = next((place / "store" / "blobs" / "sha256").iterdir())
    blob.unlink()
    lines = penstock("verify", status=1).splitlines()
    assert lines[0] == f"blob sha256:{blob.name}: it is missing"
    assert not penstock("verify", json_too=True, status=1)["intact"]


def test_a_file_is_recorded_by_its_digest(penstock, place, tmp_path):
    (tmp_path / "train.csv").write_text("a,b\n")
    penstock("record", "data", "affine", "--file", f"train={tmp_path / 'train.csv'}", "--facts", "-",
             stdin='{"rows": 1}')  # fmt: skip
    with Registry.open(str(place)) as registry:
        (record,) = registry.history()
    assert record.facts["rows"] == 1
    assert record.facts["digests"]["train"].startswith("sha256:")


@pytest.mark.parametrize(
    ("arguments", "stdin", "error", "message"),
    [
        (["list"], None, RegistryError, "no registry in"),
        (["record", "train", "affine", "--facts", "-"], "{", RegistryError, "not valid JSON"),
        (["record", "train", "affine", "--facts", "-"], "[]", RegistryError, "expected an object"),
        (["record", "train", "affine"], None, RegistryError, "without facts"),
        (["record", "train", "affine", "--file", "x=/none"], None, ConfigError, "cannot be read"),
        (
            ["record", "data", "affine", "--file", f"x={__file__}", "--facts", "-"],
            '{"digests": "x"}',
            RegistryError,
            "'digests' of --facts is 'x', expected an object",
        ),
        (["promote", "affine@production", "--to", "x"], None, RegistryError, "is an alias"),
        (["check", "affine/1", "--against", "a b"], None, RegistryError, "cannot be an alias"),
        (["rollback", "affine/1"], None, RegistryError, "expected NAME@ALIAS"),
        (["pull", "affine", "--to", "x"], None, RegistryError, "names no package"),
        (["list", "--registry", "s3://bucket"], None, ConfigError, "registry.toml"),
    ],
)
def test_a_mistake_is_one_clear_error(penstock, arguments, stdin, error, message):
    with pytest.raises(error, match=message):
        penstock(*arguments, stdin=stdin)


@pytest.mark.parametrize("verb", ["list", "history"])
def test_a_model_that_nothing_is_known_of_is_refused(penstock, tmp_path, verb):
    penstock("push", write_package(tmp_path / "1", 1))
    with pytest.raises(RegistryError, match=r"no record is about a model 'afine'; did you mean 'affine'\?"):
        penstock(verb, "afine")


def test_a_head_that_is_no_digest_is_a_mistake_and_no_cut_ledger(penstock, tmp_path):
    penstock("push", write_package(tmp_path / "1", 1))
    with pytest.raises(RegistryError, match="'abc' is no digest"):
        penstock("verify", "--head", "abc")


def test_what_strangers_wrote_cannot_command_a_terminal(penstock):
    penstock("record", "note", "affine", "--facts", "-", stdin='{"text": "a\\n\\u001b[2Jb"}')
    assert penstock("history").splitlines()[1].endswith(r"text=a\n\x1b[2Jb")


def test_the_default_is_the_users_own_registry(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.delenv("PENSTOCK_REGISTRY", raising=False)
    result = CliRunner().invoke(group, ["push", str(registries.write_package(tmp_path / "1"))])
    assert result.exit_code == 0
    assert (tmp_path / "penstock" / "registry" / "catalogue.sqlite").exists()


def test_a_promotion_needs_a_check_and_a_waiver_names_its_author(penstock, place, tmp_path):
    (place / "policy.toml").unlink()
    penstock("push", write_package(tmp_path / "1", 1))
    with pytest.raises(RegistryError, match="has not been checked"):
        penstock("promote", "affine/1", "--to", "production")
    waived = penstock("waive", "affine/1", "parity", "--reason", "known", json_too=True)
    assert (waived["kind"], waived["who"], waived["facts"]["check"]) == ("waiver", "ada", "parity")
    (place / "policy.toml").write_text('[release]\napprovers = ["grace"]')
    with pytest.raises(RegistryError, match="ada may not release"):
        penstock("waive", "affine/1", "parity", "--reason", "known")


def test_training_rows_are_recorded_by_their_digests(penstock, place, tmp_path):
    import numpy as np

    np.savez(tmp_path / "rows.npz", x=np.zeros((3, 4)), **{"slice/a": np.zeros(3)})
    record = penstock("record", "data", "affine", "--rows", tmp_path / "rows.npz", json_too=True)
    assert record["facts"]["row_digests"]["bytes"] == 8
    assert penstock("verify").startswith("1 records and 1 blobs are intact")


def test_without_fsspec_it_says_what_to_install(place):
    program = "import sys; sys.modules['fsspec'] = None; from serving.__main__ import main; main()"
    result = subprocess.run([sys.executable, "-c", program, "registry", "list", "--registry", str(place)],
                            capture_output=True, text=True, check=False)  # fmt: skip
    assert result.returncode == 1
    assert result.stderr == "penstock: the registry needs fsspec: pip install 'penstock[registry]'\n"
