"""Steps run when something they depend on has changed, and only then; each run is told in the ledger."""

import shutil

import pytest

from serving.errors import ConfigError
from serving.registry.names import Alias
from serving.release.pipeline.journal import Trigger
from serving.release.rollouts import Rollouts
from tests.support import trials
from tests.support.registries import OPEN, version
from tests.support.release_pipelines import open_registry, release, run, runs_of, steps, two_steps

PRODUCTION = Alias("affine", "production")


def both(folder):
    return runs_of(folder, "shouted"), runs_of(folder, "joined")


def output(folder, step, name):
    (result,) = (folder / "work" / "steps" / step).iterdir()
    return (result / "out" / name).read_text()


# ---- what is run again -----------------------------------------------------------------------------------------------


def test_outputs_go_from_step_to_step(tmp_path):
    finished = run(two_steps(tmp_path))
    assert output(tmp_path, "join", "a/joined.txt") == "HELLO\nx\n"
    assert (steps(finished), finished.outcome.word) == ({"shout": "ran", "join": "ran"}, "made")


def test_nothing_is_run_again_while_nothing_has_changed(tmp_path):
    file = two_steps(tmp_path)
    run(file)
    assert steps(run(file)) == {"shout": "kept", "join": "kept"}
    assert both(tmp_path) == (1, 1)


def test_a_parameter_runs_the_steps_that_name_it(tmp_path):
    file = two_steps(tmp_path)
    run(file)
    assert steps(run(file, word="y")) == {"shout": "kept", "join": "ran"}
    assert steps(run(file)) == {"shout": "kept", "join": "kept"}, "what was made before is still there"


def test_a_file_runs_the_steps_that_read_it_and_those_behind(tmp_path):
    file = two_steps(tmp_path)
    run(file)
    (tmp_path / "words.txt").write_text("bye\n")
    assert steps(run(file)) == {"shout": "ran", "join": "ran"}


def test_a_step_behind_one_that_made_the_same_again_is_kept(tmp_path):
    file = two_steps(tmp_path)
    run(file)
    (tmp_path / "words.txt").write_text("HELLO\n")
    assert steps(run(file)) == {"shout": "ran", "join": "kept"}


def test_a_command_that_changed_runs_again(tmp_path):
    file = two_steps(tmp_path)
    run(file)
    file.write_text(file.read_text().replace("tr a-z A-Z", "tr a-y A-Y"))
    assert steps(run(file))["shout"] == "ran"


def test_a_file_that_only_files_names_counts_too(tmp_path):
    file = two_steps(tmp_path)
    (tmp_path / "lock.txt").write_text("1")
    file.write_text(file.read_text().replace("[steps.join]", '[steps.join]\nfiles = ["lock.txt"]'))
    run(file)
    (tmp_path / "lock.txt").write_text("2")
    assert steps(run(file)) == {"shout": "kept", "join": "ran"}


def test_a_step_that_reads_what_is_no_file_runs_every_time(tmp_path):
    file = two_steps(tmp_path)
    file.write_text(file.read_text().replace("[steps.shout]", "[steps.shout]\nalways = true"))
    run(file)
    assert steps(run(file)) == {"shout": "ran", "join": "kept"}


def test_a_text_that_looks_like_a_value_is_another_command(tmp_path):
    file = two_steps(tmp_path)
    run(file)
    file.write_text(file.read_text().replace('"{parameter:word}"', '"x"'))
    assert steps(run(file)) == {"shout": "kept", "join": "ran"}


# ---- what goes wrong -------------------------------------------------------------------------------------------------


def failing(folder, script, more=""):
    file = folder / "pipeline.toml"
    file.write_text(f'model = "affine"\n[steps.bad]\ncommand = ["sh", "-c", "{script}", "{{out:x}}"]\n{more}')
    return file


@pytest.mark.parametrize(
    ("script", "more", "message"),
    [
        ("echo because; exit 3", "", "step 'bad': failed with status 3 after .* s: because; its output is in"),
        ("kill -9 $$", "", "failed with signal 9"),
        ("true", "", r"did not make \{out:x\}"),
        ("sleep 60", "timeout_s = 0.2", "ended after timeout_s = 0.2"),
    ],
)
def test_a_step_that_fails_is_told_with_what_it_said_last(tmp_path, script, more, message):
    file = failing(tmp_path, script, more)
    with pytest.raises(ConfigError, match=message):
        run(file)
    with open_registry(tmp_path) as registry:
        _, step, end = registry.history()
    assert (step.facts["outcome"], end.facts["outcome"]) == ("failed", "failed")
    assert step.facts["explanation"] in end.facts["explanation"]
    assert (tmp_path / "work" / "failed" / "bad.log").exists()
    assert not list((tmp_path / "work" / "drafts").iterdir())


