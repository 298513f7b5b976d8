import json

import pytest
from click.testing import CliRunner

from serving.commands.registry import group
from serving.errors import ConfigError, RegistryAway, RegistryError
from serving.registry.client import Registry
from serving.registry.names import Alias
from serving.release.judge import Arm, Block
from serving.release.rollouts import Rollouts
from serving.release.sightings import Sighting, Sightings
from tests.support import registries
from tests.support.registries import write_package

PRODUCTION = Alias("affine", "production")


@pytest.fixture
def place(tmp_path):
    """A registry in which package 1 is production and package 2 may take over."""
    folder = registries.filled(tmp_path, 1)
    (folder / "policy.toml").write_text('[release]\nunchecked_aliases = ["production"]\n[rollout]\nsteps = [0.2]')
    with Registry.open(str(folder)) as registry:
        registry.push(write_package(tmp_path / "second", 2))
    return folder


@pytest.fixture
def penstock(place):
    def run(*arguments, json_too=False):
        extra = ["--json", "-"] if json_too else []
        variables = {"PENSTOCK_REGISTRY": str(place), "PENSTOCK_WHO": "ada", "COLUMNS": "500"}
        result = CliRunner().invoke(group, ["rollout", *map(str, arguments), *extra], env=variables)
        if result.exception is not None:
            raise result.exception
        return json.loads(result.stdout) if json_too else result.stdout

    return run


def test_a_rollout_is_started_watched_paused_resumed_and_aborted(penstock, place):
    begun = penstock("start", "affine/2", "--to", "production", "--reason", "better", json_too=True)
    assert begun["steps"] == ["shadow", "canary 0.2"]
    assert begun["head"].startswith("sha256:")
    assert "affine/2 for affine@production, instead of affine/1: paused" in penstock("pause", "affine@production")
    assert penstock("status", json_too=True)[0]["state"] == "paused"
    assert "running, step 1 of 2: shadow" in penstock("resume", "affine@production")
    assert penstock("abort", "affine@production", "--reason", "no", json_too=True)["is_over"]
    (only,) = penstock("status", "affine", json_too=True)
    assert (only["state"], only["why"], only["seen"]) == ("aborted", "no", {})
    penstock("start", "affine/2", "--to", "production")
    assert [each["state"] for each in penstock("status", "--all", json_too=True)] == ["aborted", "running"]
    assert [each["state"] for each in penstock("status", json_too=True)] == ["running"]


def test_each_verb_tells_the_head_of_the_record_that_it_wrote(penstock, place, monkeypatch):
    real = Rollouts._after

    def overtaken(self, alias, record):
        found = real(self, alias, record)
        with Registry.open(str(place), who="another") as registry:
            registry.record("note", "affine", {"text": "a moment later"})
        return found

    monkeypatch.setattr(Rollouts, "_after", overtaken)
    for verb in (("start", "affine/2", "--to", "production"), ("pause", "affine@production")):
        told = penstock(*verb, json_too=True)
        with Registry.open(str(place)) as registry:
            (record,) = [each for each in registry.history() if each.digest == told["head"]]
        assert (record.position, record.facts["event"]) == (told["record"], verb[0])


def test_the_status_sums_up_what_all_servers_saw_of_the_step(penstock, place):
    assert penstock("status").strip() == "no rollouts"
    penstock("start", "affine/2", "--to", "production")
    with Registry.open(str(place)) as registry:
        seen = Sightings(place, Rollouts(registry).current(PRODUCTION))
    block = Block(Arm(10, 2, {"p50": 900.0}), Arm(12, 1, {"p50": 950.0}))
    seen.add("one", [Sighting(block), Sighting(block)])
    seen.add("two", [Sighting(block, differing=3)])
    (status,) = penstock("status", json_too=True)
    assert status["seen"] == {
        "blocks": 3, "canary": {"requests": 30, "errors": 6}, "control": {"requests": 36, "errors": 3}, "differing": 3,
    }  # fmt: skip
    assert "30 requests, 6 failed" in penstock("status")


def test_a_status_that_cannot_be_read_is_one_line(penstock, place):
    penstock("start", "affine/2", "--to", "production")
    with Registry.open(str(place)) as registry:
        seen = Sightings(place, Rollouts(registry).current(PRODUCTION))
    seen.add("one", [])
    (path,) = seen.folder.iterdir()
    path.unlink()
    path.mkdir()
    with pytest.raises(RegistryAway, match="cannot be used: Is a directory"):
        penstock("status")


def test_the_status_of_one_alias_is_shown_alone(penstock):
    penstock("start", "affine/2", "--to", "production")
    assert [each["alias"] for each in penstock("status", "affine@production", json_too=True)] == ["production"]
    assert penstock("status", "affine@staging", json_too=True) == []
    with pytest.raises(RegistryError, match="'affine/2' cannot be a model's name"):
        penstock("status", "affine/2")


def test_the_policy_of_a_file_counts_for_this_rollout_alone(penstock, tmp_path):
    (tmp_path / "quick.toml").write_text("[rollout]\nsteps = [0.3, 0.4]\nshadow_requests_per_s = 0")
    arguments = ("start", "affine/2", "--to", "production", "--policy", tmp_path / "quick.toml")
    assert penstock(*arguments, json_too=True)["steps"] == ["canary 0.3", "canary 0.4"]


def test_mistakes_are_one_line(penstock, tmp_path):
    (tmp_path / "bad.toml").write_text("[rollout]\nsteps = [0.7]")
    with pytest.raises(ConfigError, match=r"bad\.toml: \[rollout\] steps"):
        penstock("start", "affine/2", "--to", "production", "--policy", tmp_path / "bad.toml")
    with pytest.raises(RegistryError, match="no package affine/9"):
        penstock("start", "affine/9", "--to", "production")
    with pytest.raises(RegistryError, match="no record is about a model 'afine'; did you mean 'affine'"):
        penstock("status", "afine")
    with pytest.raises(RegistryError, match="affine@production has no rollout"):
        penstock("abort", "affine@production")
