"""A rollout is records: begun like a promotion, moved on by whoever acts on what the ledger says at that moment."""

import dataclasses

import pytest

from serving.errors import ConfigError, RegistryDamaged, RegistryError
from serving.registry.client import Registry
from serving.registry.names import Alias
from serving.release.policy import Policy, RolloutConfig
from serving.release.rollout import ROLLOUT, State, steps_of
from serving.release.rollouts import Rollouts
from tests.support import graphs, registries
from tests.support.registries import OPEN, version, write_package

PRODUCTION = Alias("affine", "production")
CONFIG = RolloutConfig(steps=(0.1, 0.5), shadow_requests_per_s=10)


@pytest.fixture
def registry(tmp_path):
    """Three packages: 1 is production, 2 and 3 wait."""
    place = registries.filled(tmp_path, 1)
    with Registry.open(str(place), who="ada") as opened:
        for number in (2, 3):
            opened.push(write_package(tmp_path / str(number), number))
        yield opened


@pytest.fixture
def rollouts(registry):
    return Rollouts(registry)


@pytest.fixture
def running(rollouts):
    return rollouts.start(version(2), "production", config=CONFIG, gate=OPEN, reason="a better one")


def test_a_rollout_begins_with_the_shadow_and_knows_what_it_replaces(running, registry):
    assert (running.candidate, running.control, running.state) == (version(2), version(1), State.RUNNING)
    assert [str(step) for step in running.steps] == ["shadow", "canary 0.1", "canary 0.5"]
    assert (running.step, running.why, running.who) == (0, "a better one", "ada")
    assert running.control_package == registry.resolve(PRODUCTION).digest
    assert running.config == CONFIG
    assert registry.aliases() == {PRODUCTION: 1}


def test_a_rollout_goes_through_its_steps_and_ends_with_a_promotion_that_names_it(running, rollouts, registry):
    evidence = {"blocks": 7}
    for step in (1, 2):
        running = rollouts.advance(running, "good enough", evidence)
        assert (running.step, running.state) == (step, State.RUNNING)
    done = rollouts.advance(running, "good enough", evidence)
    assert done.state is State.PROMOTED
    assert registry.aliases() == {PRODUCTION: 2}
    promotion = registry.history()[-1]
    assert promotion.kind == "promote"
    assert promotion.facts["rollout"] == running.position
    assert promotion.facts["evidence"] == evidence
    assert registry.verify().findings == ()


def test_a_rollback_is_a_record_and_the_alias_has_never_moved(running, rollouts, registry):
    moves = len(registry.moves(PRODUCTION))
    ended = rollouts.roll_back(running, "errors got worse", {"against": {"errors": 1e9}})
    assert (ended.state, ended.why) == (State.ROLLED_BACK, "errors got worse")
    assert len(registry.moves(PRODUCTION)) == moves
    assert registry.history()[-1].facts["evidence"] == {"against": {"errors": 1e9}}


def test_two_who_act_at_once_cannot_both_take_the_same_step(running, rollouts):
    rollouts.advance(running, "good enough", {})
    with pytest.raises(RegistryError, match="has moved on meanwhile"):
        rollouts.advance(running, "good enough", {})
    with pytest.raises(RegistryError, match="has moved on meanwhile"):
        rollouts.roll_back(running, "too late", {})


def test_people_pause_resume_and_abort(running, rollouts):
    assert rollouts.pause(PRODUCTION, reason="look at it").state is State.PAUSED
    with pytest.raises(RegistryError, match="is paused, expected running"):
        rollouts.pause(PRODUCTION)
    with pytest.raises(RegistryError, match="has moved on"):
        rollouts.advance(running, "good enough", {})
    resumed = rollouts.resume(PRODUCTION)
    assert (resumed.state, resumed.step) == (State.RUNNING, 0)
    assert rollouts.abort(PRODUCTION, reason="never mind").state is State.ABORTED
    with pytest.raises(RegistryError, match="is aborted, expected"):
        rollouts.abort(PRODUCTION)


def test_what_was_seen_before_a_pause_decides_nothing_behind_it(running, rollouts):
    rollouts.pause(PRODUCTION)
    resumed = rollouts.resume(PRODUCTION)
    with pytest.raises(RegistryError, match="has moved on meanwhile"):
        rollouts.advance(running, "good enough", {})
    assert rollouts.advance(resumed, "good enough", {}).step == 1


def test_a_rollout_names_the_last_record_that_is_about_it(running, rollouts, registry):
    assert running.last == running.position == registry.history()[-1].position
    registry.record("note", "affine", {"text": "of something else"})
    assert rollouts.current(PRODUCTION).last == running.position
    paused = rollouts.pause(PRODUCTION)
    assert paused.last == registry.history()[-1].position
    moved = registry.promote(version(3), "production", gate=OPEN)
    assert rollouts.current(PRODUCTION).last == moved.position


def test_a_step_that_would_end_before_its_first_comparison_is_refused(rollouts, registry):
    config = dataclasses.replace(CONFIG, block_s=100, hold_s_max=10)
    with pytest.raises(ConfigError, match="hold_s_max = 10, expected at least block_s = 100"):
        rollouts.start(version(2), "production", config=config, gate=OPEN)
    assert registry.history(kind=ROLLOUT) == []


