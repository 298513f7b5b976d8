"""Killed at any line of push, promote, rollback, a rollout's end or a swap, a process leaves nothing half done."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

BEFORE = {"sequences": [1, 2], "production": 2, "records": 4, "findings": [], "cached": []}
SWAPPING = {**BEFORE, "records": 6, "cached": [1]}
AFTER = {
    "push": {**BEFORE, "sequences": [1, 2, 3], "records": 5},
    "promote": {**BEFORE, "production": 1, "records": 5},
    "rollback": {**BEFORE, "production": 1, "records": 5},
    "take_over": {**BEFORE, "production": 1, "records": 6},
    "swap": {**SWAPPING, "cached": [2, 1]},
}
FIRST = {"swap": SWAPPING, "take_over": {**BEFORE, "records": 5}}


def deaths(verb: str, step: int, folder: Path) -> list[dict]:
    program = [sys.executable, "-m", "tests.faults.killed_registry", verb, str(step), str(folder)]
    result = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def check(verb: str, found: list[dict]) -> None:
    before = FIRST.get(verb, BEFORE)
    for death in found:
        assert death["after"] in (before, AFTER[verb]), f"half of a {verb} is visible after line {death['line']}"
        assert death["in_the_end"] == AFTER[verb], f"a {verb} cannot be repeated after line {death['line']}"
    assert [death["after"] for death in found].count(before) > 1
    assert found[-1]["after"] == AFTER[verb]


@pytest.mark.parametrize(
    ("verb", "step"), [("push", 37), ("promote", 11), ("rollback", 11), ("take_over", 11), ("swap", 17)]
)
def test_nothing_half_done_is_visible_after_a_kill(verb, step, tmp_path):
    check(verb, deaths(verb, step, tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("verb", AFTER)
def test_nothing_half_done_is_visible_after_a_kill_at_any_line(verb, tmp_path):
    found = deaths(verb, 1, tmp_path)
    assert len(found) > 50
    check(verb, found)
