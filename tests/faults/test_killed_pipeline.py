"""A run of a pipeline that is killed at any line leaves nothing half done, and the next run goes on where it was."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
IN_THE_END = {"packages": 1, "aliases": {"affine@production": 1}, "findings": [], "killed": False}


def deaths(step: int, folder: Path) -> list[dict]:
    program = [sys.executable, "-m", "tests.faults.killed_pipeline", str(step), str(folder)]
    result = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def check(found: list[dict]) -> None:
    for death in found:
        assert death["after"]["findings"] == [], f"the ledger is damaged after line {death['line']}"
        assert death["in_the_end"] == IN_THE_END, f"the next run does not end it after line {death['line']}"
        assert death["resumes"] == death["after"]["killed"]
        if death["after"]["aliases"]:
            assert (death["again"], death["steps"]["convert"]) == ("unchanged", "kept")
        if death["after"]["packages"]:
            assert death["steps"]["convert"] == "kept", f"work was lost after line {death['line']}"
    kept = [death["steps"]["convert"] == "kept" for death in found]
    assert kept == sorted(kept), "once a step has ended it is never run again"
    assert {True, False} == set(kept)
    assert any(death["resumes"] for death in found)
    assert not found[-1]["after"]["killed"]


def test_a_killed_run_is_taken_up_where_it_was(tmp_path):
    check(deaths(47, tmp_path))


@pytest.mark.slow
def test_a_run_that_is_killed_at_any_line_is_taken_up_where_it_was(tmp_path):
    check(deaths(1, tmp_path))
