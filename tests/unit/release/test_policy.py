import pytest

from serving.errors import ConfigError
from serving.release.policy import CHECKS, Policy, policy_for


def test_nothing_is_needed_and_every_check_is_required_then(tmp_path):
    policy = policy_for(tmp_path, "fraud")
    assert policy == Policy()
    assert policy.release.required == CHECKS


def test_a_models_own_file_comes_before_that_of_all(tmp_path):
    (tmp_path / "policy.toml").write_text("[quality]\nmargin = 0.1")
    assert policy_for(tmp_path, "fraud").quality.margin == 0.1
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "fraud.toml").write_text('[release]\napprovers = ["ada"]')
    assert policy_for(tmp_path, "fraud").release.approvers == ("ada",)
    assert policy_for(tmp_path, "fraud").quality.margin == -1
    assert policy_for(tmp_path, "churn").quality.margin == 0.1


def test_any_change_of_a_demand_changes_the_digest(tmp_path):
    (tmp_path / "policy.toml").write_text("[quality]\nmargin = 0.1")
    assert policy_for(tmp_path, "fraud").digest != Policy().digest
    (tmp_path / "policy.toml").write_text("# nothing but a comment")
    assert policy_for(tmp_path, "fraud").digest == Policy().digest


def test_a_policy_that_nobody_can_look_at_is_not_taken_for_none(tmp_path):
    with pytest.raises(ConfigError, match=r"fraud\.toml cannot be read: File name too long"):
        policy_for(tmp_path / ("x" * 5000), "fraud")


@pytest.mark.parametrize(
    ("text", "message"),
    [("[quality]\nmargn = 1", "did you mean 'margin'"), ("[release]\nrequired = ['qualty']", "expected some of"),
     ("[quality]\nmetric = 'f1'", "expected one of"), ("margin = 1", "unknown key 'margin'"), ("x", "not valid TOML"),
     ("[rollout]\nblock_s = 60\nhold_s_max = 59", "hold_s_max = 59, expected at least block_s = 60")],
)  # fmt: skip
def test_a_policy_that_cannot_be_used_is_named(tmp_path, text, message):
    (tmp_path / "policy.toml").write_text(text)
    with pytest.raises(ConfigError, match=message) as found:
        policy_for(tmp_path, "fraud")
    assert str(found.value).count("policy.toml") == 1