def test_a_ledger_that_holds_such_a_rollout_stays_readable(running, rollouts, registry, monkeypatch):
    monkeypatch.setattr(Policy, "__post_init__", lambda _: None)
    rollouts.abort(PRODUCTION)
    rollouts.start(version(2), "production", config=dataclasses.replace(CONFIG, hold_s_max=1), gate=OPEN)
    monkeypatch.undo()
    assert rollouts.current(PRODUCTION).config.hold_s_max == 1


def test_a_person_who_moves_the_alias_ends_the_rollout(running, rollouts, registry):
    record = registry.promote(version(3), "production", gate=OPEN)
    ended = rollouts.current(PRODUCTION)
    assert ended.state is State.SUPERSEDED
    assert f"record {record.position}" in ended.why
    with pytest.raises(RegistryError, match="moved on"):
        rollouts.advance(running, "good enough", {})


def test_another_alias_may_move_meanwhile(running, rollouts, registry):
    registry.promote(version(3), "staging", gate=OPEN)
    assert rollouts.current(PRODUCTION).state is State.RUNNING


def test_one_rollout_of_an_alias_at_a_time(running, rollouts):
    with pytest.raises(RegistryError, match=r"affine/2 is being rolled out .* abort that first"):
        rollouts.start(version(3), "production", gate=OPEN)
    rollouts.abort(PRODUCTION)
    assert rollouts.start(version(3), "production", gate=OPEN).candidate == version(3)
    assert [each.state for each in rollouts.listed("affine")] == [State.ABORTED, State.RUNNING]


def test_a_rollout_needs_a_check_as_a_promotion_does(rollouts, registry):
    with pytest.raises(RegistryError, match="affine/2 has not been checked"):
        rollouts.start(version(2), "production")
    assert registry.history(kind=ROLLOUT) == []


def test_the_promotion_at_the_end_needs_it_still_and_is_made_for_who_began(rollouts, registry, tmp_path):
    (registry.folder / "policy.toml").write_text('[release]\nunchecked_aliases = ["production"]\napprovers = ["ada"]')
    running = rollouts.start(version(2), "production", config=RolloutConfig(steps=(0.5,), shadow_requests_per_s=0))
    with Registry.open(str(registry.folder), who="server") as other:
        (registry.folder / "policy.toml").write_text('[release]\napprovers = ["ada"]')
        with pytest.raises(RegistryError, match="not been checked"):
            Rollouts(other).advance(running, "good enough", {})
        (registry.folder / "policy.toml").write_text(
            '[release]\nunchecked_aliases = ["production"]\napprovers = ["ada"]'
        )
        with pytest.raises(RegistryError, match="server may not release"):
            Rollouts(other).abort(PRODUCTION)
        assert Rollouts(other).advance(running, "good enough", {}).state is State.PROMOTED


def test_what_has_nothing_to_compare_with_is_refused(rollouts, registry, tmp_path):
    with pytest.raises(RegistryError, match="names nothing yet"):
        rollouts.start(version(2), "staging", gate=OPEN)
    with pytest.raises(RegistryError, match="names affine/1 already"):
        rollouts.start(version(1), "production", gate=OPEN)
    with pytest.raises(RegistryError, match="no rollout"):
        rollouts.pause(PRODUCTION)


def test_a_package_of_another_signature_cannot_answer_in_anothers_place(rollouts, registry, tmp_path):
    signature = dataclasses.replace(registry.package(version(1)).signature, batchable=False)
    registry.push(write_package(tmp_path / "other", 9, model=graphs.affine(scale=9.0), signature=signature))
    with pytest.raises(RegistryError, match="another signature than affine/1"):
        rollouts.start(version(4), "production", gate=OPEN)


@pytest.mark.parametrize(
    "facts",
    [
        {"event": "dance", "rollout": 5},
        {"event": "step", "rollout": 99, "step": 1},
        {"event": "start", "alias": "production", "sequence": 2, "control": 7},
        {},
    ],
    ids=["another event", "no such rollout", "half a start", "nothing"],
)
def test_a_record_that_cannot_be_read_is_named(running, rollouts, registry, facts):
    assert running.position == 5
    record = registry.append(ROLLOUT, "affine", facts)
    with pytest.raises(RegistryDamaged, match=f"record {record.position}, rollout, cannot be read"):
        rollouts.current(PRODUCTION)


@pytest.mark.parametrize("steps", [(), (0.0,), (0.6,), (0.2, 0.1), (0.1, 0.1), (float("nan"),), (0.001,) * 21])
def test_steps_that_leave_no_control_of_equal_weight_are_refused(steps):
    with pytest.raises(ConfigError, match=r"\[rollout\] steps"):
        RolloutConfig(steps=steps)


def test_a_margin_below_the_tolerance_can_never_be_shown():
    with pytest.raises(ConfigError, match="latency_margin"):
        RolloutConfig(latency_margin=0.05)


def test_how_to_roll_out_demands_nothing_of_a_package():
    assert Policy(rollout=CONFIG).digest == Policy().digest


def test_without_a_shadow_the_canary_comes_first():
    assert not steps_of(RolloutConfig(shadow_requests_per_s=0))[0].is_shadow