def test_after_a_failure_a_run_goes_on_behind_the_last_step_that_ended(tmp_path):
    file = two_steps(tmp_path)
    good = file.read_text()
    file.write_text(good.replace(r"cat \"$1\"", "false; exit 1"))
    with pytest.raises(ConfigError, match="step 'join'"):
        run(file)
    file.write_text(good)
    assert steps(run(file)) == {"shout": "kept", "join": "ran"}


def test_a_file_that_is_written_meanwhile_is_not_taken_for_what_it_was(tmp_path):
    file = two_steps(tmp_path)
    file.write_text(file.read_text().replace("tr a-z", f"echo more >> {tmp_path}/words.txt; tr a-z"))
    with pytest.raises(ConfigError, match=r"words\.txt was written while it ran"):
        run(file)


def test_a_missing_file_is_named(tmp_path):
    file = two_steps(tmp_path)
    (tmp_path / "words.txt").unlink()
    with pytest.raises(ConfigError, match=r"step 'shout': .*words\.txt cannot be read"):
        run(file)


# ---- what becomes of the package -------------------------------------------------------------------------------------


def test_the_first_package_is_pushed_checked_and_promoted(tmp_path):
    finished = run(release(tmp_path, by="rollout"))
    assert steps(finished) == {"convert": "ran", "push": "ran", "check": "ran", "promote": "ran"}
    assert (finished.outcome.word, str(finished.outcome.version)) == ("promoted", "affine/1")
    with open_registry(tmp_path) as registry:
        assert registry.aliases() == {PRODUCTION: 1}
        assert registry.verify().findings == ()


def test_nothing_happens_when_production_is_that_package_already(tmp_path):
    file = release(tmp_path)
    run(file)
    finished = run(file)
    assert steps(finished) == {"convert": "kept", "push": "kept"}
    assert (finished.outcome.word, finished.outcome.is_well) == ("unchanged", True)


def second(folder, scale=3.0):
    shutil.rmtree(folder / "source")
    trials.write_sound(folder / "source", scale)


def test_a_second_package_is_rolled_out_and_never_twice(tmp_path):
    file = release(tmp_path, by="rollout")
    run(file)
    second(tmp_path)
    finished = run(file)
    assert (steps(finished)["rollout"], finished.outcome.word) == ("ran", "rolling out")
    assert run(file).outcome.explanation == "the rollout of affine/2 to affine@production is running"
    with open_registry(tmp_path) as registry:
        rollouts = Rollouts(registry)
        rollouts.roll_back(rollouts.current(PRODUCTION), "errors", {})
    again = run(file).outcome
    assert (again.word, "only a person begins again" in again.explanation) == ("unchanged", True)


def test_a_package_that_lost_the_alias_does_not_come_back_by_itself(tmp_path):
    file = release(tmp_path)
    run(file)
    second(tmp_path)
    assert run(file).outcome.word == "promoted"
    with open_registry(tmp_path) as registry:
        registry.rollback(PRODUCTION)
    assert "only a person brings it back" in run(file).outcome.explanation


def test_a_person_decides_when_the_pipeline_says_so(tmp_path):
    file = release(tmp_path, by="person")
    first = run(file)
    assert first.outcome.word == "passed"
    for _ in range(2):
        again = run(file)
        assert steps(again) == {"convert": "kept", "push": "kept", "check": "kept"}
        assert {each.facts["since"] for each in again.records if each.kind == "step"} == {first.run}


def test_a_package_that_a_check_does_not_let_through_is_refused_and_not_asked_again(tmp_path):
    file = release(tmp_path)
    run(file)
    second(tmp_path)
    finished = run(file, tools=trials.tools(latency=2.0))
    assert (finished.outcome.word, finished.outcome.is_well) == ("refused", False)
    assert "latency mean: fail" in finished.outcome.explanation
    assert steps(run(file, tools=trials.tools(latency=1.0)))["check"] == "kept"


def test_a_check_is_asked_again_when_policy_rows_or_production_have_changed(tmp_path):
    file = release(tmp_path, by="person")
    run(file)
    trials.write_held_out(tmp_path / "held_out.npz", trials.HELD_OUT[:200])
    assert steps(run(file))["check"] == "ran"
    (tmp_path / "registry" / "policy.toml").write_text("[quality]\nmargin = 0.03\n")
    assert steps(run(file))["check"] == "ran"
    with open_registry(tmp_path) as registry:
        registry.push(trials.write_sound(tmp_path / "other", 5.0))
        registry.promote(version(2), "production", gate=OPEN)
    assert steps(run(file))["check"] == "ran"
    assert steps(run(file))["check"] == "kept"


