"""A run of a pipeline that is killed at any line leaves nothing half done, and the next run goes on where it was."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
IN_THE_END = {
    "promotion": {
        "packages": 1, "aliases": {"affine@production": 1}, "rollouts": [], "evidence": [], "findings": [],
        "killed": False,
    },
    "rollout": {
        "packages": 2, "aliases": {"affine@production": 1}, "rollouts": ["affine/2 running"],
        "evidence": ["data", "train"], "findings": [], "killed": False,
    },
}  # fmt: skip


def deaths(kind: str, step: int, folder: Path) -> list[dict]:
    program = [sys.executable, "-m", "tests.faults.killed_pipeline", kind, str(step), str(folder)]
    result = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def check(kind: str, found: list[dict]) -> None:
    in_the_end = IN_THE_END[kind]
    for death in found:
        after = death["after"]
        assert after["findings"] == [], f"the ledger is damaged after line {death['line']}"
        assert death["in_the_end"] == in_the_end, f"the next run does not end it after line {death['line']}"
        assert death["resumes"] == after["killed"]
        if (after["aliases"], after["rollouts"]) == (in_the_end["aliases"], in_the_end["rollouts"]):
            assert (death["again"], death["steps"]["convert"]) == ("unchanged", "kept")
        if after["packages"] == in_the_end["packages"]:
            assert death["steps"]["convert"] == "kept", f"work was lost after line {death['line']}"
            assert after["evidence"] == in_the_end["evidence"], "a package is pushed when its evidence is there"
    kept = [death["steps"]["convert"] == "kept" for death in found]
    assert kept == sorted(kept), "once a step has ended it is never run again"
    assert {True, False} == set(kept)
    assert any(death["resumes"] for death in found)
    assert not found[-1]["after"]["killed"]


@pytest.mark.parametrize(("kind", "step"), [("promotion", 47), ("rollout", 131)])
def test_a_killed_run_is_taken_up_where_it_was(kind, step, tmp_path):
    check(kind, deaths(kind, step, tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("kind", IN_THE_END)
def test_a_run_that_is_killed_at_any_line_is_taken_up_where_it_was(kind, tmp_path):
    check(kind, deaths(kind, 1, tmp_path))