def test_a_check_is_asked_again_when_production_has_come_back_to_what_it_was(tmp_path):
    file = release(tmp_path)
    with open_registry(tmp_path) as registry:
        for sequence, scale in ((1, 4.0), (2, 5.0)):
            registry.push(trials.write_sound(tmp_path / f"{sequence}", scale))
        registry.promote(version(1), "production", gate=OPEN)
    refusing = trials.tools(latency=2.0)
    assert run(file, tools=refusing).outcome.word == "refused"
    with open_registry(tmp_path) as registry:
        registry.promote(version(2), "production", gate=OPEN)
    assert run(file, tools=refusing).outcome.word == "refused"
    with open_registry(tmp_path) as registry:
        registry.rollback(PRODUCTION)
    again = run(file)
    assert (steps(again)["check"], again.outcome.word) == ("ran", "promoted")


def test_a_person_may_check_again_what_the_pipeline_was_refused(tmp_path):
    from serving.release.check import check
    from serving.release.policy import policy_for

    file = release(tmp_path)
    run(file)
    second(tmp_path)
    run(file, tools=trials.tools(latency=2.0))
    with open_registry(tmp_path) as registry:
        check(registry, version(2), PRODUCTION, policy_for(registry.folder, "affine"), tools=trials.tools(),
              held_out_file=tmp_path / "held_out.npz")  # fmt: skip
    assert run(file).outcome.word == "promoted"


def test_evidence_is_recorded_before_the_push_and_held_out_rows_are_looked_for(tmp_path):
    import numpy as np

    np.savez(tmp_path / "rows.npz", x=trials.HELD_OUT[:5], label=np.zeros(5))
    (tmp_path / "train.json").write_text('{"seeds": {"model": 1}}')
    more = 'evidence = ["train={file:train.json}"]\ntraining_rows = "{file:rows.npz}"'
    finished = run(release(tmp_path, more=more))
    with open_registry(tmp_path) as registry:
        kinds = [record.kind for record in registry.history()]
        found = {each.kind for each in registry.lineage(version(1)).before}
    assert kinds.index("data") < kinds.index("train") < kinds.index("push")
    assert found >= {"data", "train"}
    assert "5 of 300 held-out rows are among the training rows" in finished.outcome.explanation


@pytest.mark.parametrize(
    ("text", "message"), [("{", "not valid JSON"), ("[]", "holds a JSON list"), ('{"seed": 1}', "has no 'seed'")]
)
def test_evidence_that_is_none_stops_before_anything_is_pushed(tmp_path, text, message):
    (tmp_path / "train.json").write_text(text)
    file = release(tmp_path, more='evidence = ["train={file:train.json}"]')
    with pytest.raises(Exception, match=message):
        run(file)
    with open_registry(tmp_path) as registry:
        assert registry.packages() == []


# ---- the ledger ------------------------------------------------------------------------------------------------------


def test_a_run_that_cannot_write_its_workplace_has_failed_in_the_ledger_too(tmp_path):
    file = two_steps(tmp_path)
    (tmp_path / "work" / "run").mkdir(parents=True)
    with pytest.raises(ConfigError, match="run cannot be written"):
        run(file)
    with open_registry(tmp_path) as registry:
        begin, end = registry.history(kind="run")
    assert (begin.facts["event"], end.facts["event"], end.facts["outcome"]) == ("begin", "end", "failed")


def test_a_run_that_was_killed_is_named_by_the_next_one(tmp_path):
    file = two_steps(tmp_path)
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "run").write_text("41\n")
    said = []
    assert run(file, said=said).records[0].facts["resumes"] == 41
    assert "goes on where run 41 was killed" in said[0]
    assert "resumes" not in run(file).records[0].facts


def test_why_a_run_began_is_recorded(tmp_path):
    begin = run(two_steps(tmp_path), trigger=Trigger("drift", "rows have drifted", 12)).records[0]
    assert begin.facts.items() >= {"trigger": "drift", "reason": "rows have drifted", "drift": 12}.items()


def test_a_step_is_recorded_with_all_that_it_depends_on(tmp_path):
    finished = run(two_steps(tmp_path))
    shout = finished.records[1].facts
    assert shout["files"].keys() == {"words.txt"}
    assert shout["outputs"].keys() == {"loud.txt"}
    assert shout["run"] == finished.run == finished.records[0].position
